"""Time, so that no test waits for it to pass."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Time and randomness, so that no test waits for time to pass."""

    def now(self) -> float:
        """Unix seconds by the wall clock: for what is written down and shown."""
        ...

    def monotonic(self) -> float:
        """Seconds that only grow: for durations."""  # G14
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds."""
        ...
