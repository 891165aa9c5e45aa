"""Whose turn it is to report to a tenant, and what is handed on with the turn."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

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
    place: str | None = None
    """A mark of where the syncs went: what they met there means nothing for another endpoint."""
    gone: bool = False
    """The endpoint said that it is gone for good: nothing more is sent to it, unless somebody asks for it."""


class SyncStanding(str, Enum):
    """How reporting goes to a tenant that has events to be told of."""

    REPORTING = "reporting"
    FAILING = "failing"
    """The last sync failed."""
    PAUSED = "paused"
    """The endpoint is gone for good."""
    WITHOUT_ENDPOINT = "without_endpoint"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A tenant that has events to be told of."""

    tenant_id: str
    oldest: float
    """When the first of them came about, in Unix seconds."""
    memory: SyncMemory | None = None


@dataclass(frozen=True, slots=True)
class Behind:
    """Tenants of one standing that have events to be told of."""

    tenants: int = 0
    lag: float = 0.0
    """The age in seconds of the oldest event of all of them."""


@dataclass(frozen=True, slots=True)
class SyncRecord:
    """What the store knows of reporting to a tenant."""

    tenant_id: str
    memory: SyncMemory | None
    """What was handed on with the last turn; None where nobody has had one."""
    pending: int
    """Events that are not acknowledged, counted up to `MANY_EVENTS`."""


@dataclass(frozen=True, slots=True)
class SyncLease:
    """One instance's turn to report to a tenant; the token tells it from every other turn."""

    tenant_id: str
    token: str
    memory: SyncMemory | None = None
    """What another instance has handed on, or an earlier run; None where this one had the last turn itself."""
