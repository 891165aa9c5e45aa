"""Messages that an instance has taken to send, and what it may do with them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mail_proxy.domain.attachment import FetchMode
from mail_proxy.domain.large_file import LEAST_MAX_SIZE_MB
from mail_proxy.domain.message import Identity
from mail_proxy.domain.recipient import Recipient
from mail_proxy.domain.trace_context import of_fields
from mail_proxy.domain.value import value

_FETCHED = tuple(f'"fetch_mode":"{mode.value}"' for mode in FetchMode if mode is not FetchMode.BASE64)


LARGE_INLINE = int(LEAST_MAX_SIZE_MB * 1_000_000)


def may_fetch(fields: str) -> bool:
    """False where no attachment of a submission comes from elsewhere or is large; true where it has to be looked at."""
    # In the JSON of a stored submission these words stand only where they are members, or in metadata.
    if '"attachments":[{' not in fields:
        return False
    return len(fields) > LARGE_INLINE or any(each in fields for each in _FETCHED)


HELPING = 8_000_000
"""Characters of submissions that one claim takes into memory, however many big messages wait."""  # G11


@dataclass(frozen=True, slots=True)
class Demand:
    """A wish for up to `limit` ready messages of one account; `urgent_only` takes only priority `immediate`."""

    account_pk: int
    limit: int
    urgent_only: bool = False
    heaviest: int | None = None
    """Bytes of a submission beyond which it stays in the queue, with all that come after it; None: any."""  # G11


@dataclass(frozen=True, slots=True)
class Limited:
    """A rate limit lets nothing more of an account through for now."""  # G10

    seconds: float
    """After which it is worth looking again."""
    until: float
    """The same as Unix seconds, for people."""
    reason: str
    told: int
    """How many messages at the head of the queue were told so, each by an event, for the first time."""


@value
class Claimed:
    """One message in this instance's hands. Every later write names `token`: without it nothing is written."""  # G5

    pk: int
    token: str
    tenant_id: str
    account_pk: int
    account_id: str
    priority: int
    batch_code: str | None
    attempts: int
    """This attempt counted."""
    created_ts: float
    first_attempt_ts: float
    expires_ts: float | None
    fields: str
    """The submission as JSON text."""
    identity: Identity
    recipients: tuple[Recipient, ...]
    crashes: int = 0
    """How many instances have ended while they were sending it."""  # G13
    sealed_auths: str | None = field(default=None, repr=False)
    """The credentials of its attachments, sealed."""
    by_tenant: bool = True
    """It came with a tenant's token."""
    may_fetch: bool = False
    """See `may_fetch`."""

    @property
    def metadata(self) -> Mapping[str, object] | None:
        """What the client attached to the message for itself."""
        if '"metadata"' not in self.fields:  # spares most messages the parsing
            return None
        try:
            fields = json.loads(self.fields)
        except ValueError:  # a stored message that was damaged is still judged, and told
            return None
        metadata = fields.get("metadata") if isinstance(fields, dict) else None
        return metadata if isinstance(metadata, dict) else None

    @property
    def traceparent(self) -> str | None:
        """Where its attempts belong in its caller's trace."""
        return of_fields(self.fields)

    @property
    def scheduled(self) -> bool:
        """True when it was submitted to be sent at a time of its own, as far as its text tells without being read."""
        return '"deferred_ts":' in self.fields

    @property
    def waiting(self) -> tuple[Recipient, ...]:
        """The recipients that are still to be served."""  # G7
        return tuple(r for r in self.recipients if not r.state.final)


@dataclass(frozen=True, slots=True)
class Taking:
    """What a claim came to."""

    claimed: Sequence[Claimed] = ()
    limited: Mapping[int, Limited] = field(default_factory=dict)
    """By account: those that a rate limit holds up."""
    refused: Sequence[Claimed] = ()
    """Taken only to be failed: their account rejects what its limit does not let through."""
    parked: frozenset[int] = frozenset()
    """Accounts that got less than was asked for because messages of suspended batches were met: more may follow."""
    heavy: frozenset[int] = frozenset()
    """Accounts whose next message is heavier than was asked for."""
