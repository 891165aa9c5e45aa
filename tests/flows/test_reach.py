"""How many messages are taken up at a time."""

from __future__ import annotations

from mail_proxy.delivery.reach import LEAST_A_SESSION, Reach

SESSIONS, MOST = 4, 100


def after(reach: Reach, *lasted: float, full: bool = True) -> int:
    """Make claims whose halves last so long; return how many the next one asks for."""
    now = 0.0
    for seconds in lasted:
        reach.took(now, all_=full)
        now += seconds
        reach.half_gone(now, SESSIONS, MOST)
    return reach.ahead(SESSIONS, MOST)


def test_it_begins_with_what_its_sessions_have_next() -> None:
    assert Reach().ahead(SESSIONS, MOST) == SESSIONS * LEAST_A_SESSION
    assert Reach().ahead(SESSIONS, 3) == 3


def test_a_fast_server_has_twice_as_many_each_time_until_there_are_as_many_as_are_allowed() -> None:
    assert [after(Reach(), *[0.01] * claims) for claims in (1, 2, 3, 4, 9)] == [16, 32, 64, 100, 100]


def test_a_slow_server_has_fewer_but_never_less_than_its_sessions_need() -> None:
    reach = Reach()
    after(reach, 0.01, 0.01, 0.01)
    assert [after(reach, 3.0), after(reach, 3.0), after(reach, 3.0, 3.0, 3.0)] == [32, 16, 8]


def test_in_between_it_stays_as_it_is() -> None:
    assert after(Reach(), 0.01, 0.5, 0.9) == 16


def test_a_claim_that_found_less_says_nothing_about_the_server() -> None:
    assert after(Reach(), 0.01, 0.01, full=False) == SESSIONS * LEAST_A_SESSION
