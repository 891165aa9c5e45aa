"""What becomes of an id that is submitted again."""

from __future__ import annotations

import pytest

from mail_proxy.domain.message import FINAL_STATES, WAITING_STATES, Existing, MessageState, Verdict, resubmission


@pytest.mark.parametrize("state", MessageState)
@pytest.mark.parametrize("attempts", [0, 1, 3])
def test_the_same_content_is_a_duplicate_in_every_state(state: MessageState, attempts: int) -> None:
    assert resubmission(Existing("same", state, attempts), "same") == (Verdict.DUPLICATE, None)  # G3


@pytest.mark.parametrize("state", sorted(WAITING_STATES))
def test_other_content_replaces_what_was_never_attempted(state: MessageState) -> None:
    assert resubmission(Existing("one", state, 0), "other") == (Verdict.REPLACED, None)


@pytest.mark.parametrize("state", sorted(WAITING_STATES))
def test_other_content_is_refused_after_an_attempt(state: MessageState) -> None:
    assert resubmission(Existing("one", state, 1), "other") == (Verdict.REJECTED, "already_taken")


@pytest.mark.parametrize("attempts", [0, 1])
def test_other_content_is_refused_while_it_is_being_sent(attempts: int) -> None:
    existing = Existing("one", MessageState.SENDING, attempts)
    assert resubmission(existing, "other") == (Verdict.REJECTED, "already_taken")


@pytest.mark.parametrize("state", sorted(FINAL_STATES))
@pytest.mark.parametrize("attempts", [0, 1])
def test_other_content_is_refused_once_it_is_finished(state: MessageState, attempts: int) -> None:
    assert resubmission(Existing("one", state, attempts), "other") == (Verdict.REJECTED, f"already_{state.value}")
