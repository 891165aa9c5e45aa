"""Why a message has not been sent yet: everything that holds it, the decisive one first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum

from mail_proxy.domain.account import Hold, Outage
from mail_proxy.domain.message import MessageState
from mail_proxy.domain.poison import MOST_CRASHES


class Reason(str, Enum):
    """What can hold a message. Those that need somebody come first, and before those that end by themselves."""

    FINISHED = "finished"
    BEING_SENT = "being_sent"
    POISON = "poison"
    SCHEDULER_SUSPENDED = "scheduler_suspended"
    TENANT_INACTIVE = "tenant_inactive"
    TENANT_SUSPENDED = "tenant_suspended"
    BATCH_SUSPENDED = "batch_suspended"
    ACCOUNT_ON_HOLD = "account_on_hold"
    TEST_MODE = "test_mode"
    STORE_UNAVAILABLE = "store_unavailable"
    SERVER_UNREACHABLE = "server_unreachable"
    RATE_LIMIT = "rate_limit"
    DEFERRED = "deferred"
    RETRY = "retry"
    BATCH_ACTIVATED = "batch_activated"
    QUEUED = "queued"


_END_BY_THEMSELVES = (Reason.SERVER_UNREACHABLE, Reason.RATE_LIMIT, Reason.DEFERRED, Reason.RETRY)


@dataclass(frozen=True, slots=True)
class Ahead:
    """How many messages of the account are ready and go before this one; `at_least` where counting was given up."""

    count: int
    at_least: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """What the database knows of a message's prospects. Times are Unix seconds."""

    id: str
    tenant_id: str
    account_pk: int
    account_id: str
    batch_code: str | None
    state: MessageState
    attempts: int
    crashes: int
    created_ts: float
    first_attempt_ts: float | None
    last_told_ts: float | None
    """When it was last told that it did not get through, or is held up."""
    due_ts: float | None
    expires_ts: float | None
    finished_ts: float | None
    reply: str | None
    hold: Hold | None
    limited_until: float | None
    limited_reason: str | None
    limit_told: bool
    """Since it was last taken up, it was told that a rate limit holds it up, and nothing else."""
    tenant_active: bool
    tenant_suspended: bool
    batch_suspended: bool
    batch_ending: bool
    """Its batch was activated, and what was set aside of it is on its way back."""
    scheduler_active: bool
    ahead: Ahead | None
    """None for a message that is not ready."""
    body_removed: bool = False
    missed: int = 0
    """How many recipients are finished and do not have it."""
    missed_reply: str | None = None
    """What was said of the first of them."""


