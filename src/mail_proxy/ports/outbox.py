"""Events on their way to tenants: those to be told, the feed of all, who tells whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mail_proxy.domain.report import StoredEvent
from mail_proxy.domain.sync_lease import SyncLease, SyncMemory, SyncRecord, Waiting


class Outbox(Protocol):
    """Events that tenants have not acknowledged yet."""  # G9

    async def tenants_with_events(self) -> Sequence[Waiting]:
        """Tenants that have unreported events, and what was handed on with the last turn of each."""
        ...

    async def pending(self, tenant_id: str, limit: int, after: int = 0) -> Sequence[StoredEvent]:
        """The tenant's oldest unreported events whose id is above `after`, in order."""
        ...

    async def acknowledge(self, event_ids: Sequence[int], now: float, lease: SyncLease | None = None) -> bool:
        """Mark events as reported, and their messages where nothing is left to report.

        False, and nothing is marked, where that lease is another instance's by now.
        """
        ...


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a tenant's feed, and how far the feed goes, as they were at one moment."""

    events: Sequence[StoredEvent]
    horizon: int
    """The highest event that was removed, or 0. What is at or below it is not told; nothing above it was removed."""
    end: int
    """The highest event that the tenant has ever had, or 0."""


class Feed(Protocol):
    """All events of a tenant in their order, whether they were reported or not."""

    async def stretch(self, tenant_id: str, after: int | None, limit: int, max_chars: int) -> Stretch:
        """Return up to `limit` events that follow on `after`; None: on the horizon.

        It ends early where their entries have more characters than `max_chars`. Nothing follows on what is below the
        horizon or beyond the end. Whoever goes on from the last event, and is above the horizon then, misses none.
        """
        ...

    async def ends(self, tenant_ids: Sequence[str]) -> Mapping[str, int]:
        """Return the highest event that each of these tenants has ever had, or 0, at the cost of a step for each."""
        ...


class SyncLeases(Protocol):
    """Turns to report to a tenant: one instance at a time has it."""  # G9

    async def take(self, tenant_id: str) -> SyncLease | None:
        """Take the turn; None while an instance has it that is not known to be dead."""
        ...

    async def release(self, lease: SyncLease, memory: SyncMemory) -> None:
        """Give the turn back, and hand on what the next one should know, also one after a restart.

        Where there is nobody else, no write is made for what means nothing to a next one; `close` makes it.
        """
        ...


class SyncRecords(Protocol):
    """How reporting goes, tenant by tenant. Reads only."""

    async def records(self, after: str | None, limit: int) -> Sequence[SyncRecord]:
        """Up to `limit` tenants whose id is above `after`, by id. Costs no more where a million events are pending."""
        ...
