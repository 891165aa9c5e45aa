"""When a message is tried again."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mail_proxy.domain.retry import RetrySchedule, next_attempt

SCHEDULE = RetrySchedule(delays=(60.0, 300.0, 900.0), max_attempts=6, jitter=0.0)


@pytest.mark.parametrize(("attempts", "delay"), [(1, 60.0), (2, 300.0), (3, 900.0), (4, 900.0), (5, 900.0)])
def test_delays_grow_and_the_last_one_repeats(attempts: int, delay: float) -> None:
    assert next_attempt(SCHEDULE, attempts, 1000.0, Random(1)) == 1000.0 + delay


@pytest.mark.parametrize("attempts", [6, 7, 100])
def test_there_is_no_attempt_after_the_last_one(attempts: int) -> None:
    assert next_attempt(SCHEDULE, attempts, 1000.0, Random(1)) is None


@given(st.integers(1, 5), st.integers())
def test_jitter_stays_within_its_fraction(attempts: int, seed: int) -> None:
    schedule = RetrySchedule(delays=SCHEDULE.delays, max_attempts=6, jitter=0.2)
    plain, spread = (next_attempt(each, attempts, 0.0, Random(seed)) for each in (SCHEDULE, schedule))
    assert plain is not None
    assert spread is not None
    assert 0.8 * plain <= spread <= 1.2 * plain


def test_without_delays_the_next_attempt_is_at_once() -> None:
    assert next_attempt(RetrySchedule(delays=()), 1, 1000.0, Random(1)) == 1000.0
