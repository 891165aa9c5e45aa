"""Whose turn it is to report to a tenant, and what is handed on with the turn."""

from __future__ import annotations

from dataclasses import dataclass

MANY_EVENTS = 1000
"""Unreported events of a tenant are counted so far, and no farther."""


@dataclass(frozen=True, slots=True)
class SyncMemory:
    """How reporting to a tenant went, for the instance that goes on with it. Times in Unix seconds."""

    failures: int = 0
    """Syncs that failed since the last one that did not."""
    retry_at: float | None = None
    """No sync before then, unless somebody asks for it."""
    quiet_until: float | None = None
    """No empty sync before then: do not disturb."""
    synced_ts: float | None = None
    """When a sync was last acknowledged."""
    due: float | None = None
    """When the next one was due as things stood; None if none was, as where the endpoint is gone."""
    last_error: str | None = None
    """Why the last sync failed, if it did; printable, and without secrets."""


@dataclass(frozen=True, slots=True)
class SyncRecord:
    """What the store knows of reporting to a tenant."""

    tenant_id: str
    memory: SyncMemory | None
    """What was handed on with the last turn; None where nobody has had one, or there is nobody to hand it on to."""
    pending: int
    """Events that are not acknowledged, counted up to `MANY_EVENTS`."""


@dataclass(frozen=True, slots=True)
class SyncLease:
    """One instance's turn to report to a tenant; the token tells it from every other turn."""

    tenant_id: str
    token: str
    memory: SyncMemory | None = None
    """What another instance has handed on; None where this one had the last turn itself."""
