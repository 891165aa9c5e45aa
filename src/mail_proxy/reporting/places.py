"""Who may report now: so many at a time, and so many bytes of reports in memory, of each kind of endpoint by itself.

An endpoint shows what kind it is only when it is asked. So a report that takes long while others wait for its place
goes on in another one, and where there is none it is broken off, and begun again when there is. An endpoint that hangs
holds up those that answer for half a second, however many there are of it.
"""  # G11

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum

import anyio
from anyio.abc import TaskGroup

from mail_proxy.ports.clock import Clock
from mail_proxy.reporting.settings import ReportingSettings

PROMPT = 0.5
"""Seconds in which an endpoint answers that is not slow; after that a report may be broken off."""
_PATIENCE = 0.2
"""Seconds after which a report goes on in another place, where others wait for its own: that does it no harm."""


class Kind(Enum):
    """What is to be expected of an endpoint."""

    PROMPT = "prompt"
    SLOW = "slow"
    """It answers, but takes its time."""
    DOUBTFUL = "doubtful"
    """It failed the last time, or nobody knows whether it will answer at all."""


@dataclass(eq=False, slots=True)
class Place:
    """The place of one tenant's sync."""

    kind: Kind
    size: int
    """Bytes that its report may take; once there is one, that it takes."""
    began: float | None = None
    """When its report went out (monotonic); None while there is none on its way."""
    scope: anyio.CancelScope | None = None
    """What ends with the report where it is broken off."""
    broken_off: bool = False


@dataclass(slots=True)
class _Room:
    """The places of one kind."""

    places: int
    size: int
    inside: dict[Place, None] = field(default_factory=dict)
    waiting: deque[tuple[Place, anyio.Event]] = field(default_factory=deque)

    def fits(self, size: int) -> bool:
        """True if there is a place and room for so many bytes; more than there is in all fits where there is nobody."""
        in_hand = sum(place.size for place in self.inside)
        return len(self.inside) < self.places and (in_hand + size <= self.size or not in_hand)

    def let_in(self) -> None:
        """Give what is free to those who wait, in order."""
        while self.waiting and self.fits(self.waiting[0][0].size):
            place, ready = self.waiting.popleft()
            self.inside[place] = None
            ready.set()


class Places:
    """Gives places, each kind's in the order in which they were asked for."""

    def __init__(self, settings: ReportingSettings, clock: Clock, tasks: TaskGroup) -> None:
        self._clock = clock
        self._tasks = tasks
        self._making_way = False
        self._rooms: Mapping[Kind, _Room] = {
            kind: _Room(
                settings.parallel if kind is Kind.PROMPT else settings.parallel_slow, settings.max_bytes_at_once
            )
            for kind in Kind
        }

    @asynccontextmanager
    async def taken(self, kind: Kind, size: int) -> AsyncIterator[Place]:
        """Have a place, with room for so many bytes, for the length of the block."""
        place = Place(kind, size)
        await self._enter(place)
        try:
            yield place
        finally:
            self._leave(place)

    async def again(self, place: Place, size: int) -> None:
        """Have it for one report more, after those who have waited for theirs."""
        self._leave(place)
        place.size = size
        await self._enter(place)

    def filled(self, place: Place, size: int) -> None:
        """Give back what a report does not need of the room that was taken for it."""
        place.size = size
        self._rooms[place.kind].let_in()

    async def _enter(self, place: Place) -> None:
        room = self._rooms[place.kind]
        if not room.waiting and room.fits(place.size):
            room.inside[place] = None
            return
        ready = anyio.Event()
        room.waiting.append((place, ready))
        if place.kind is Kind.PROMPT and not self._making_way:
            self._making_way = True
            self._tasks.start_soon(self._make_way, room, name="reports make way")
        try:
            await ready.wait()
        except BaseException:
            if place in room.inside:
                self._leave(place)
            else:
                room.waiting.remove((place, ready))
                room.let_in()
            raise

    def _leave(self, place: Place) -> None:
        room = self._rooms[place.kind]
        room.inside.pop(place, None)
        room.let_in()

    async def _make_way(self, room: _Room) -> None:
        """Free the places of reports that take long, for as long as somebody waits for one."""
        try:
            while room.waiting:
                now = self._clock.monotonic()
                for place in list(room.inside):
                    if place.began is not None and place.began + _PATIENCE <= now and not place.broken_off:
                        self._move(place, late=place.began + PROMPT <= now)
                if room.waiting:
                    await self._clock.sleep(_PATIENCE / 4)
        finally:
            self._making_way = False

    def _move(self, place: Place, *, late: bool) -> None:
        elsewhere = self._rooms[Kind.DOUBTFUL]
        if not elsewhere.waiting and elsewhere.fits(place.size):
            self._leave(place)
            place.kind = Kind.DOUBTFUL
            elsewhere.inside[place] = None
        elif late and place.scope is not None:
            place.broken_off = True
            place.scope.cancel()
