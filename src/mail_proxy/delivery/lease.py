"""Whether the others still believe that this instance lives."""  # G5, G6

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mail_proxy.ports.clock import Clock


class LeaseLost(Exception):
    """This instance was silent for a whole lease: what it had claimed may be somebody else's by now."""


class Lease:
    """This instance's own lease, held as long as its counter is raised in time, by its own monotonic clock.

    `seconds` None: there are no others, the lease never ends.
    """

    def __init__(self, clock: Clock, seconds: float | None) -> None:
        self._clock = clock
        self._seconds = seconds
        self._renewed_at = clock.monotonic()
        self._renewal = asyncio.Event()
        self.term = 0
        """Grows when the lease was lost: what was claimed in an earlier term must not be sent."""

    def renewed(self, asked_at: float, *, forgotten: bool = False) -> None:
        """Take note that the counter was raised, at some time since it was asked to be (monotonic).

        `forgotten`: the others had taken this instance off their list.
        """
        late = self._seconds is not None and self._clock.monotonic() - self._renewed_at >= self._seconds
        if late or forgotten:
            self.term += 1
        self._renewed_at = asked_at
        self._renewal.set()

    def standing(self) -> int | None:
        """Return the term while the others cannot take this instance for dead, else None."""
        if self._seconds is not None and self._clock.monotonic() - self._renewed_at >= self._seconds / 2:
            return None
        return self.term

    async def look(self, term: int) -> None:
        """Return when a final dot of something claimed in that term may go out; raises `LeaseLost` when none may.

        With half of the lease gone the dot waits for the next renewal, also after the process was stopped (SIGSTOP).
        """
        while self._seconds is not None and self._clock.monotonic() - self._renewed_at >= self._seconds / 2:
            self._renewal.clear()
            await self._renewal.wait()
        if term != self.term:
            raise LeaseLost


@dataclass(slots=True)
class _Seen:
    counter: int
    since: float


class LeaseWatch:
    """Tells which instances are dead: their counter stood still for a whole lease, by this instance's own clock.

    No clock of another machine is trusted, and time in which the database could not be read does not count.
    """  # G6, G14

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self._seen: dict[str, _Seen] = {}

    def look(self, counters: Mapping[str, int], now: float) -> Sequence[str]:
        """Compare with what was seen before, at a monotonic time; return the dead."""
        for instance, counter in counters.items():
            seen = self._seen.get(instance)
            if seen is None or seen.counter != counter:
                self._seen[instance] = _Seen(counter, now)
        for instance in self._seen.keys() - counters.keys():
            del self._seen[instance]
        return [instance for instance, seen in self._seen.items() if now - seen.since >= self._lease]

    def forget(self) -> None:
        """Start anew: the database was away, so nothing is known about the others."""
        self._seen.clear()
