"""The decision after an attempt: what becomes of each recipient, of the message, and what is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from mail_proxy.domain.account import OnUncertain
from mail_proxy.domain.attempt import Answer, Attempt, NotFetched
from mail_proxy.domain.claim import Claimed
from mail_proxy.domain.message import MessageState
from mail_proxy.domain.recipient import Recipient, RecipientState
from mail_proxy.domain.report import Event, EventType, Outlook, Subject, entry, sent_to_someone, split_reply
from mail_proxy.domain.retry import RetrySchedule, next_attempt
from mail_proxy.domain.value import value

RATE_LIMITED = "rate_limited"
"""Why a message is put off, or fails, where an account sends no more for now."""
ATTACHMENT_FAILED = "attachment_failed"
"""Why a message is put off, or fails, where an attachment cannot be fetched."""
NO_ANSWER = "451 4.4.2 no answer after the final dot: the message may have been delivered"
EXPIRED = "551 4.4.7 expired before it could be delivered"


@value
class Settlement:
    """What an attempt comes to, to be written in one transaction if the token still holds."""  # G5

    pk: int
    token: str
    state: MessageState
    attempts: int
    due: float | None
    ts: float
    reply: str | None
    """The last word on the message as a whole."""
    recipients: tuple[Recipient, ...]
    """Empty while every recipient shares the message's state and reply."""
    events: tuple[Event, ...]
    transactions: int = 0
    """SMTP transactions that count for rate limits."""  # G10
    crashes: int | None = None
    """How many instances have ended while they sent it; None: as before."""  # G13
    expires_ts: float | None = None
    """When a message ends that is held, as nobody will look at its age; None: as before."""


@value
class Policy:
    """The rules that a decision follows."""

    schedule: RetrySchedule
    on_uncertain: OnUncertain = OnUncertain.RESEND


def settle(claimed: Claimed, attempt: Attempt, policy: Policy, now: float, rng: Random) -> Settlement:
    """Decide what follows from an attempt. Every recipient ends in exactly one state."""  # G4, G7
    recipients = tuple(_after(r, attempt, policy, now) for r in claimed.recipients)
    if attempt.failure is None and any(_untried(r, attempt) for r in recipients):
        return _go_on(claimed, attempt, recipients, now)
    due: float | None = None
    if any(not r.state.final for r in recipients):
        due = next_attempt(policy.schedule, claimed.attempts, now, rng)
        if due is None:
            recipients = _end_waiting(recipients, RecipientState.FAILED, now)
        elif now >= deadline(claimed, policy.schedule):
            recipients, due = _end_waiting(recipients, RecipientState.EXPIRED, now), None
        else:
            due = min(due, deadline(claimed, policy.schedule))
    uncertain = bool(attempt.uncertain)
    return _settlement(claimed, recipients, due, now, uncertain=uncertain, transactions=_transactions(attempt))


def reject(claimed: Claimed, now: float, limit: str) -> Settlement:
    """End a message that met a rate limit of an account that lets none wait; it was not attempted."""  # G10
    reason = f"{RATE_LIMITED}: no more than {limit}"
    waiting = tuple(r if r.state.final else replace(r, reply=reason) for r in claimed.recipients)
    untried = replace(claimed, attempts=max(claimed.attempts - 1, 0))
    return _settlement(untried, _end_waiting(waiting, RecipientState.FAILED, now), None, now)


def expire(claimed: Claimed, now: float) -> Settlement:
    """End a message whose time has passed; recipients that were served stay served."""
    return _settlement(claimed, _end_waiting(claimed.recipients, RecipientState.EXPIRED, now), None, now)


def cancel(claimed: Claimed, now: float, reason: str) -> Settlement:
    """End a message because somebody said so; recipients that were served stay served."""
    waiting = (r if r.state.final else replace(r, reply=reason) for r in claimed.recipients)
    return _settlement(claimed, _end_waiting(tuple(waiting), RecipientState.CANCELLED, now), None, now)


