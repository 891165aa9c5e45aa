"""Lanes whose rate limit lets nothing through, and when to look at each again."""  # G10

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping

from mail_proxy.delivery.lane import Lane
from mail_proxy.ports.clock import Clock

LONGEST = 30.0
"""Seconds after which a limit is looked at again in any case: it may have been raised meanwhile."""


class ShutLanes:
    """One heap instead of a sleeping task for each account."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: list[tuple[float, int]] = []

    def shut(self, lane: Lane, seconds: float) -> None:
        """Claim nothing for a lane for so many seconds."""
        lane.shut_until = self._clock.monotonic() + min(seconds, LONGEST)
        heapq.heappush(self._until, (lane.shut_until, lane.account.pk))

    def pause(self, longest: float) -> float:
        """Return how long to sleep so as not to miss the next one that opens."""
        if not self._until:
            return longest
        return min(longest, max(self._until[0][0] - self._clock.monotonic(), 0.0))

    def due(self, lanes: Mapping[int, Lane]) -> Iterable[int]:
        """Open those whose time has come; return their accounts."""
        opened = []
        while self._until and self._until[0][0] <= self._clock.monotonic():
            until, account_pk = heapq.heappop(self._until)
            lane = lanes.get(account_pk)
            if lane is not None and lane.shut_until == until:  # else it was opened, or shut once more
                lane.shut_until = None
                opened.append(account_pk)
        return opened

    def open_all(self, lanes: Iterable[Lane]) -> None:
        """Forget what limits have said."""
        for lane in lanes:
            lane.shut_until = None
        self._until.clear()
