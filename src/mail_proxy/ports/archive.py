"""Messages as tenants and operators look for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mail_proxy.domain.explanation import Standing
from mail_proxy.domain.message import Details
from mail_proxy.domain.report import EventType
from mail_proxy.domain.search import TextFilter


@dataclass(frozen=True, slots=True)
class MessageFilter:
    """Which messages of a tenant are listed; None means any."""

    status: str | None = None
    """The historic word: pending, deferred, sent, error."""
    state: str | None = None
    """The public state: waiting, sending, sent, failed, expired, cancelled."""
    account_id: str | None = None
    batch_code: str | None = None
    priority: int | None = None
    active_only: bool = False
    created_from: float | None = None
    """Accepted then or later, Unix seconds."""
    created_to: float | None = None
    """Accepted before then."""
    texts: TextFilter = TextFilter()  # noqa: RUF009 - a value that never changes


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A place in the list of a tenant's messages: what was accepted later lies above, and of two at once the later pk.

    It stays where it is while messages come and go.
    """

    created_ts: float
    pk: int


@dataclass(frozen=True, slots=True)
class Page:
    """One page of messages, newest first, and the place to go on below; None at the end.

    A search that had to look at many messages may have found few or none so far, and yet go on below.
    """

    messages: Sequence[Details]
    below: Place | None


@dataclass(frozen=True, slots=True)
class PastEvent:
    """One line of a message's history."""

    event_id: int | None
    type: EventType
    ts: float
    entry: str | None
    reported_ts: float | None


class Archive(Protocol):
    """Messages and their histories as the API shows them. Reads only."""

    async def page(self, tenant_id: str, wanted: MessageFilter, below: Place | None, limit: int, now: float) -> Page:
        """Messages of one tenant, newest first; costs the same on the first page and on the last.

        Reads a bounded number of messages, whatever is wanted of them, and then answers what it has found. A page
        ends early where its messages are large.
        """  # G11
        ...

    async def message(self, tenant_id: str, message_id: str) -> Details | None:
        """One message of one tenant, or None."""
        ...

    async def history(self, tenant_id: str, message_id: str) -> Sequence[PastEvent] | None:
        """A message's events in order, the derived `queued` first; None if the message is unknown."""
        ...

    async def standing(self, tenant_id: str, message_id: str) -> Standing | None:
        """What decides when one message of one tenant is sent, or None; bounded in time as `pending` is."""
        ...

    async def pending(self, tenant_id: str, batch_code: str | None = None) -> int:
        """How many messages of a tenant (and batch) are not finished, counted up to `MANY`."""
        ...
