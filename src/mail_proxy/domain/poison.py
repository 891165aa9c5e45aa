"""Messages that harm whoever touches them: counted, kept apart, and settled without looking at what they hold.

The settlements made here look at as little as possible, so that none of them can fail: they say what is true in plain
words, leave out what the client attached, and never forget that a recipient was served.
"""  # G13

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mail_proxy.domain.account import OnUncertain
from mail_proxy.domain.attempt import Attempt
from mail_proxy.domain.claim import Claimed
from mail_proxy.domain.message import MessageState
from mail_proxy.domain.recipient import Recipient, RecipientState
from mail_proxy.domain.reply import printable
from mail_proxy.domain.report import Event, EventType, Outlook, Subject, entry
from mail_proxy.domain.retry import RetrySchedule
from mail_proxy.domain.settlement import EXPIRED, NO_ANSWER, Policy, Settlement, deadline

MOST_CRASHES = 5
"""Instances that may end while they are sending a message, before it is held."""
POISON = "held: five instances ended while they were sending it"
PAUSE = 60.0
"""Seconds to the next attempt where no schedule is asked."""


def error_words(error: BaseException) -> str:
    """Name an error on one line, for a reply."""
    return printable(f"{type(error).__name__}: {error}", 200)


def after_crash(claimed: Claimed, settlement: Settlement, schedule: RetrySchedule, now: float) -> Settlement:
    """Count that an instance ended while it was sending this message; at the fifth time it is held, and that is told.

    A held message ends by its deadline as any other does, or is put back by the activation of its tenant.
    """
    crashes = claimed.crashes + 1
    if settlement.state is not MessageState.READY or crashes < MOST_CRASHES:
        return replace(settlement, crashes=crashes)
    told = _event(claimed, EventType.DEFERRED, claimed.recipients, POISON, now)
    return replace(
        settlement,
        state=MessageState.HELD,
        reply=POISON,
        events=(*settlement.events, told),
        crashes=crashes,
        expires_ts=deadline(claimed, schedule),
    )


def hold_unjudged(claimed: Claimed, error: BaseException, schedule: RetrySchedule, now: float) -> Settlement:
    """Hold a message that a dead instance had in its hands, where the decision on it fails."""
    reply = f"held: what became of it cannot be decided ({error_words(error)})"
    return Settlement(
        pk=claimed.pk,
        token=claimed.token,
        state=MessageState.HELD,
        attempts=max(claimed.attempts - 1, 0),
        due=None,
        ts=now,
        reply=reply,
        recipients=(),
        events=(_event(claimed, EventType.DEFERRED, claimed.recipients, reply, now),),
        transactions=1,
        crashes=max(claimed.crashes + 1, MOST_CRASHES),
        expires_ts=deadline(claimed, schedule),
    )


def undecided(claimed: Claimed, attempt: Attempt, error: BaseException, policy: Policy, now: float) -> Settlement:
    """Settle an attempt whose decision failed: who was accepted is served, the others wait or have failed.

    It costs the message its attempt; after the last one it has failed.
    """
    words = error_words(error)
    ends = claimed.attempts >= policy.schedule.max_attempts
    ends = ends or (bool(attempt.uncertain) and policy.on_uncertain is OnUncertain.FAIL)
    rest = RecipientState.FAILED if ends else RecipientState.WAITING
    recipients: list[Recipient] = []
    for recipient in claimed.recipients:
        answer = attempt.answers.get(recipient.n)
        if recipient.state.final:
            recipients.append(recipient)
        elif answer is not None and answer.accepted:
            accepted = str(answer.reply.code)
            recipients.append(replace(recipient, state=RecipientState.SENT, reply=accepted, ts=now))
        else:
            reply = NO_ANSWER if recipient.n in attempt.uncertain else words
            recipients.append(replace(recipient, state=rest, reply=reply, ts=now))
    states = {recipient.state for recipient in recipients}
    if not ends and (RecipientState.WAITING in states or not states):
        state, type_ = MessageState.SCHEDULED, EventType.DEFERRED
    elif RecipientState.SENT in states:
        state, type_ = MessageState.SENT, EventType.SENT
    else:
        state, type_ = MessageState.FAILED, EventType.FAILED
    due = now + PAUSE if state is MessageState.SCHEDULED else None
    types = [EventType.UNCERTAIN] if attempt.uncertain else []
    return Settlement(
        pk=claimed.pk,
        token=claimed.token,
        state=state,
        attempts=claimed.attempts,
        due=due,
        ts=now,
        reply=words,
        recipients=tuple(recipients),
        events=tuple(_event(claimed, each, recipients, words, now, due) for each in (*types, type_)),
        transactions=max(attempt.transactions, 1),
    )


def plainly_expired(claimed: Claimed, now: float) -> Settlement:
    """End a message whose time has passed, where the ordinary way fails."""
    ended = tuple(
        r if r.state.final else replace(r, state=RecipientState.EXPIRED, reply=EXPIRED, ts=now)
        for r in claimed.recipients
    )
    served = any(r.state is RecipientState.SENT for r in ended)
    type_ = EventType.SENT if served else EventType.EXPIRED
    return Settlement(
        pk=claimed.pk,
        token=claimed.token,
        state=MessageState(type_.value),
        attempts=claimed.attempts,
        due=None,
        ts=now,
        reply=EXPIRED,
        recipients=ended,
        events=(_event(claimed, type_, ended, EXPIRED, now),),
    )


def reduced(claimed: Claimed, settlement: Settlement, error: BaseException, now: float) -> Settlement:
    """Return what is left of a settlement that the store refuses for what is in it: the states, and plain words."""
    words = f"its outcome could not be recorded as it was ({type(error).__name__})"
    recipients = tuple(replace(r, reply=words, ts=now) for r in settlement.recipients)
    due = now + PAUSE if settlement.state is MessageState.SCHEDULED else None
    told = recipients or claimed.recipients
    return replace(
        settlement,
        attempts=claimed.attempts,
        due=due,
        ts=now,
        reply=words,
        recipients=recipients,
        events=tuple(_event(claimed, event.type, told, words, now, due) for event in settlement.events),
        crashes=None,
        expires_ts=None,
    )


def _event(
    claimed: Claimed,
    type_: EventType,
    recipients: Sequence[Recipient],
    words: str,
    now: float,
    due: float | None = None,
) -> Event:
    subject = Subject(
        tenant_id=claimed.tenant_id,
        id=claimed.identity.mail_id,
        pk=claimed.pk,
        account_id=claimed.account_id,
        priority=claimed.priority,
        batch_code=claimed.batch_code,
    )
    outlook = Outlook(error=words, deferred_ts=due, deferred_reason=words)
    return Event(claimed.tenant_id, claimed.pk, type_, now, entry(subject, type_, now, recipients, outlook))