@dataclass(frozen=True, slots=True)
class Here:
    """What the instance that is asked knows without the database."""

    outage: Outage | None = None
    """Of the message's account."""
    test_mode: bool = False
    recording: bool = True
    """False while outcomes cannot be recorded, so that nothing is sent."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One thing that holds a message. `until` is the earliest time at which it may end, None where nobody knows."""

    reason: Reason
    text: str
    since: float | None = None
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that holds a message, the decisive one first, and the same as one sentence."""

    obstacles: Sequence[Obstacle]
    sentence: str


def explain(standing: Standing, here: Here, now: float) -> Explanation:
    """Say what holds a message, or how it ended.

    First comes what needs somebody, from the whole service down to the account; then what ends by itself, the longest
    first; the queue last.
    """
    if standing.state.final:
        found = [_finished(standing)]
    elif standing.state is MessageState.SENDING:
        found = [_being_sent(standing)]
    else:
        by_themselves = [*_of_the_account(standing, here, now), *_of_its_own(standing, now)]
        found = sorted(
            [*_for_somebody(standing, here), *by_themselves],
            key=lambda each: -(each.until or 0.0) if each.reason in _END_BY_THEMSELVES else -float("inf"),
        )
        found += _in_the_queue(standing, now, alone=not found)
    text = "; besides, ".join(each.text for each in found)
    return Explanation(found, f"{text[0].upper()}{text[1:]}.")


def _finished(standing: Standing) -> Obstacle:
    at = "" if standing.finished_ts is None else f" on {_time(standing.finished_ts)}"
    match standing.state:
        case MessageState.SENT:
            text = f"it was sent{at}{_missed(standing)}"
        case MessageState.CANCELLED:
            text = f"it was cancelled{at}"
        case MessageState.EXPIRED:
            text = f"it expired{at}{_tried(standing.attempts)} before it could be sent{_bare(standing)}"
        case _:
            text = f"it failed{at}{_tried(standing.attempts)}{_said(standing.reply)}{_bare(standing)}"
    return Obstacle(Reason.FINISHED, text, standing.finished_ts)


def _tried(attempts: int) -> str:
    """Say after how many attempts it was given up; nothing where it came to none."""
    return f" after {attempts} attempt{'' if attempts == 1 else 's'}" if attempts else ""


def _missed(standing: Standing) -> str:
    """Say that a message which was sent has not reached everybody."""
    if not standing.missed:
        return ""
    return f", but not to {standing.missed} of its recipients{_said(standing.missed_reply)}"


def _bare(standing: Standing) -> str:
    return "; its body was removed since, so it cannot be sent again" if standing.body_removed else ""


def _being_sent(standing: Standing) -> Obstacle:
    since = standing.first_attempt_ts if standing.attempts == 1 else None
    return Obstacle(Reason.BEING_SENT, f"it has been taken up to be sent, attempt {standing.attempts}", since)


def _for_somebody(standing: Standing, here: Here) -> Iterator[Obstacle]:
    """Yield what does not end before somebody does something, from the whole service down to the account."""
    account = f"its account '{standing.account_id}'"
    if standing.state is MessageState.HELD and standing.crashes >= MOST_CRASHES:
        yield Obstacle(
            Reason.POISON,
            f"it was being sent each of the {standing.crashes} times that the process ended, and is not tried again by "
            f"itself{_said(standing.reply)}",
            standing.last_told_ts,
        )
    if not standing.scheduler_active:
        yield Obstacle(Reason.SCHEDULER_SUSPENDED, "sending is suspended for the whole service")
    if not standing.tenant_active:
        yield Obstacle(Reason.TENANT_INACTIVE, "its tenant is inactive")
    if standing.tenant_suspended:
        yield Obstacle(Reason.TENANT_SUSPENDED, "its tenant is suspended")
    if standing.batch_suspended:
        yield Obstacle(Reason.BATCH_SUSPENDED, f"its batch '{standing.batch_code}' is suspended")
    if standing.hold is not None:
        tried = None if here.outage is None else here.outage.next_probe_ts
        again = "" if tried is None else f", and is tried again at {_time(tried)}"
        text = f"{account} is on hold since {_time(standing.hold.since)}{again}{_said(standing.hold.reason)}"
        yield Obstacle(Reason.ACCOUNT_ON_HOLD, text, standing.hold.since, tried)
    if here.test_mode:
        yield Obstacle(Reason.TEST_MODE, "the service is in test mode, in which nothing goes out but by run-now")
    if not here.recording:
        yield Obstacle(Reason.STORE_UNAVAILABLE, "outcomes cannot be recorded now, so nothing is sent")


def _of_the_account(standing: Standing, here: Here, now: float) -> Iterator[Obstacle]:
    """Yield what holds every message of its account for a time."""
    account = f"its account '{standing.account_id}'"
    if here.outage is not None and standing.hold is None:
        text = (
            f"the server of {account} is left alone since {_time(here.outage.since_ts)} and tried again at "
            f"{_time(here.outage.next_probe_ts)}{_said(here.outage.reason)}"
        )
        yield Obstacle(Reason.SERVER_UNREACHABLE, text, here.outage.since_ts, here.outage.next_probe_ts)
    if standing.limited_until is not None and standing.limited_until > now:
        limit = "" if standing.limited_reason is None else f" (no more than {standing.limited_reason})"
        text = f"a rate limit of {account}{limit} lets nothing through before {_time(standing.limited_until)}"
        since = standing.last_told_ts if standing.limit_told else None
        yield Obstacle(Reason.RATE_LIMIT, text, since, standing.limited_until)


def _of_its_own(standing: Standing, now: float) -> Iterator[Obstacle]:
    """Yield the time that it is to wait for."""
    if standing.due_ts is None or standing.due_ts <= now:
        return
    at = _time(standing.due_ts)
    if standing.attempts:
        text = f"attempt {standing.attempts} did not get through, and the next one is at {at}{_said(standing.reply)}"
        yield Obstacle(Reason.RETRY, text, standing.last_told_ts, standing.due_ts)
    else:
        yield Obstacle(Reason.DEFERRED, f"it is not to be sent before {at}", standing.created_ts, standing.due_ts)


def _in_the_queue(standing: Standing, now: float, *, alone: bool) -> Iterator[Obstacle]:
    """Yield its place in the queue; of no interest where something else holds it and nobody is ahead."""
    since = standing.created_ts if standing.due_ts is None else standing.due_ts
    if standing.state is MessageState.HELD and standing.batch_ending:
        text = f"its batch '{standing.batch_code}' was activated and is being put back into the queue"
        yield Obstacle(Reason.BATCH_ACTIVATED, text)
    elif standing.ahead is not None and (alone or standing.ahead.count):
        yield Obstacle(Reason.QUEUED, _place(standing.ahead), since)
    elif alone and since <= now:
        yield Obstacle(Reason.QUEUED, "its time has come, and it is about to be put into the queue", since)


def _place(ahead: Ahead) -> str:
    match ahead.count:
        case 0:
            return "it is ready, and the next one of its account"
        case 1:
            return "it is ready, and 1 message of its account goes before it"
        case count:
            return (
                f"it is ready, and {'at least ' if ahead.at_least else ''}{count} messages of its account go before it"
            )


def _said(words: str | None) -> str:
    """Return what was said, in brackets, without the stop at its end."""
    return f" ({words.strip().rstrip('.')})" if words and words.strip() else ""


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
