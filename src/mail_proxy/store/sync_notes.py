"""What is known of reporting to tenants where one process has the database: in memory, and written down in time.

What changes how the next run goes on (failures, pauses, do-not-disturb, an endpoint that is gone) is written at once;
that a report was acknowledged, half a minute later at the latest that anything is, and at the end. So a report that
gets through costs no write of its own.
"""  # G6, G9

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from sqlalchemy import ColumnElement, Text, bindparam, literal, select
from sqlalchemy.dialects.sqlite import insert

from mail_proxy.domain.sync_lease import SyncMemory
from mail_proxy.ports.clock import Clock
from mail_proxy.store.database import Database
from mail_proxy.store.operation import Operation, Transaction
from mail_proxy.store.rows import pack, packed, unpack, unpacked
from mail_proxy.store.schema import sync_leases, tenants

FIELDS = tuple(each.name for each in fields(SyncMemory))
EVERY = 30.0
"""Seconds after which what means little is written down, too."""


def memory_columns() -> Sequence[ColumnElement[Any]]:
    """The columns of a `SyncMemory`, in its order."""
    return [sync_leases.c[name] for name in FIELDS]


def memory_types() -> dict[str, Any]:
    """Their types."""
    return {name: sync_leases.c[name].type for name in FIELDS}


def read_memory(values: Sequence[Any]) -> SyncMemory | None:
    """Make one of the values of those columns; None where there is no row."""
    if values[0] is None:
        return None
    given = dict(zip(FIELDS, values, strict=True))
    return SyncMemory(**{**given, "gone": bool(given["gone"])})


class SyncNotes:
    """Remembers for each tenant what was noted last, and what of it is written down."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._written: dict[str, SyncMemory | None] = {}
        self._unwritten: dict[str, SyncMemory] = {}
        self._written_at = clock.monotonic()
        wanted = select(*memory_columns()).where(sync_leases.c.tenant_id == bindparam("tenant", type_=Text))
        self.look = packed("sqlite", wanted.subquery("wanted"))
        noted = unpacked("sqlite", {"tenant_id": Text(), **memory_types()})
        writing = insert(sync_leases).from_select(
            ["tenant_id", *FIELDS],
            # of a tenant that is gone nothing is kept; and a condition tells the conflict from a join
            select(*noted.c).where(noted.c.tenant_id.in_(select(tenants.c.id)) & literal(True)),
        )
        self.write = writing.on_conflict_do_update(
            index_elements=["tenant_id"], set_={name: writing.excluded[name] for name in FIELDS}
        )
        self._save_op = Operation("note_syncs", self._save)

    @property
    def unwritten(self) -> Mapping[str, SyncMemory]:
        """What is newer than what stands in the database."""
        return self._unwritten

    async def from_before(self, tenant_id: str) -> SyncMemory | None:
        """Return what an earlier run has left, to the first who asks."""
        if tenant_id in self._written:
            return None
        rows = await self._database.read(
            lambda connection: unpack(connection.execute(self.look, {"tenant": tenant_id}).scalar())
        )
        memory = read_memory(rows[0]) if rows else None
        self._written.setdefault(tenant_id, memory)
        return memory

    async def note(self, tenant_id: str, memory: SyncMemory) -> None:
        """Remember it, and write it down with what else there is if it matters or is time."""
        self._unwritten[tenant_id] = memory
        late = self._clock.monotonic() - self._written_at >= EVERY
        if late or _matters(memory, self._written.get(tenant_id)):
            await self.save()

    async def save(self) -> None:
        """Write down what is not; raises `StoreUnavailable`."""
        saving, self._written_at = dict(self._unwritten), self._clock.monotonic()
        if saving:
            await self._database.write(self._save_op, list(saving.items()))
            self._written |= saving
            for tenant_id, memory in saving.items():
                if self._unwritten.get(tenant_id) == memory:
                    del self._unwritten[tenant_id]

    def _save(self, transaction: Transaction, given: Sequence[Sequence[tuple[str, SyncMemory]]]) -> Sequence[None]:
        latest = {tenant_id: memory for each in given for tenant_id, memory in each}
        rows = [(tenant_id, *(getattr(memory, name) for name in FIELDS)) for tenant_id, memory in latest.items()]
        transaction.connection.execute(self.write, {"rows": pack(rows)})
        return [None] * len(given)


def _matters(memory: SyncMemory, written: SyncMemory | None) -> bool:
    """Say whether a next run would go on in another way than by what is written down."""
    before = written or SyncMemory()
    if abs((memory.quiet_until or 0.0) - (before.quiet_until or 0.0)) >= EVERY:
        return True
    # when it was, and where it goes to, matters only where it went wrong
    same = replace(memory, quiet_until=before.quiet_until, synced_ts=before.synced_ts, due=before.due)
    if not (memory.failures or before.failures):
        same = replace(same, place=before.place)
    return same != before
