"""When to try a server again that could not be talked to."""  # G8

from __future__ import annotations

from dataclasses import dataclass

FIRST_PAUSE = 5.0
LONGEST_PAUSE = 300.0
HOLD_PAUSE = 300.0
"""Seconds between the logins that are tried for an account on hold."""


@dataclass(frozen=True, slots=True)
class Breaker:
    """Closed while `pause` is 0; open, nothing is sent until a probe at `probe_at` (monotonic) gets through."""

    pause: float = 0.0
    probe_at: float = 0.0
    reason: str = ""
    opened_at: float = 0.0

    @property
    def open(self) -> bool:
        """True while the server is left alone."""
        return self.pause > 0.0


def failed(breaker: Breaker, reason: str, now: float) -> Breaker:
    """Open the breaker, or leave the server alone for twice as long after a probe that failed."""
    if breaker.open and now < breaker.probe_at:
        return breaker  # sessions that fail together are one failure
    pause = min(max(breaker.pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
    return Breaker(pause, now + pause, reason, breaker.opened_at if breaker.open else now)


def held(breaker: Breaker, reason: str, now: float) -> Breaker:
    """Leave the server alone until the next login is due; what was left alone before stays so since then."""
    return Breaker(HOLD_PAUSE, now + HOLD_PAUSE, reason, breaker.opened_at if breaker.open else now)


def taken_up(reason: str, age: float, now: float) -> Breaker:
    """Leave a server alone that was put on hold `age` seconds ago, elsewhere or before the start.

    Logins stay a pause apart, however often an instance starts.
    """
    age = max(age, 0.0)
    return Breaker(HOLD_PAUSE, now + HOLD_PAUSE - age % HOLD_PAUSE, reason, now - age)
