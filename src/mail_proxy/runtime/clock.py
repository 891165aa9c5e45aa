"""The time that an instance goes by: the machine's own, or that of the database which it shares with others."""  # G14

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.ports.clock import Clock

ASK_EVERY = 5.0


class SystemClock(Clock):
    """Keeps the `Clock` port with the clocks of the machine."""

    def now(self) -> float:
        """Return Unix seconds by the wall clock, which may jump."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds that only grow."""  # G14
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds, at once for zero or less."""
        await asyncio.sleep(max(0.0, seconds))


class DatabaseClock(Clock):
    """The time of a database, carried on between two readings by this machine's monotonic clock.

    All instances on that database agree on it, whatever their own wall clocks say, or do.
    """  # G14

    def __init__(self, machine: Clock) -> None:
        """`machine`: what is asked until the first reading."""
        self._machine = machine
        self._ahead = machine.now() - machine.monotonic()

    def now(self) -> float:
        """Return Unix seconds as the database counts them."""
        return self._machine.monotonic() + self._ahead

    def monotonic(self) -> float:
        """Return seconds that only grow."""
        return self._machine.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds."""
        await self._machine.sleep(seconds)

    async def ask(self, database_time: Callable[[], Awaitable[float]]) -> None:
        """Read the database's time. What agrees with it within the time that the answer took is left as it is."""
        asked = self.monotonic()
        reading = await database_time()
        answered = self.monotonic()
        self._ahead = min(max(self._ahead, reading - answered), reading - asked)

    async def keep_asking(self, database_time: Callable[[], Awaitable[float]]) -> None:
        """Ask every few seconds, until cancelled; while the database is away, time goes on all the same."""
        while True:
            await self.sleep(ASK_EVERY)
            with suppress(StoreUnavailable):
                await self.ask(database_time)
