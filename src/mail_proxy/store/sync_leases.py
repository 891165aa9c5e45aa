"""Turns to report to a tenant: a row that names who has it, passed on when that one is no longer among the instances.

No clock decides: an instance is taken off the list when it leaves, or when another one has seen its counter stand still
for a whole lease (`rescue.py`). On SQLite there is one process, and nobody to take turns with.
"""  # G9, G14

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from uuid import uuid4

from sqlalchemy import Connection, Text, bindparam, literal, select, update
from sqlalchemy import literal_column as sql
from sqlalchemy.dialects.postgresql import insert

from mail_proxy.domain.sync_lease import SyncLease, SyncMemory
from mail_proxy.ports.clock import Clock
from mail_proxy.store.database import Database
from mail_proxy.store.operation import Operation, Transaction
from mail_proxy.store.prepared import Prepared
from mail_proxy.store.rows import among, pack, packed, unpacked
from mail_proxy.store.schema import instances, sync_leases
from mail_proxy.store.sync_notes import FIELDS, SyncNotes, memory_columns, memory_types, read_memory


class StoreSyncLeases:
    """Keeps the `SyncLeases` port; on SQLite a turn is free, and `notes` are what is left to the next run."""

    def __init__(self, database: Database, instance_id: str, clock: Clock) -> None:
        self._database = database
        self._instance_id = instance_id
        self.notes = SyncNotes(database, clock) if database.dialect == "sqlite" else None
        wanted = unpacked("postgresql", {"tenant_id": Text(), "token": Text()})
        taking = insert(sync_leases).from_select(
            ["tenant_id", "token", "instance_id", "failures"],
            select(*wanted.c, bindparam("instance", type_=Text), literal(0)),
        )
        # written out: a column of the row in conflict, which SQLAlchemy would read from the table a second time
        alive = select(instances.c.id).where(instances.c.id == sql("sync_leases.instance_id"))
        free = sync_leases.c.token.is_(None) | (sync_leases.c.instance_id == taking.excluded.instance_id)
        taken = (
            taking.on_conflict_do_update(
                index_elements=["tenant_id"],
                set_={"instance_id": taking.excluded.instance_id, "token": taking.excluded.token},
                where=free | ~alive.exists(),
            )
            .returning(sync_leases.c.tenant_id, sync_leases.c.token, sync_leases.c.told_by, *memory_columns())
            .cte("taken")
        )
        self.take_free = Prepared(packed("postgresql", taken))
        told = unpacked("postgresql", {"tenant_id": Text(), "token": Text(), **memory_types()})
        self.hand_on = Prepared(
            update(sync_leases)
            .where(sync_leases.c.tenant_id == told.c.tenant_id, sync_leases.c.token == told.c.token)
            .values(
                token=None,
                told_by=sync_leases.c.instance_id,
                **{name: told.c[name] for name in FIELDS},
            )
        )
        self._take_op = Operation("take_sync_lease", self._take)
        self._release_op = Operation("release_sync_lease", self._release)

    async def take(self, tenant_id: str) -> SyncLease | None:
        """See `SyncLeases.take`."""
        wanted = SyncLease(tenant_id, uuid4().hex)
        if self.notes is not None:
            return replace(wanted, memory=await self.notes.from_before(tenant_id))
        return await self._database.write(self._take_op, wanted)

    async def release(self, lease: SyncLease, memory: SyncMemory) -> None:
        """See `SyncLeases.release`."""
        if self.notes is not None:
            await self.notes.note(lease.tenant_id, memory)
        else:
            await self._database.write(self._release_op, (lease, memory))

    async def close(self) -> None:
        """Write down what a next run should know, as far as it is not."""
        if self.notes is not None:
            await self.notes.save()

    def _take(self, transaction: Transaction, wanted: Sequence[SyncLease]) -> Sequence[SyncLease | None]:
        # of two who want the same tenant's, one gets it
        tokens = {each.tenant_id: each.token for each in wanted}
        # in one order by all, so that two that take many do not wait for each other
        rows = {"rows": pack(sorted(tokens.items())), "instance": self._instance_id}
        taken = {}
        for tenant_id, token, told_by, *memory in self.take_free.rows(transaction.connection, rows):
            ours = told_by in (None, self._instance_id)
            taken[token] = SyncLease(tenant_id, token, None if ours else read_memory(memory))
        return [taken.get(each.token) for each in wanted]

    def _release(self, transaction: Transaction, given: Sequence[tuple[SyncLease, SyncMemory]]) -> Sequence[None]:
        rows = [(lease.tenant_id, lease.token, *(getattr(memory, name) for name in FIELDS)) for lease, memory in given]
        self.hand_on.run(transaction.connection, {"rows": pack(rows)})
        return [None] * len(given)


class Holders:
    """Tells inside a transaction which leases stand, and keeps them standing to its end."""

    def __init__(self, dialect: str) -> None:
        self._alone = dialect == "sqlite"
        standing = (
            select(sync_leases.c.token)
            .where(among(dialect, sync_leases.c.tenant_id, "tenants"), sync_leases.c.token.is_not(None))
            .with_for_update(read=True, of=sync_leases)
        )
        self.tokens = Prepared(packed(dialect, standing.subquery("standing")))

    def standing(self, connection: Connection, leases: Sequence[SyncLease | None]) -> list[bool]:
        """Answer for each lease; where none is given, nothing is asked."""
        tenants = sorted({lease.tenant_id for lease in leases if lease is not None})
        if self._alone or not tenants:
            return [True] * len(leases)
        tokens = {token for (token,) in self.tokens.rows(connection, {"tenants": pack(tenants)})}
        return [lease is None or lease.token in tokens for lease in leases]
