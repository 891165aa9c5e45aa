"""How soon a worker that ended is started anew."""

from __future__ import annotations

from mail_proxy.cli.workers import LONGEST_PAUSE, pause_before


def test_the_first_end_is_answered_at_once_and_those_that_follow_soon_with_growing_pauses() -> None:
    pauses = [pause_before(quick_ends) for quick_ends in range(1, 10)]
    assert pauses[:4] == [0.0, 1.0, 2.0, 4.0]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE
