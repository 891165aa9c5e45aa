"""Whose turn it is to report to a tenant, and what is handed on with the turn."""

from __future__ import annotations

from dataclasses import dataclass


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


@dataclass(frozen=True, slots=True)
class SyncLease:
    """One instance's turn to report to a tenant; the token tells it from every other turn."""

    tenant_id: str
    token: str
    memory: SyncMemory | None = None
    """What another instance has handed on; None where this one had the last turn itself."""
