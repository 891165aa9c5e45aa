"""The machine's own time."""

from __future__ import annotations

import asyncio
import time

from mail_proxy.ports import Clock


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
