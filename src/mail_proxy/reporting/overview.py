"""How reporting goes to each tenant, the same whichever instance is asked, as far as the database knows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mail_proxy.domain.sync_lease import MANY_EVENTS, SyncMemory, SyncRecord
from mail_proxy.ports.clock import Clock
from mail_proxy.ports.outbox import SyncRecords
from mail_proxy.reporting.lane import SyncStatus


@dataclass(frozen=True, slots=True)
class TenantSync:
    """How reporting to one tenant goes, and what there is to report."""

    tenant_id: str
    status: SyncStatus
    pending_events: int
    at_least: bool
    """There are more events pending, which were not counted."""


class SyncOverview:
    """Tells how reporting goes."""

    def __init__(self, records: SyncRecords, here: Callable[[str], SyncStatus], clock: Clock, interval: float) -> None:
        """`here`: what this instance knows of reporting to a tenant; it counts where the store knows nothing.

        `interval`: seconds after which an empty report follows the last one.
        """
        self._records = records
        self._here = here
        self._clock = clock
        self._interval = interval

    async def page(self, after: str | None, limit: int) -> tuple[Sequence[TenantSync], str | None]:
        """Return up to `limit` tenants whose id is above `after`, by id, and the id to go on after; None at the end."""
        found = await self._records.records(after, limit + 1)
        now = self._clock.now()
        shown = [self._told(record, now) for record in found[:limit]]
        return shown, shown[-1].tenant_id if len(found) > limit else None

    def _told(self, record: SyncRecord, now: float) -> TenantSync:
        status = (
            self._here(record.tenant_id) if record.memory is None else status_of(record.memory, now, self._interval)
        )
        if record.pending and status.next_sync_due is not None and not status.consecutive_failures:
            status = replace(status, next_sync_due=now)  # events do not wait
        return TenantSync(record.tenant_id, status, record.pending, record.pending >= MANY_EVENTS)


def status_of(memory: SyncMemory, now: float, interval: float) -> SyncStatus:
    """Read what was handed on with the last turn. What was due by now is due now."""
    due = memory.due
    if due is None and not memory.failures and memory.synced_ts is not None:
        # who had the turn may not have known yet that the tenant is in the round of empty reports
        by_the_round = max(memory.synced_ts + interval, memory.quiet_until or 0.0)
        due = by_the_round if by_the_round >= now else None
    return SyncStatus(
        last_sync_ts=memory.synced_ts,
        next_sync_due=None if due is None else max(due, now),
        in_dnd=memory.quiet_until is not None and memory.quiet_until > now,
        consecutive_failures=memory.failures,
        last_error=memory.last_error,
    )
