"""Which tenant is due when: one heap instead of a sleeping task for each."""

from __future__ import annotations

import heapq
import math

_SLACK = 64


class Timetable:
    """Holds one time for each key. Cheap to change often: what was replaced is dropped when its time comes."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def put(self, key: str, due: float | None) -> None:
        """Set the key's time, whatever it was before; None takes the key out."""
        if due is None:
            self._due.pop(key, None)
        elif self._due.get(key) != due:
            self._due[key] = due
            heapq.heappush(self._heap, (due, key))
            if len(self._heap) > 2 * len(self._due) + _SLACK:  # what was replaced must not pile up
                self._heap = [(time, name) for name, time in self._due.items()]
                heapq.heapify(self._heap)

    def next_due(self) -> float:
        """Return the earliest time; infinity if there is none."""
        while self._heap:
            due, key = self._heap[0]
            if self._due.get(key) == due:
                return due
            heapq.heappop(self._heap)
        return math.inf

    def take(self, now: float) -> list[str]:
        """Take out and return the keys whose time has come, the earliest first."""
        keys = []
        while self.next_due() <= now:
            _, key = heapq.heappop(self._heap)
            del self._due[key]
            keys.append(key)
        return keys