def recover(claimed: Claimed, on_uncertain: OnUncertain, now: float) -> Settlement:
    """Decide on a message that a dead instance had in its hands, when nothing tells whether its dot went out.

    It goes back to the queue at once, its attempt given back, or fails where the account would rather have no copy.
    """  # G4, G6
    if on_uncertain is OnUncertain.FAIL:
        waiting = tuple(r if r.state.final else replace(r, reply=NO_ANSWER) for r in claimed.recipients)
        ended = _end_waiting(waiting, RecipientState.FAILED, now)
        return _settlement(claimed, ended, None, now, uncertain=True, transactions=1)
    outlook = Outlook(error=NO_ANSWER)
    told = entry(subject_of(claimed), EventType.UNCERTAIN, now, claimed.recipients, outlook)
    event = Event(claimed.tenant_id, claimed.pk, EventType.UNCERTAIN, now, told)
    return replace(give_back(claimed, now), events=(event,))


def give_back(claimed: Claimed, now: float) -> Settlement:
    """Return a message to the queue as it was before its claim: no dot went out."""
    return Settlement(
        pk=claimed.pk,
        token=claimed.token,
        state=MessageState.READY,
        attempts=max(claimed.attempts - 1, 0),
        due=None,
        ts=now,
        reply=claimed.recipients[0].reply,
        recipients=(),
        events=(),
        transactions=1,  # G10: it may have been begun
    )


def _go_on(claimed: Claimed, attempt: Attempt, recipients: tuple[Recipient, ...], now: float) -> Settlement:
    """Put a message back at once that a rate limit lets through one transaction at a time: the attempt goes on."""
    final = sum(r.state.final for r in recipients)
    outlook = Outlook(
        error=NO_ANSWER,
        deferred_ts=now,
        deferred_reason=f"{RATE_LIMITED}: {final} of {len(recipients)} recipients are done, the others follow",
    )
    types = [EventType.UNCERTAIN] if attempt.uncertain else []
    subject = subject_of(claimed)
    return replace(
        give_back(claimed, now),
        recipients=recipients,
        events=tuple(
            Event(claimed.tenant_id, claimed.pk, type_, now, entry(subject, type_, now, recipients, outlook))
            for type_ in (*types, EventType.DEFERRED)
        ),
        transactions=_transactions(attempt),
    )


def _untried(recipient: Recipient, attempt: Attempt) -> bool:
    """True for one that no server was ever asked about; those that were put off wait for the next attempt."""
    known = recipient.n in attempt.answers or recipient.n in attempt.uncertain
    return recipient.ts is None and not (recipient.state.final or known)


def _transactions(attempt: Attempt) -> int:
    """Count what an attempt used, also where all that is left of it is what the journal says."""
    return max(attempt.transactions, 1 if attempt.answers or attempt.uncertain else 0)


def expired(claimed: Claimed, schedule: RetrySchedule, now: float) -> bool:
    """True when the message must not be sent any more."""
    return now >= deadline(claimed, schedule)


def deadline(claimed: Claimed, schedule: RetrySchedule) -> float:
    """When the message ends if it is not sent before, Unix seconds."""
    by_age = claimed.first_attempt_ts + schedule.max_age
    return by_age if claimed.expires_ts is None else min(by_age, claimed.expires_ts)


def _after(recipient: Recipient, attempt: Attempt, policy: Policy, now: float) -> Recipient:
    if recipient.state.final:
        return recipient
    answer = attempt.answers.get(recipient.n)
    if answer is not None:
        n, address, kind = recipient.n, recipient.address, recipient.kind
        return Recipient(n, address, kind, _state(answer), str(answer.reply), now)
    if recipient.n in attempt.uncertain:
        ends = policy.on_uncertain is OnUncertain.FAIL
        state = RecipientState.FAILED if ends else RecipientState.WAITING
        return replace(recipient, state=state, reply=NO_ANSWER, ts=now)
    if attempt.failure is not None:
        if isinstance(attempt.failure, NotFetched):
            state = RecipientState.FAILED if attempt.failure.permanent else RecipientState.WAITING
            return replace(recipient, state=state, reply=f"{ATTACHMENT_FAILED}: {attempt.failure.text}", ts=now)
        reply = getattr(attempt.failure, "reply", None)
        return replace(recipient, reply=str(reply) if reply else attempt.failure.text, ts=now)
    return recipient


