"""Which failures are worth a line in the log: when they begin, now and then while they last, and when they are over."""

from __future__ import annotations

WHILE_IT_LASTS = 3600.0
"""Seconds between two lines about one trouble. A thousand dead endpoints make a line every four seconds."""  # G11
BETWEEN = 60.0
"""Seconds between two lines at least, where one trouble follows another."""


class Complaints:
    """Remembers one kind of trouble. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._told = False
        self._told_at: float | None = None

    def worth_a_line(self, now: float) -> bool:
        """Take note of a failure; True if it is to be told."""
        if self._since is None:
            self._since, self._told = now, False
        wait = WHILE_IT_LASTS if self._told else BETWEEN
        if self._told_at is not None and now - self._told_at < wait:
            return False
        self._told, self._told_at = True, now
        return True

    def over(self, now: float) -> float | None:
        """Take note that it goes well; return how long the trouble lasted if it was told of, else None."""
        since, self._since = self._since, None
        return now - since if since is not None and self._told else None
