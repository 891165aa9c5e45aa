"""When a message is tried again."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

DEFAULT_DELAYS = (60.0, 300.0, 900.0, 3600.0, 7200.0, 14400.0)
DEFAULT_MAX_ATTEMPTS = 5
DEFAULT_MAX_AGE = 5 * 86400.0


@dataclass(frozen=True, slots=True)
class RetrySchedule:
    """Delays between attempts in seconds; the last one repeats. `max_attempts` counts the first attempt.

    `jitter` is the fraction by which a delay is spread, so that a crowd that failed together does not return together.
    `max_age` in seconds counts from the first attempt.
    """

    delays: tuple[float, ...] = DEFAULT_DELAYS
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    jitter: float = 0.2
    max_age: float = DEFAULT_MAX_AGE


def next_attempt(schedule: RetrySchedule, attempts: int, now: float, rng: Random) -> float | None:
    """Return when to try again after `attempts` attempts (Unix seconds), or None once they are used up."""
    if attempts >= schedule.max_attempts:
        return None
    delay = schedule.delays[min(max(attempts, 1), len(schedule.delays)) - 1] if schedule.delays else 0.0
    return now + delay * rng.uniform(1 - schedule.jitter, 1 + schedule.jitter)
