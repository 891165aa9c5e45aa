"""Who looks on, for operators: metrics and traces. Nothing depends on them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from mail_proxy.domain.account import Account
from mail_proxy.domain.attempt import Phase, Trace
from mail_proxy.domain.claim import Claimed
from mail_proxy.domain.large_file import (
    LargeFileAction,
)
from mail_proxy.domain.message import Priority
from mail_proxy.domain.settlement import Settlement
from mail_proxy.domain.sync_lease import Behind, SyncStanding


class Meter(Protocol):
    """Counts what happened, for operators. Never raises."""

    def sent(self, tenant_id: str, account_id: str) -> None:
        """A message was sent."""
        ...

    def failed(self, tenant_id: str, account_id: str) -> None:
        """A message ended as failed or expired."""
        ...

    def deferred(self, tenant_id: str, account_id: str) -> None:
        """A message was put off to a later time."""
        ...

    def rate_limited(self, tenant_id: str, account_id: str) -> None:
        """A rate limit was met."""
        ...

    def uncertain(self, tenant_id: str, account_id: str) -> None:
        """A final dot got no answer."""  # G4
        ...

    def poison(self, tenant_id: str, account_id: str) -> None:
        """A message was held because instances kept ending while they sent it."""  # G13
        ...

    def reported(self, events: int, *, ok: bool) -> None:
        """A report with that many events was acknowledged, or was not."""
        ...

    def behind(self, tenants: Mapping[SyncStanding, Behind]) -> None:
        """How many tenants have events to be told of, and since when, by how reporting goes to them."""  # G9
        ...

    def reports_took(self, seconds: float, *, answered: bool) -> None:
        """A report was on its way for so long, until it was answered or given up."""
        ...

    def waited(self, priority: Priority, seconds: float) -> None:
        """A message was first attempted so long after it could have been."""
        ...

    def phases(self, seconds: Mapping[Phase, float]) -> None:
        """An attempt spent so long on each of these phases."""
        ...

    def pending(self, messages: int, oldest: float | None) -> None:
        """So many messages are not finished; the oldest that could go at once was taken in so many seconds ago."""
        ...

    def in_hand(self, messages: int, sessions: int, journal: int) -> None:
        """This instance has taken up so many messages, holds so many sessions, and its journal has so many bytes."""
        ...

    def large_file(self, action: LargeFileAction) -> None:
        """An attachment was larger than its tenant wants to send, and this was done."""
        ...

    def outages(self, on_hold: int, left_alone: int) -> None:
        """So many accounts are on hold, and so many servers left alone by this instance."""  # G8
        ...


class CommitMeter(Protocol):
    """Counts what the store's writers do. Never raises; may be called from any thread."""

    def committed(self, writes: int, seconds: float) -> None:
        """So many writes were committed together, and that took so long."""
        ...


class Submitted(Protocol):
    """A submission that is being followed."""

    traceparent: str | None
    """What its messages are to be followed by."""

    def done(self, tenant_id: str | None, queued: int, rejected: int) -> None:
        """Take note of what came of it."""
        ...


class Tracer(Protocol):
    """Follows messages from their request to their report. Never raises. Times are Unix seconds."""

    def submission(self, traceparent: str | None) -> AbstractContextManager[Submitted]:
        """Follow one submission, below what its caller has sent, if that is a `traceparent`."""
        ...

    def attempt(self, account: Account, claimed: Claimed, outcome: Settlement, trace: Trace, began: float) -> None:
        """Take note of an attempt that ends now."""
        ...

    def report(self, tenant_id: str, payload: bytes, status: int | None, began: float) -> None:
        """Take note of a report that ends now; `status` None: there was no answer."""
        ...


@dataclass(frozen=True, slots=True)
class Observers:
    """Who looks on, for operators; nothing depends on them."""

    meter: Meter
    tracer: Tracer


class CacheTier(str, Enum):
    """Where a cached content came from."""

    MEMORY = "memory"
    DISK = "disk"
    SHARED = "shared"
    """Somebody else was fetching the same."""


class CacheMeter(Protocol):
    """Counts what the cache of attachments does. Never raises; may be called from any thread."""

    def cache_hit(self, tier: CacheTier, size: int) -> None:
        """A content of so many bytes did not have to be fetched."""
        ...

    def cache_missed(self) -> None:
        """A content that was named had to be fetched."""
        ...

    def cache_evicted(self, tier: CacheTier) -> None:
        """A content had to make room for another one."""
        ...

    def cache_holds(self, tier: CacheTier, size: int) -> None:
        """So many bytes are kept."""
        ...
