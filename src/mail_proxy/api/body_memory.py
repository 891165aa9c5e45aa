"""How many bytes of bodies are in memory at a time, and who has to wait for room."""  # G11

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field

from typing_extensions import Self

from mail_proxy.api.errors import TooBusy

COUNTED_FROM = 64 * 1024
"""Bytes up to which a body needs no room: the bound on connections is enough for these."""
BIG_FROM = 1_000_000
"""Bytes from which a body is a big one: big ones have a part of their own, so that small ones do not wait for them."""
PATIENCE = 10.0
"""Seconds that a request waits for room."""
MOST_WAITING = 10
"""Requests of one caller that wait for room; what comes beyond is asked to come back at once. All of them together are
no more than there are connections."""


@dataclass(slots=True)
class _Waiting:
    whose: Hashable
    size: int
    admitted: asyncio.Future[None]


@dataclass(slots=True)
class _Part:
    """Room for so many bytes. One caller has half of it at the most, or one body."""

    room: int
    used: int = 0
    by_caller: Counter[Hashable] = field(default_factory=Counter)
    waiting: list[_Waiting] = field(default_factory=list)

    async def take(self, whose: Hashable, size: int) -> None:
        """Return when there is room, which is then taken; raises `TooBusy`."""
        if not self.waiting and self._fits(whose, size):
            self._give(whose, size)
            return
        if sum(each.whose == whose for each in self.waiting) >= MOST_WAITING:
            raise _too_busy()
        mine = _Waiting(whose, size, asyncio.get_running_loop().create_future())
        self.waiting.append(mine)
        self._admit()
        try:
            await asyncio.wait([mine.admitted], timeout=PATIENCE)
        except asyncio.CancelledError:
            if mine.admitted.done():
                self.leave(whose, size)
            else:
                self._give_up(mine)
            raise
        if not mine.admitted.done():
            self._give_up(mine)
            raise _too_busy()

    def _give_up(self, mine: _Waiting) -> None:
        self.waiting.remove(mine)
        self._admit()  # those behind may have waited for this one alone

    def leave(self, whose: Hashable, size: int) -> None:
        """Give room back."""
        self.used -= size
        self.by_caller[whose] -= size
        if not self.by_caller[whose]:
            del self.by_caller[whose]
        self._admit()

    def _admit(self) -> None:
        """Let in whom there is room for, in order. Only those who have their share already are passed over."""
        for each in list(self.waiting):
            if self._has_share(each.whose, each.size):
                continue
            if not self._fits(each.whose, each.size):
                return
            self.waiting.remove(each)
            self._give(each.whose, each.size)
            each.admitted.set_result(None)

    def _has_share(self, whose: Hashable, size: int) -> bool:
        own = self.by_caller.get(whose, 0)
        return own > 0 and own + size > self.room // 2

    def _fits(self, whose: Hashable, size: int) -> bool:
        # A body larger than all of it is let in alone: whether it may be so large is a setting of its own.
        return not self._has_share(whose, size) and (self.used + size <= self.room or self.used == 0)

    def _give(self, whose: Hashable, size: int) -> None:
        self.used += size
        self.by_caller[whose] += size


class BodyMemory:
    """Room for so many bytes of bodies at a time, a fifth of it for small ones."""

    def __init__(self, size: int) -> None:
        self._small = _Part(size // 5)
        self._big = _Part(size - size // 5)
        self.parsing = asyncio.Lock()
        """Held while a big body is parsed: several at a time would only hold up everybody else."""

    def room(self, whose: Hashable) -> Room:
        """Return the room of one request, nothing so far, to be used as a context manager."""
        return Room(self, whose)

    def part(self, size: int) -> _Part:
        """Return the part that a body of this size takes its room from."""
        return self._small if size <= BIG_FROM else self._big

    @property
    def size(self) -> int:
        """The bytes that one request may have without an end that is known."""
        return self._big.room


class Room:
    """What one request has of it."""

    __slots__ = ("_memory", "_whose", "size")

    def __init__(self, memory: BodyMemory, whose: Hashable) -> None:
        self._memory = memory
        self._whose = whose
        self.size = COUNTED_FROM
        """Bytes that the body may have."""

    async def grow(self, size: int) -> None:
        """Return when there is room for so many bytes; raises `TooBusy` where there is none for long."""
        if size <= self.size:
            return
        self.leave()
        await self._memory.part(size).take(self._whose, size)
        self.size = size

    async def grow_without_end(self, limit: int | None) -> None:
        """Return when there is room for whatever may come: first for a small body, then for the largest one.

        All of it at once, as requests that have a part each would wait for each other.
        """
        largest = self._memory.size if limit is None else limit
        await self.grow(min(BIG_FROM, largest) if self.size < BIG_FROM else max(largest, self.size + 1))

    def leave(self) -> None:
        """Give back what there is."""
        if self.size > COUNTED_FROM:
            self._memory.part(self.size).leave(self._whose, self.size)
            self.size = COUNTED_FROM

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()


def _too_busy() -> TooBusy:
    return TooBusy("Too many large requests are in progress; nothing was stored, try again later.")
