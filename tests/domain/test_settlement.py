"""What follows from an attempt."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mail_proxy.domain.account import OnUncertain
from mail_proxy.domain.attempt import Answer, Attempt, HostFailed, Interrupted, Stage
from mail_proxy.domain.claim import Claimed
from mail_proxy.domain.message import Identity, MessageState
from mail_proxy.domain.recipient import Recipient, RecipientKind, RecipientState
from mail_proxy.domain.reply import Reply
from mail_proxy.domain.report import EventType
from mail_proxy.domain.requeue import Requeued, requeue
from mail_proxy.domain.retry import RetrySchedule
from mail_proxy.domain.settlement import Policy, Settlement, cancel, expire, expired, give_back, recover, settle

NOW = 1_800_000_000.0
POLICY = Policy(RetrySchedule(delays=(60.0, 300.0), max_attempts=3, jitter=0.0, max_age=86400.0))

OK = Answer(Reply(250, "2.0.0", "queued as 1"), Stage.DOT)
UNKNOWN = Answer(Reply(550, "5.1.1", "no such user"), Stage.RCPT)
GREYLISTED = Answer(Reply(450, "4.2.0", "greylisted"), Stage.RCPT)
TOO_MANY = Answer(Reply(552, None, "too many recipients"), Stage.RCPT)
TOO_BIG = Answer(Reply(552, "5.3.4", "message too big"), Stage.DOT)


def claimed(recipients: int = 1, *, attempts: int = 1, expires_ts: float | None = None, fields: str = "{}") -> Claimed:
    return Claimed(
        pk=7,
        token="t",
        tenant_id="acme",
        account_pk=1,
        account_id="main",
        priority=2,
        batch_code="spring",
        attempts=attempts,
        created_ts=NOW - 10,
        first_attempt_ts=NOW,
        expires_ts=expires_ts,
        fields=fields,
        identity=Identity("M1", "x@example.com", NOW - 10),
        recipients=tuple(Recipient(n, f"r{n}@example.net", RecipientKind.TO) for n in range(recipients)),
    )


def after(message: Claimed, attempt: Attempt, policy: Policy = POLICY, now: float = NOW) -> Settlement:
    return settle(message, attempt, policy, now, Random(1))


@pytest.mark.parametrize(("answer", "end"), [(OK, "sent"), (UNKNOWN, "failed")])
def test_a_message_that_had_reached_somebody_stays_sent_whatever_another_try_at_the_others_comes_to(
    answer: Answer, end: str
) -> None:
    first = after(claimed(2), Attempt(answers={0: OK, 1: UNKNOWN}))
    assert first.state is MessageState.SENT
    again = requeue(replace(claimed(2), recipients=first.recipients), first.state, NOW)
    assert isinstance(again, Requeued)
    second = after(
        replace(claimed(2), recipients=(first.recipients[0], *again.recipients)), Attempt(answers={1: answer})
    )
    assert second.state is MessageState.SENT
    assert [each.state.value for each in second.recipients] == ["sent", end]
    (event,) = second.events
    assert event.type is EventType.SENT
    assert [each["state"] for each in json.loads(event.entry)["recipients"]] == ["sent", end]


def test_a_message_whose_recipients_were_all_accepted_is_sent() -> None:
    settlement = after(claimed(2), Attempt(answers={0: OK, 1: OK}))
    assert settlement.state is MessageState.SENT
    assert settlement.reply == "250 2.0.0 queued as 1"
    assert settlement.recipients == ()
    assert [event.type for event in settlement.events] == [EventType.SENT]


def test_a_message_whose_recipients_were_all_refused_has_failed() -> None:
    settlement = after(claimed(2), Attempt(answers={0: UNKNOWN, 1: UNKNOWN}))
    assert settlement.state is MessageState.FAILED
    report = json.loads(settlement.events[0].entry)
    assert (report["error"], report["error_code"]) == ("550 5.1.1 no such user", "550")


def test_one_good_recipient_makes_a_message_sent_and_the_refused_one_is_told() -> None:
    settlement = after(claimed(2), Attempt(answers={0: UNKNOWN, 1: OK}))
    assert settlement.state is MessageState.SENT
    told = json.loads(settlement.events[0].entry)["recipients"]
    assert [(r["address"], r["state"], r["code"]) for r in told] == [
        ("r0@example.net", "failed", 550),
        ("r1@example.net", "sent", 250),
    ]


def test_a_recipient_put_off_makes_the_message_wait_and_tells_how_far_it_is() -> None:
    settlement = after(claimed(3), Attempt(answers={0: OK, 1: UNKNOWN, 2: GREYLISTED}))
    assert (settlement.state, settlement.due) == (MessageState.SCHEDULED, NOW + 60)
    assert [r.state for r in settlement.recipients] == [
        RecipientState.SENT,
        RecipientState.FAILED,
        RecipientState.WAITING,
    ]
    report = json.loads(settlement.events[0].entry)
    assert (report["event"], report["deferred_ts"], report["deferred_reason"]) == (
        "deferred",
        NOW + 60,
        "450 4.2.0 greylisted",
    )


def test_a_552_to_rcpt_is_temporary_and_a_552_to_the_message_is_not() -> None:
    assert after(claimed(), Attempt(answers={0: TOO_MANY})).state is MessageState.SCHEDULED  # RFC 5321 4.5.3.1.10
    assert after(claimed(), Attempt(answers={0: TOO_BIG})).state is MessageState.FAILED


def test_a_250_to_rcpt_alone_is_not_a_delivery() -> None:
    settlement = after(claimed(), Attempt(answers={0: Answer(Reply(250, None, "fine"), Stage.RCPT)}))
    assert settlement.state is MessageState.SCHEDULED


def test_a_recipient_that_was_served_is_left_alone_by_later_attempts() -> None:
    message = claimed(2, attempts=2)
    served = replace(message.recipients[0], state=RecipientState.SENT, reply="250 ok", ts=NOW - 60)
    message = replace(message, recipients=(served, message.recipients[1]))
    assert [r.n for r in message.waiting] == [1]
    settlement = after(message, Attempt(answers={0: UNKNOWN, 1: UNKNOWN}))
    assert settlement.state is MessageState.SENT
    assert settlement.recipients[0] == served  # G7


def test_the_last_attempt_ends_what_is_still_waiting() -> None:
    settlement = after(claimed(2, attempts=3), Attempt(answers={0: OK, 1: GREYLISTED}))
    assert settlement.state is MessageState.SENT
    assert settlement.recipients[1].state is RecipientState.FAILED
    assert settlement.recipients[1].reply == "450 4.2.0 greylisted"


@pytest.mark.parametrize("failure", [HostFailed("connection refused"), Interrupted("KeyError: x")])
def test_what_ends_an_attempt_early_costs_it_and_is_told(failure: HostFailed | Interrupted) -> None:
    settlement = after(claimed(), Attempt(failure=failure))
    assert (settlement.state, settlement.attempts, settlement.reply) == (MessageState.SCHEDULED, 1, failure.text)


@pytest.mark.parametrize(
    ("choice", "state"), [(OnUncertain.RESEND, MessageState.SCHEDULED), (OnUncertain.FAIL, MessageState.FAILED)]
)
def test_a_dot_without_answer_follows_the_accounts_choice(choice: OnUncertain, state: MessageState) -> None:
    settlement = after(claimed(), Attempt(uncertain=frozenset({0})), replace(POLICY, on_uncertain=choice))
    assert settlement.state is state  # G4
    assert settlement.events[0].type is EventType.UNCERTAIN


def test_a_retry_after_the_deadline_is_made_at_the_deadline_at_the_latest() -> None:
    settlement = after(claimed(expires_ts=NOW + 20), Attempt(answers={0: GREYLISTED}))
    assert settlement.due == NOW + 20


def test_a_message_ends_as_expired_once_its_deadline_has_passed() -> None:
    message = claimed(2, expires_ts=NOW - 1)
    assert expired(message, POLICY.schedule, NOW)
    assert after(message, Attempt(answers={0: OK, 1: GREYLISTED})).recipients[1].state is RecipientState.EXPIRED
    settlement = expire(message, NOW)
    assert (settlement.state, settlement.events[0].type) == (MessageState.EXPIRED, EventType.EXPIRED)


def test_a_message_expires_when_its_first_attempt_is_too_long_ago() -> None:
    message = replace(claimed(), first_attempt_ts=NOW - 86400)
    assert expired(message, POLICY.schedule, NOW)
    assert not expired(message, POLICY.schedule, NOW - 1)


def test_a_cancelled_message_keeps_what_was_served_and_tells_why() -> None:
    settlement = cancel(claimed(2), NOW, "the account was deleted")
    assert (settlement.state, settlement.reply) == (MessageState.CANCELLED, "the account was deleted")


def test_what_a_dead_instance_had_goes_back_with_its_attempt() -> None:
    settlement = recover(claimed(attempts=2), OnUncertain.RESEND, NOW)
    assert (settlement.state, settlement.attempts) == (MessageState.READY, 1)  # G6
    assert [event.type for event in settlement.events] == [EventType.UNCERTAIN]
    assert recover(claimed(), OnUncertain.FAIL, NOW).state is MessageState.FAILED
    assert give_back(claimed(attempts=2), NOW).events == ()


def test_metadata_and_batch_come_back_in_the_report() -> None:
    settlement = after(claimed(fields='{"metadata":{"order":1042}}'), Attempt(answers={0: OK}))
    report = json.loads(settlement.events[0].entry)
    assert (report["metadata"], report["batch_code"]) == ({"order": 1042}, "spring")


answers = st.sampled_from([OK, UNKNOWN, GREYLISTED, TOO_MANY, TOO_BIG])


@given(
    st.lists(st.one_of(answers, st.none(), st.just("uncertain")), min_size=1, max_size=6),
    st.integers(1, 4),
    st.sampled_from(OnUncertain),
)
def test_every_recipient_ends_in_exactly_one_state(
    said: list[Answer | str | None], attempts: int, choice: OnUncertain
) -> None:
    attempt = Attempt(
        answers={n: each for n, each in enumerate(said) if isinstance(each, Answer)},
        uncertain=frozenset(n for n, each in enumerate(said) if each == "uncertain"),
        failure=HostFailed("lost") if None in said else None,
    )
    settlement = after(claimed(len(said), attempts=attempts), attempt, replace(POLICY, on_uncertain=choice))
    told = json.loads(settlement.events[-1].entry)["recipients"]
    assert len(told) == len(said)
    for n, each in enumerate(said):
        if isinstance(each, Answer) and each.accepted:
            assert told[n]["state"] == "sent"  # an accepted recipient never becomes anything else
    if settlement.state.final:
        assert settlement.due is None
        assert all(RecipientState(r["state"]).final for r in told)
        assert (settlement.state is MessageState.SENT) == any(r["state"] == "sent" for r in told)
    else:
        assert settlement.due is not None
        assert any(r["state"] == "waiting" for r in told)
