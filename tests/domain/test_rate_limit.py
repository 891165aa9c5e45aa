"""No sliding window ever sees more than its limit, and hardly any of it is wasted."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from mail_proxy.domain.rate_limit import SLOTS, Limits, Room, Used, WindowLimit, Windows, counts_until, room, tightest

START = 1_800_000_000.0


def simulated(limit: WindowLimit, seed: int, seconds: float, longest: float, sessions: int) -> Sequence[float]:
    """Send as much as the limit allows; return when each transaction began, each at any time while it was reserved."""
    rng = Random(seed)
    used: dict[float, int] = {}
    in_flight: list[float] = []
    sent: list[float] = []
    now = START
    while now < START + seconds:
        while in_flight and in_flight[0] <= now:
            until = counts_until(heapq.heappop(in_flight), limit.seconds)
            used[until] = used.get(until, 0) + 1
        left = room(limit, len(in_flight), [Used(*each) for each in used.items()], now)
        if left.free and len(in_flight) < sessions:
            takes = rng.uniform(0, longest)
            heapq.heappush(in_flight, now + takes)
            sent.append(now + rng.uniform(0, takes))
            continue
        later = [now + limit.seconds] if left.next_free is None else [left.next_free]
        now = max(min(later + in_flight[:1]), now + 0.001)
    return sorted(sent)


@given(
    most=st.integers(1, 30),
    seconds=st.sampled_from([1.0, 7.0, 60.0]),
    seed=st.integers(0, 2**32),
    longest=st.floats(0.0, 20.0),
    sessions=st.integers(1, 8),
)
def test_no_sliding_window_sees_more_than_its_limit(
    most: int, seconds: float, seed: int, longest: float, sessions: int
) -> None:
    sent = simulated(WindowLimit("minute", most, seconds), seed, 5 * seconds, longest * seconds / 60, sessions)
    for first, behind in zip(sent, sent[most:], strict=False):
        assert behind - first >= seconds - 1e-6


@given(most=st.integers(1, 200), seed=st.integers(0, 2**32))
def test_nine_tenths_of_an_allowed_window_are_used(most: int, seed: int) -> None:
    windows = 10
    sent = simulated(WindowLimit("minute", most, 60.0), seed, windows * 60.0, longest=0.3, sessions=4)
    assert len(sent) >= 0.9 * most * windows


def test_what_is_reserved_counts_and_what_was_settled_counts_for_a_window_more() -> None:
    limit = WindowLimit("minute", 3, 60.0)
    assert room(limit, 1, (), START) == Room(2, None)
    until = counts_until(START, 60.0)
    assert START + 60 < until <= START + 60 + 60 / SLOTS
    assert room(limit, 1, [Used(until, 2)], START + 1) == Room(0, until)
    assert room(limit, 1, [Used(until, 2)], until - 0.01) == Room(0, until)
    assert room(limit, 1, [Used(until, 2)], until) == Room(2, None)


def test_it_says_when_the_next_transaction_may_begin() -> None:
    used = [Used(START + 5, 2), Used(START + 9, 1), Used(START + 30, 4)]
    assert room(WindowLimit("hour", 7, 3600.0), 0, used, START).next_free == START + 5
    assert room(WindowLimit("hour", 5, 3600.0), 0, used, START).next_free == START + 9
    assert room(WindowLimit("hour", 4, 3600.0), 0, used, START).next_free == START + 30


def test_a_limit_wholly_in_flight_is_looked_at_again_soon() -> None:
    assert room(WindowLimit("day", 2, 86400.0), 2, (), START) == Room(0, START + 1.0)


def test_the_tightest_window_rules() -> None:
    assert tightest([]) == (Room(2**31, None), "")
    assert tightest([("a", Room(5, None)), ("b", Room(2, None))]) == (Room(2, None), "")
    shut = [("a", Room(0, 10.0)), ("b", Room(0, 30.0)), ("c", Room(9, None)), ("d", Room(0, 20.0))]
    assert tightest(shut) == (Room(0, 30.0), "b")


def test_nothing_and_nought_are_no_limits() -> None:
    assert not Limits().any
    assert not Limits(0, 0, 0).any
    assert Limits(per_day=1).any
    assert Limits(5, None, 7).by_window(Windows(1.0, 2.0, 3.0)) == [
        WindowLimit("minute", 5, 1.0),
        WindowLimit("day", 7, 3.0),
    ]
