"""Events of a message's life, and the entries that reports are made of (one JSON object each)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum

from mail_proxy.domain.json_text import to_text
from mail_proxy.domain.recipient import Recipient, RecipientState
from mail_proxy.domain.reply import is_enhanced
from mail_proxy.domain.value import value


class EventType(str, Enum):
    """What happened to a message. `queued` is derived from the message and never stored."""

    QUEUED = "queued"
    SENT = "sent"
    DEFERRED = "deferred"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    UNCERTAIN = "uncertain"


@value
class Event:
    """Something that happened, as it is written in the transaction that makes it true.

    `entry` is the report's entry as JSON text, complete but for the event's id: it outlives the message.
    """  # G9

    tenant_id: str
    message_pk: int
    type: EventType
    ts: float
    entry: str


@value
class StoredEvent:
    """An event with the id that the store gave it; ids grow in commit order."""

    event_id: int
    event: Event


@value
class Subject:
    """The message that an entry speaks of."""

    tenant_id: str
    id: str
    pk: int
    account_id: str
    priority: int
    batch_code: str | None = None
    metadata: Mapping[str, object] | None = None
    traceparent: str | None = None


@value
class Outlook:
    """What an entry says beyond its subject: reason and code of a failure, or when it goes on."""

    error: str | None = None
    error_code: str | None = None
    deferred_ts: float | None = None
    deferred_reason: str | None = None


def recipient_view(recipient: Recipient) -> dict[str, object]:
    """One recipient as reports and the API show it."""
    code, enhanced, text = split_reply(recipient.reply)
    return {
        "address": recipient.address,
        "kind": recipient.kind.value,
        "state": recipient.state.value,
        "code": code,
        "enhanced_code": enhanced,
        "text": text,
        "ts": recipient.ts,
    }


def split_reply(reply: str | None) -> tuple[int | None, str | None, str | None]:
    """Take a stored reply (`550 5.1.1 no such user`) apart: (code, enhanced code, text)."""
    if not reply:
        return None, None, None
    first, _, rest = reply.partition(" ")
    if not (len(first) == 3 and first.isdigit()):
        return None, None, reply
    second, _, text = rest.partition(" ")
    if is_enhanced(second, of=int(first)):
        return int(first), second, text
    return int(first), None, rest


def entry(
    subject: Subject, type_: EventType, ts: float, recipients: Sequence[Recipient], outlook: Outlook | None = None
) -> str:
    """Build one report entry as JSON text, without its `event_id`.

    `sent` carries `sent_ts`; `failed`, `expired` and `cancelled` carry `error_ts` and `error`; `deferred` carries
    `deferred_ts` and `deferred_reason`; `uncertain` carries `uncertain_ts`.
    """
    outlook = outlook or Outlook()
    fields: dict[str, object] = {
        "tenant_id": subject.tenant_id,
        "id": subject.id,
        "pk": str(subject.pk),
        "account_id": subject.account_id,
        "priority": subject.priority,
        "event": type_.value,
    }
    if type_ is EventType.SENT:
        fields["sent_ts"] = ts
    elif type_ is EventType.DEFERRED:
        fields["deferred_ts"] = outlook.deferred_ts
        fields["deferred_reason"] = outlook.deferred_reason
    elif type_ is EventType.UNCERTAIN:
        fields["uncertain_ts"] = ts
        fields["error"] = outlook.error
    else:
        fields["error_ts"] = ts
        fields["error"] = outlook.error
        fields["error_code"] = outlook.error_code
    fields["recipients"] = [recipient_view(r) for r in recipients]
    if subject.batch_code is not None:
        fields["batch_code"] = subject.batch_code
    if subject.metadata is not None:
        fields["metadata"] = subject.metadata
    if subject.traceparent is not None:
        fields["traceparent"] = subject.traceparent
    return to_text(fields)


def sent_to_someone(recipients: Sequence[Recipient]) -> bool:
    """True when at least one recipient was accepted."""
    return any(r.state is RecipientState.SENT for r in recipients)
