"""The model of `bench/simulate.py` against what queueing theory says."""

from __future__ import annotations

import random
import statistics

import pytest

from bench.simulate import MINUTE, OVERHEAD, Model, arrivals, delays


@pytest.mark.parametrize("busy", [0.3, 0.6, 0.8])
def test_one_session_waits_as_long_as_the_formula_says(busy: float) -> None:
    seconds = 0.1
    moments = arrivals(busy / seconds, 60_000, random.Random(3))
    mean = statistics.fmean(delays(Model(1, seconds, work=0.0), moments)) - OVERHEAD
    # Pollaczek and Khinchine, for service that always takes the same time (M/D/1)
    assert mean == pytest.approx(seconds * (1 + busy / (2 * (1 - busy))), rel=0.05)


def test_with_many_sessions_the_process_is_what_messages_wait_for() -> None:
    moments = [0.0] * 1000
    found = delays(Model(1000, 0.05, work=0.001), moments)
    assert found[-1] == pytest.approx(0.999 + 0.05 + OVERHEAD)


def test_a_rate_limit_lets_so_many_begin_in_any_minute() -> None:
    model = Model(4, 0.1, per_minute=30)
    ends = delays(model, [0.0] * 100)
    for n in range(100):
        minute = n // 30
        assert minute * MINUTE <= ends[n] < minute * MINUTE + 2
