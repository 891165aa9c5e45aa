"""How long to wait after a failure."""

from __future__ import annotations

from random import Random

FIRST = 1.0
LONGEST = 600.0
LONGEST_FOR_STORE = 10.0
"""Our own database is one, and nothing can be reported while it is away: so it is asked again soon."""
LONGEST_ASKED = 86400.0
SPREAD = 0.2


def pause_after(failures: int, rng: Random, asked: float | None = None, longest: float = LONGEST) -> float:
    """Return the seconds to wait after that many failures in a row: 1 s, doubling up to `longest`, ±20 %.

    `asked` is a `Retry-After`: the pause is never shorter than it, but a day is the longest that is believed.
    """
    # The exponent stops where the longest is reached: a power of a million failures would not be a number any more.
    own = min(longest, FIRST * 2.0 ** min(max(failures, 1) - 1, 16))
    spread = own * rng.uniform(1 - SPREAD, 1 + SPREAD)
    return spread if asked is None else max(spread, min(asked, LONGEST_ASKED))
