"""A message as it was submitted, and the states that it goes through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum

from mail_proxy.domain.address import Mailbox
from mail_proxy.domain.attachment import Attachment
from mail_proxy.domain.raw import RawMessage
from mail_proxy.domain.recipient import Recipient, RecipientKind
from mail_proxy.domain.secret import Secret
from mail_proxy.domain.value import value

DEFAULT_PRIORITY = 2


class Priority(IntEnum):
    """Lower goes first; within one priority the older message does."""

    IMMEDIATE = 0
    HIGH = 1
    MEDIUM = 2
    LOW = 3


class MessageState(str, Enum):
    """Where a message stands. `ready`, `scheduled` and `held` are told to callers as `waiting`."""

    READY = "ready"
    SCHEDULED = "scheduled"
    HELD = "held"
    SENDING = "sending"
    SENT = "sent"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """True when nothing more will be tried."""
        return self in FINAL_STATES

    @property
    def public(self) -> str:
        """The state's name in the API."""
        return "waiting" if self in WAITING_STATES else self.value


WAITING_STATES = frozenset({MessageState.READY, MessageState.SCHEDULED, MessageState.HELD})
FINAL_STATES = frozenset({MessageState.SENT, MessageState.FAILED, MessageState.EXPIRED, MessageState.CANCELLED})


@value
class Message:
    """What goes out: headers, recipients and bodies, parsed and checked, independent of where it is queued.

    At least one of `text` and `html` is set, and both make a multipart/alternative. `headers` are extra headers in
    the caller's order. `message_id` is without angle brackets; None asks for one to be made. Where there is `raw`, that
    is the message, and the rest says only who it goes from and to.
    """

    sender: Mailbox
    to: tuple[Mailbox, ...]
    cc: tuple[Mailbox, ...]
    bcc: tuple[Mailbox, ...]
    subject: str
    text: str | None = None
    html: str | None = None
    reply_to: tuple[Mailbox, ...] = ()
    return_path: str | None = None
    message_id: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    raw: RawMessage | None = None
    attachments: tuple[Attachment, ...] = ()

    @property
    def envelope_sender(self) -> str:
        """The address for MAIL FROM; empty for the null sender."""
        return self.sender.address if self.return_path is None else self.return_path

    def recipients(self) -> tuple[tuple[str, RecipientKind], ...]:
        """Each address once, in the order to, cc, bcc; the first mention decides the kind."""
        kinds = ((self.to, RecipientKind.TO), (self.cc, RecipientKind.CC), (self.bcc, RecipientKind.BCC))
        seen: dict[str, RecipientKind] = {}
        for mailboxes, kind in kinds:
            for mailbox in mailboxes:
                seen.setdefault(mailbox.address, kind)
        return tuple(seen.items())


@value
class Identity:
    """What makes every attempt of one message the same message to its receivers."""  # G4

    mail_id: str
    """The client's id; goes out as `X-Genro-Mail-ID`."""
    message_id: str
    """Without angle brackets."""
    date: float
    """Unix seconds; goes out as `Date`."""


class FoundBy(str, Enum):
    """How it was found whose a message is, and which account sends it."""

    NAME = "name"
    DEFAULT = "default"
    """The tenant was named, and the account is its default or its only one."""
    ELIMINATION = "elimination"
    """There was no other tenant that it could be."""


@value
class NewMessage:
    """A checked message on its way into the queue. `fields` is the submission as JSON text; `due` None: at once.

    `by_tenant`: it came with a tenant's token, so that its attachments may come from fewer places. `auths` is what
    `domain/attachment_auth.py` makes of the credentials of its attachments.
    """

    tenant_id: str
    account_pk: int
    account_id: str
    id: str
    fields: str
    digest: str
    priority: int
    recipients: tuple[tuple[str, RecipientKind], ...]
    identity: Identity
    created_ts: float
    batch_code: str | None = None
    due: float | None = None
    expires_ts: float | None = None
    by_tenant: bool = True
    auths: Secret | None = None
    found_by: FoundBy = FoundBy.NAME


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of one submitted item: exactly one of these for each, in the order of the request."""

    index: int
    id: str
    verdict: Verdict
    code: str | None = None
    field: str | None = None
    reason: str | None = None


class Verdict(str, Enum):
    """How an item of a submission was taken."""

    QUEUED = "queued"
    DUPLICATE = "duplicate"
    REPLACED = "replaced"
    REJECTED = "rejected"


@value
class Existing:
    """What the queue holds under an id that is submitted again."""

    digest: str
    state: MessageState
    attempts: int
    """Above 0 also where they were given back, or begin anew, and an earlier one has told of itself."""


def resubmission(existing: Existing, digest: str) -> tuple[Verdict, str | None]:
    """Decide on an id that is already there: (verdict, code of the refusal).

    Same content: nothing changes. Other content: replaced while it was never attempted, else refused.
    """  # G3
    if existing.digest == digest:
        return Verdict.DUPLICATE, None
    if existing.state in WAITING_STATES and existing.attempts == 0:
        return Verdict.REPLACED, None
    if existing.state.final:
        return Verdict.REJECTED, f"already_{existing.state.value}"
    return Verdict.REJECTED, "already_taken"


@dataclass(frozen=True, slots=True)
class Details:
    """A message as the API shows it: the queue's row, the submission, its recipients."""

    pk: int
    id: str
    tenant_id: str
    account_id: str
    priority: int
    batch_code: str | None
    state: MessageState
    attempts: int
    created_ts: float
    due_ts: float | None
    deferred_reason: str | None
    finished_ts: float | None
    reported_ts: float | None
    reply: str | None
    fields: Mapping[str, object] = field(default_factory=dict)
    """The submission; the bytes of a complete message (`raw`) and of inline attachments left out."""
    body_removed_ts: float | None = None
    """When what it said was removed; it is not in `fields` any more."""
    recipients: tuple[Recipient, ...] = ()
