"""Everything that holds a message is told, the decisive one first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mail_proxy.domain.account import Hold, Outage
from mail_proxy.domain.explanation import Ahead, Here, Reason, Standing, explain
from mail_proxy.domain.message import MessageState

NOW = 1_800_000_000.0
READY = Standing(
    id="M1",
    tenant_id="acme",
    account_pk=1,
    account_id="main",
    batch_code="spring",
    state=MessageState.READY,
    attempts=0,
    crashes=0,
    created_ts=NOW - 100,
    first_attempt_ts=None,
    last_told_ts=None,
    due_ts=None,
    expires_ts=None,
    finished_ts=None,
    reply=None,
    hold=None,
    limited_until=None,
    limited_reason=None,
    limit_told=False,
    tenant_active=True,
    tenant_suspended=False,
    batch_suspended=False,
    batch_ending=False,
    scheduler_active=True,
    ahead=Ahead(0),
)
HELD = replace(READY, state=MessageState.HELD, ahead=None)
LATER = replace(READY, state=MessageState.SCHEDULED, ahead=None, due_ts=NOW + 100)
RETRIED = replace(LATER, attempts=1, reply="450 4.2.0 greylisted", last_told_ts=NOW - 5)
OUTAGE = Outage("connection refused", NOW - 30, NOW + 10)


@pytest.mark.parametrize(
    ("standing", "here", "reason", "since", "until"),
    [
        (replace(READY, state=MessageState.SENT, finished_ts=NOW), Here(), Reason.FINISHED, NOW, None),
        (
            replace(READY, state=MessageState.SENDING, attempts=1, first_attempt_ts=NOW),
            Here(),
            Reason.BEING_SENT,
            NOW,
            None,
        ),
        (
            replace(HELD, crashes=5, reply="held: it crashed", last_told_ts=NOW - 5),
            Here(),
            Reason.POISON,
            NOW - 5,
            None,
        ),
        (replace(READY, scheduler_active=False), Here(), Reason.SCHEDULER_SUSPENDED, None, None),
        (replace(READY, tenant_active=False), Here(), Reason.TENANT_INACTIVE, None, None),
        (replace(READY, tenant_suspended=True), Here(), Reason.TENANT_SUSPENDED, None, None),
        (replace(HELD, batch_suspended=True), Here(), Reason.BATCH_SUSPENDED, None, None),
        (replace(READY, hold=Hold("535", NOW - 9)), Here(), Reason.ACCOUNT_ON_HOLD, NOW - 9, None),
        (replace(READY, hold=Hold("535", NOW - 9)), Here(OUTAGE), Reason.ACCOUNT_ON_HOLD, NOW - 9, NOW + 10),
        (READY, Here(test_mode=True), Reason.TEST_MODE, None, None),
        (READY, Here(recording=False), Reason.STORE_UNAVAILABLE, None, None),
        (READY, Here(OUTAGE), Reason.SERVER_UNREACHABLE, NOW - 30, NOW + 10),
        (replace(READY, limited_until=NOW + 7, last_told_ts=NOW - 5), Here(), Reason.RATE_LIMIT, None, NOW + 7),
        (
            replace(READY, limited_until=NOW + 7, last_told_ts=NOW - 5, limit_told=True),
            Here(),
            Reason.RATE_LIMIT,
            NOW - 5,
            NOW + 7,
        ),
        (LATER, Here(), Reason.DEFERRED, NOW - 100, NOW + 100),
        (RETRIED, Here(), Reason.RETRY, NOW - 5, NOW + 100),
        (replace(HELD, batch_ending=True), Here(), Reason.BATCH_ACTIVATED, None, None),
        (READY, Here(), Reason.QUEUED, NOW - 100, None),
        (replace(LATER, due_ts=NOW - 1), Here(), Reason.QUEUED, NOW - 1, None),
    ],
)
def test_each_holder_is_told_with_its_times(
    standing: Standing, here: Here, reason: Reason, since: float | None, until: float | None
) -> None:
    (told,) = explain(standing, here, NOW).obstacles
    assert (told.reason, told.since, told.until) == (reason, since, until)


def reasons(standing: Standing, here: Here) -> list[str]:
    return [each.reason.value for each in explain(standing, here, NOW).obstacles]


def test_what_needs_somebody_comes_before_what_ends_by_itself_and_the_queue_last() -> None:
    everything = replace(
        READY,
        scheduler_active=False,
        tenant_active=False,
        tenant_suspended=True,
        batch_suspended=True,
        hold=Hold("535", NOW - 9),
        limited_until=NOW + 7,
        ahead=Ahead(3),
    )
    assert reasons(everything, Here(OUTAGE, test_mode=True, recording=False)) == [
        *("scheduler_suspended", "tenant_inactive", "tenant_suspended", "batch_suspended", "account_on_hold"),
        *("test_mode", "store_unavailable", "rate_limit", "queued"),
    ]


def test_of_what_ends_by_itself_the_longest_is_decisive() -> None:
    limited = replace(LATER, limited_until=NOW + 50)
    assert reasons(limited, Here(OUTAGE)) == ["deferred", "rate_limit", "server_unreachable"]
    assert reasons(replace(limited, due_ts=NOW + 20), Here(OUTAGE)) == ["rate_limit", "deferred", "server_unreachable"]


def test_a_limit_that_has_passed_holds_nothing() -> None:
    assert reasons(replace(READY, limited_until=NOW), Here()) == ["queued"]


def test_the_sentence_has_all_of_it() -> None:
    held = replace(READY, hold=Hold("535 5.7.8 wrong password.", NOW), ahead=Ahead(10_000, at_least=True))
    assert explain(held, Here(), NOW).sentence == (
        "Its account 'main' is on hold since 2027-01-15 08:00:00 UTC (535 5.7.8 wrong password); besides, it is ready, "
        "and at least 10000 messages of its account go before it."
    )


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (MessageState.SENT, "It was sent on 2027-01-15 08:00:00 UTC."),
        (MessageState.FAILED, "It failed on 2027-01-15 08:00:00 UTC (550 no such user)."),
        (MessageState.EXPIRED, "It expired on 2027-01-15 08:00:00 UTC before it could be sent."),
        (MessageState.CANCELLED, "It was cancelled on 2027-01-15 08:00:00 UTC."),
    ],
)
def test_a_finished_message_says_how_it_ended(state: MessageState, sentence: str) -> None:
    ended = replace(READY, state=state, finished_ts=NOW, reply="550 no such user", tenant_suspended=True, ahead=None)
    assert explain(ended, Here(OUTAGE), NOW).sentence == sentence


def test_of_a_message_that_did_not_reach_everybody_it_is_said_whom_it_missed() -> None:
    ended = replace(READY, state=MessageState.SENT, finished_ts=NOW, reply="250 ok", ahead=None)
    assert explain(replace(ended, missed=1, missed_reply="550 no such user."), Here(), NOW).sentence == (
        "It was sent on 2027-01-15 08:00:00 UTC, but not to 1 of its recipients (550 no such user)."
    )
    assert explain(replace(ended, missed=2), Here(), NOW).sentence.endswith(", but not to 2 of its recipients.")


@pytest.mark.parametrize(("attempts", "tried"), [(1, "after 1 attempt "), (20, "after 20 attempts ")])
def test_it_is_said_after_how_many_attempts_a_message_was_given_up(attempts: int, tried: str) -> None:
    failed = replace(READY, state=MessageState.FAILED, attempts=attempts, finished_ts=NOW, reply="450 busy", ahead=None)
    assert explain(failed, Here(), NOW).sentence == f"It failed on 2027-01-15 08:00:00 UTC {tried}(450 busy)."
    expired = replace(failed, state=MessageState.EXPIRED)
    sentence = f"It expired on 2027-01-15 08:00:00 UTC {tried}before it could be sent."
    assert explain(expired, Here(), NOW).sentence == sentence


@pytest.mark.parametrize("state", [MessageState.FAILED, MessageState.EXPIRED])
def test_a_message_whose_body_is_gone_says_that_it_cannot_be_sent_again(state: MessageState) -> None:
    bare = replace(READY, state=state, finished_ts=NOW, ahead=None, body_removed=True)
    assert explain(bare, Here(), NOW).sentence.endswith("; its body was removed since, so it cannot be sent again.")
    assert "body" not in explain(replace(bare, body_removed=False), Here(), NOW).sentence
    assert "body" not in explain(replace(bare, state=MessageState.SENT), Here(), NOW).sentence