def _state(answer: Answer) -> RecipientState:
    if answer.accepted:
        return RecipientState.SENT
    return RecipientState.FAILED if answer.permanent else RecipientState.WAITING


def _end_waiting(recipients: Sequence[Recipient], state: RecipientState, now: float) -> tuple[Recipient, ...]:
    return tuple(
        r if r.state.final else replace(r, state=state, reply=r.reply or _default_reply(state), ts=now)
        for r in recipients
    )


def _default_reply(state: RecipientState) -> str | None:
    return EXPIRED if state is RecipientState.EXPIRED else None


def _settlement(
    claimed: Claimed,
    recipients: tuple[Recipient, ...],
    due: float | None,
    now: float,
    *,
    uncertain: bool = False,
    transactions: int = 0,
) -> Settlement:
    state = MessageState.SCHEDULED if due is not None else _final_state(recipients)
    telling = _telling(recipients, state)
    # Where one of them had a word of its own before, that stands in its row.
    inherit = len({(r.state, r.reply) for r in recipients}) == 1 and all(r.ts is None for r in claimed.recipients)
    return Settlement(
        pk=claimed.pk,
        token=claimed.token,
        state=state,
        attempts=claimed.attempts,
        due=due,
        ts=now,
        reply=telling.reply,
        recipients=() if inherit else recipients,
        events=_events(claimed, recipients, state, due, now, telling, uncertain=uncertain),
        transactions=transactions,
    )


def _final_state(recipients: Sequence[Recipient]) -> MessageState:
    if sent_to_someone(recipients):
        return MessageState.SENT
    states = {r.state for r in recipients}
    if RecipientState.CANCELLED in states:
        return MessageState.CANCELLED
    return MessageState.EXPIRED if RecipientState.EXPIRED in states else MessageState.FAILED


def _telling(recipients: Sequence[Recipient], state: MessageState) -> Recipient:
    """The recipient whose reply speaks for the message: one that is still waiting, else one that shares its end."""
    wanted = RecipientState.WAITING if state is MessageState.SCHEDULED else RecipientState(state.value)
    return next((r for r in recipients if r.state is wanted), recipients[0])


def _events(
    claimed: Claimed,
    recipients: Sequence[Recipient],
    state: MessageState,
    due: float | None,
    now: float,
    telling: Recipient,
    *,
    uncertain: bool,
) -> tuple[Event, ...]:
    subject = subject_of(claimed)
    types = [EventType.UNCERTAIN] if uncertain else []
    types.append(EventType.DEFERRED if state is MessageState.SCHEDULED else EventType(state.value))
    outlook = None
    if state is not MessageState.SENT or uncertain:
        outlook = Outlook(telling.reply, error_code(telling.reply), deferred_ts=due, deferred_reason=telling.reply)
    return tuple(
        Event(claimed.tenant_id, claimed.pk, type_, now, entry(subject, type_, now, recipients, outlook))
        for type_ in types
    )


def error_code(reply: str | None) -> str | None:
    """Return the word for programs in a reply that is the last word on a message: its SMTP code, or a word of ours."""
    for word in (RATE_LIMITED, ATTACHMENT_FAILED):
        if reply is not None and reply.startswith(f"{word}:"):
            return word
    code = split_reply(reply)[0]
    return None if code is None else str(code)


def _is_limit(reply: str | None) -> bool:
    return reply is not None and reply.startswith(f"{RATE_LIMITED}:")


def subject_of(claimed: Claimed) -> Subject:
    """Name a claimed message for its report entries."""
    return Subject(
        tenant_id=claimed.tenant_id,
        id=claimed.identity.mail_id,
        pk=claimed.pk,
        account_id=claimed.account_id,
        priority=claimed.priority,
        batch_code=claimed.batch_code,
        metadata=claimed.metadata,
        traceparent=claimed.traceparent,
    )
