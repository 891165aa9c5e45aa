"""Events that tenants have not acknowledged yet."""  # G9

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Connection, Double, Integer, Text, bindparam, func, literal, select, update

from mail_proxy.domain.message import FINAL_STATES
from mail_proxy.domain.report import Event, EventType, StoredEvent
from mail_proxy.domain.sync_lease import SyncLease, Waiting
from mail_proxy.store.database import Database
from mail_proxy.store.keyset import upwards
from mail_proxy.store.operation import Company, Operation, Transaction
from mail_proxy.store.prepared import Prepared, once
from mail_proxy.store.rows import among, one_of, pack, packed, selected, unpack
from mail_proxy.store.schema import events, messages, sync_leases, tenants
from mail_proxy.store.sync_leases import Holders
from mail_proxy.store.sync_notes import memory_columns, read_memory

ACKNOWLEDGEMENTS_WAIT = 0.02
"""Seconds: one that is lost in that time is told again, as one whose answer was lost."""


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """Events that a tenant has taken, and when."""

    event_ids: tuple[int, ...]
    now: float
    lease: SyncLease | None = None


class StoreOutbox:
    """Keeps the `Outbox` port on SQLite and PostgreSQL."""

    def __init__(self, database: Database) -> None:
        dialect = database.dialect
        self._database = database
        # one look into the index for each tenant; `exists` would be turned into a join over all events
        first = upwards(dialect, (events.c.tenant_id, events.c.event_id), tenants.c.id, literal(0))
        oldest_ts = (
            select(events.c.ts)
            .where(first.condition, events.c.reported_ts.is_(None))
            .order_by(*first.order)
            .limit(1)
            .correlate(tenants)
            .scalar_subquery()
        )
        with_events = select(tenants.c.id, oldest_ts.label("oldest")).where(oldest_ts.is_not(None))
        self.with_events = packed(dialect, with_events.subquery("with_events"))
        theirs_among = among(dialect, sync_leases.c.tenant_id, "tenants")
        memories = select(sync_leases.c.tenant_id, *memory_columns()).where(theirs_among)
        self.memories = packed(dialect, memories.subquery("memories"))
        walk = upwards(
            dialect,
            (events.c.tenant_id, events.c.event_id),
            bindparam("tenant", type_=Text),
            bindparam("after", type_=BigInteger),
        )
        oldest = (
            select(
                events.c.event_id, events.c.tenant_id, events.c.message_pk, events.c.type, events.c.ts, events.c.entry
            )
            .where(walk.condition, events.c.reported_ts.is_(None))
            .order_by(*walk.order)
            .limit(bindparam("limit", type_=Integer))
        )
        self.oldest = Prepared(packed(dialect, oldest.subquery("oldest")))
        told = among(dialect, events.c.event_id, "event_ids")
        now = bindparam("now", type_=Double)
        self.mark_events = Prepared(
            update(events).where(told).values(reported_ts=func.coalesce(events.c.reported_ts, now))
        )
        untold = (
            select(events.c.event_id)
            # not `IS NULL`, for which the index on all unreported events might be walked
            .where(events.c.message_pk == messages.c.pk, func.coalesce(events.c.reported_ts, 0.0) == 0.0, ~told)
            .correlate(messages)
            .limit(1)
            .scalar_subquery()
        )
        done = (
            select(messages.c.pk)
            .where(selected(dialect, messages.c.pk, select(events.c.message_pk).where(told)))
            .where(one_of(messages.c.state, (state.value for state in sorted(FINAL_STATES))))
            .where(func.coalesce(messages.c.reported_ts, 0.0) == 0.0, untold.is_(None))
            .order_by(messages.c.pk)
            .with_for_update(of=messages)
        )
        self.mark_messages = Prepared(
            update(messages).where(selected(dialect, messages.c.pk, done)).values(reported_ts=now)
        )
        self._holders = once(Holders, dialect)
        self._acknowledge = Operation("acknowledge", self._run, company=Company.OWN, patience=ACKNOWLEDGEMENTS_WAIT)

    async def tenants_with_events(self) -> Sequence[Waiting]:
        """See `Outbox.tenants_with_events`."""

        def look(connection: Connection) -> list[Waiting]:
            waiting = unpack(connection.execute(self.with_events).scalar())
            wanted = {"tenants": pack(tenant_id for tenant_id, _ in waiting)}
            known = unpack(connection.execute(self.memories, wanted).scalar()) if waiting else []
            memories = {tenant_id: read_memory(values) for tenant_id, *values in known}
            return [Waiting(tenant_id, oldest, memories.get(tenant_id)) for tenant_id, oldest in waiting]

        return await self._database.read(look)

    async def pending(self, tenant_id: str, limit: int, after: int = 0) -> Sequence[StoredEvent]:
        """See `Outbox.pending`."""

        def look(connection: Connection) -> list[StoredEvent]:
            wanted = {"tenant": tenant_id, "limit": limit, "after": after}
            return [
                StoredEvent(event_id, Event(tenant, message_pk, EventType(type_), ts, entry))
                for event_id, tenant, message_pk, type_, ts, entry in self.oldest.rows(connection, wanted)
            ]

        return await self._database.read(look)

    async def acknowledge(self, event_ids: Sequence[int], now: float, lease: SyncLease | None = None) -> bool:
        """See `Outbox.acknowledge`."""
        if not event_ids:
            return True
        return await self._database.write(self._acknowledge, Acknowledgement(tuple(event_ids), now, lease))

    def _run(self, transaction: Transaction, told: Sequence[Acknowledgement]) -> Sequence[bool]:
        standing = self._holders.standing(transaction.connection, [each.lease for each in told])
        counting = [each for each, stands in zip(told, standing, strict=True) if stands]
        if counting:
            ids = pack(sorted(event_id for each in counting for event_id in each.event_ids))
            chosen = {"event_ids": ids, "now": max(each.now for each in counting)}
            # messages are locked before their events, everywhere
            self.mark_messages.run(transaction.connection, chosen)
            self.mark_events.run(transaction.connection, chosen)
        return standing
