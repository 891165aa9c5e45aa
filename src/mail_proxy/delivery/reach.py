"""How many messages are taken up at a time for an account: what its server takes in about a second.

What an instance has in hand no other one can send. A hundred for a server that takes ten a second would leave the other
instances idle at the end of every queue, and a hundred to be rescued when this one dies.
"""

from __future__ import annotations

FAST = 0.25
"""Seconds in which half of what was taken up has gone out, below which twice as many are taken up."""
SLOW = 1.0
"""The same, above which half as many are."""
LEAST_A_SESSION = 2


class Reach:
    """Learns from each full claim how long its half lasts. `most` is the account's setting, `sessions` its bound."""

    __slots__ = ("_ahead", "_since")

    def __init__(self) -> None:
        self._ahead = 0
        self._since: float | None = None

    def ahead(self, sessions: int, most: int) -> int:
        """Return how many to take up at a time."""
        return min(max(self._ahead, LEAST_A_SESSION * sessions), most)

    def took(self, now: float, *, all_: bool) -> None:
        """Take note of a claim; `all_`: it found as many as it asked for, and so says something about the server."""
        self._since = now if all_ else None

    def half_gone(self, now: float, sessions: int, most: int) -> None:
        """Take note that half of what was taken up has gone out, and that more is to be asked for."""
        if self._since is None:
            return
        lasted, ahead = now - self._since, self.ahead(sessions, most)
        if lasted < FAST:
            self._ahead = min(2 * ahead, most)
        elif lasted > SLOW:
            self._ahead = ahead // 2
        self._since = None
