"""How reporting goes, as the database knows it: the same whichever instance is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Integer, Text, bindparam, func, select

from mail_proxy.domain.sync_lease import MANY_EVENTS, SyncMemory, SyncRecord
from mail_proxy.store.database import Database
from mail_proxy.store.rows import packed, unpack
from mail_proxy.store.schema import events, sync_leases, tenants
from mail_proxy.store.sync_notes import SyncNotes, memory_columns, read_memory


class StoreSyncRecords:
    """Keeps the `SyncRecords` port on SQLite and PostgreSQL."""

    def __init__(self, database: Database, notes: SyncNotes | None) -> None:
        """`notes`: what may be newer than what the database knows."""
        self._database = database
        self._notes = notes
        some = (
            select(events.c.event_id)
            .where(events.c.tenant_id == tenants.c.id, events.c.reported_ts.is_(None))
            .correlate(tenants)
            .limit(MANY_EVENTS)
            .subquery("some")
        )
        pending = select(func.count()).select_from(some).scalar_subquery()
        page = (
            select(tenants.c.id, pending.label("pending"), *memory_columns())
            .outerjoin_from(tenants, sync_leases, sync_leases.c.tenant_id == tenants.c.id)
            .where(tenants.c.id > bindparam("after", type_=Text))
            .order_by(tenants.c.id)
            .limit(bindparam("limit", type_=Integer))
        )
        self.page = packed(database.dialect, page.subquery("page"))

    async def records(self, after: str | None, limit: int) -> Sequence[SyncRecord]:
        """See `SyncRecords.records`."""
        wanted = {"after": after or "", "limit": limit}  # no id is empty
        rows = await self._database.read(lambda connection: connection.execute(self.page, wanted).scalar())
        newer: Mapping[str, SyncMemory] = {} if self._notes is None else self._notes.unwritten
        return [
            SyncRecord(tenant_id, newer.get(tenant_id) or read_memory(memory), pending)
            for tenant_id, pending, *memory in unpack(rows)
        ]
