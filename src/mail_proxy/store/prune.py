"""Removing messages that are finished and told, in chunks, and what messages that were removed by hand have left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Double,
    Integer,
    Select,
    Text,
    bindparam,
    delete,
    func,
    literal,
    select,
    text,
    true,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from mail_proxy.store.keyset import upwards
from mail_proxy.store.operation import Transaction
from mail_proxy.store.prepared import once
from mail_proxy.store.rows import among, pack, packed, unpack, unpacked
from mail_proxy.store.schema import ANY_EVENT, ANY_MESSAGE, contents, events, feed_horizons, messages, recipients

Removed = Sequence[tuple[str, int]]
"""Events that are gone: whose, and which."""


@dataclass(frozen=True, slots=True)
class PruneRequest:
    """Remove what ended before that time; `silent_tenants` have no endpoint, so nothing of theirs is to be told."""

    finished_before: float
    limit: int
    silent_tenants: tuple[str, ...]


class Remove:
    """Removes messages with what belongs to them."""

    def __init__(self, dialect: str) -> None:
        of_messages = among(dialect, events.c.message_pk)
        self.events = delete(events).where(of_messages).returning(events.c.tenant_id, events.c.event_id)
        self.leave = update(events).where(of_messages).values(left_behind=True)
        self.settle = self.leave.values(reported_ts=func.coalesce(events.c.reported_ts, events.c.ts))
        self.rest = (
            delete(recipients).where(among(dialect, recipients.c.message_pk)),
            delete(contents).where(among(dialect, contents.c.message_pk)),
            delete(messages).where(among(dialect, messages.c.pk)),
        )
        held = (
            select(events.c.event_id)
            .where(among(dialect, events.c.message_pk))
            .order_by(events.c.event_id + 0)  # for the order itself PostgreSQL would walk through all events
            .with_for_update(of=events)
        )
        self.held = packed(dialect, held.subquery("held")) if dialect != "sqlite" else None

    def __call__(self, connection: Connection, pks: Sequence[int]) -> Removed:
        """Remove these, with their events; return those."""
        if not pks:
            return ()
        chosen = {"pks": pack(pks)}
        removed = [(tenant_id, event_id) for tenant_id, event_id in connection.execute(self.events, chosen)]
        self._remove_rest(connection, chosen)
        return removed

    def leaving_events(self, connection: Connection, pks: Sequence[int], *, silent: bool) -> None:
        """Remove these but leave their events, until retention takes them.

        `silent`: there is nobody to tell, so they count as told.
        """  # G9
        if pks:
            chosen = {"pks": pack(pks)}
            if self.held is not None:  # as an acknowledgement locks them: after their messages, and in their order
                connection.execute(self.held, chosen)
            connection.execute(self.settle if silent else self.leave, chosen)
            self._remove_rest(connection, chosen)

    def _remove_rest(self, connection: Connection, chosen: Mapping[str, str]) -> None:
        for statement in self.rest:
            connection.execute(statement, chosen)


class RaiseHorizons:
    """Notes how far the feeds of tenants have been cut off."""

    def __init__(self, dialect: str) -> None:
        rows = unpacked(dialect, {"tenant_id": Text(), "event_id": BigInteger()})
        # SQLite takes `ON` for a join's where nothing stands between
        given = select(rows.c.tenant_id, rows.c.event_id).where(true())
        into = sqlite.insert if dialect == "sqlite" else postgresql.insert
        raised = into(feed_horizons).from_select(["tenant_id", "event_id"], given)
        self.statement = raised.on_conflict_do_update(
            index_elements=["tenant_id"],
            set_={"event_id": raised.excluded.event_id},
            where=feed_horizons.c.event_id < raised.excluded.event_id,
        )

    def __call__(self, connection: Connection, removed: Removed) -> None:
        """Raise them to what was removed."""
        highest: dict[str, int] = {}
        for tenant_id, event_id in removed:
            highest[tenant_id] = max(event_id, highest.get(tenant_id, 0))
        if highest:  # in one order everywhere, as each is locked
            connection.execute(self.statement, {"rows": pack(sorted(highest.items()))})


class Prune:
    """Deletes finished and reported messages with all that belongs to them."""  # G9

    def __init__(self, dialect: str) -> None:
        before = bindparam("finished_before", type_=Double)
        limit = bindparam("limit", type_=Integer)
        tenant = bindparam("tenant", type_=Text)
        reported = (
            select(messages.c.pk)
            .where(messages.c.finished_ts.is_not(None), messages.c.reported_ts.is_not(None))
            .where(messages.c.finished_ts < before)
            .order_by(messages.c.finished_ts)
            .limit(limit)
            .with_for_update(of=messages, skip_locked=True)  # somebody may be about to send it again
        )
        self.reported = packed(dialect, reported.subquery("old"))
        silent = (
            select(messages.c.pk)
            .where(messages.c.tenant_id == tenant)
            .where(messages.c.finished_ts.is_not(None), messages.c.reported_ts.is_(None))
            .where(messages.c.finished_ts < before)
            .order_by(messages.c.finished_ts)
            .limit(limit)
            .with_for_update(of=messages, skip_locked=True)
        )
        self.silent = packed(dialect, silent.subquery("old"))
        of_tenant = select(messages.c.pk).where(messages.c.tenant_id == tenant, text(ANY_MESSAGE)).limit(limit)
        self.of_tenant = packed(dialect, of_tenant.subquery("all_of"))
        self.remove = once(Remove, dialect)
        self.raise_horizons = once(RaiseHorizons, dialect)
        left = select(events.c.event_id).where(text("events.left_behind"), events.c.ts < before)
        told = left.where(events.c.reported_ts.is_not(None)).order_by(events.c.ts).limit(limit)
        self.left_told = packed(dialect, told.subquery("left_told"))
        untold = left.where(events.c.reported_ts.is_(None), events.c.tenant_id == tenant)
        self.left_untold = packed(dialect, untold.order_by(events.c.ts).limit(limit).subquery("left_untold"))
        walk = upwards(dialect, (events.c.tenant_id, events.c.event_id), tenant, literal(0, BigInteger))
        rest = select(events.c.event_id).where(walk.condition, text(f"events.{ANY_EVENT}")).order_by(*walk.order)
        self.events_of_tenant = packed(dialect, rest.limit(limit).subquery("rest"))
        chosen = among(dialect, events.c.event_id, "event_ids")
        self.forget = delete(events).where(chosen).returning(events.c.tenant_id, events.c.event_id)

    def run(self, transaction: Transaction, requests: Sequence[PruneRequest]) -> Sequence[int]:
        """Remove one chunk for each request; answer how many messages, and events that others have left, went."""
        return [self._prune(transaction.connection, request) for request in requests]

    def _prune(self, connection: Connection, request: PruneRequest) -> int:
        def wanted(found: Sequence[int], **more: str) -> Mapping[str, object]:
            return {"finished_before": request.finished_before, "limit": request.limit - len(found), **more}

        pks = _numbers(connection, self.reported, wanted([]))
        for tenant in request.silent_tenants:
            if len(pks) < request.limit:
                pks += _numbers(connection, self.silent, wanted(pks, tenant=tenant))
        removed = list(self.remove(connection, pks))
        gone = list(pks)
        if len(gone) < request.limit:
            gone += _numbers(connection, self.left_told, wanted(gone))
        for tenant in request.silent_tenants:
            if len(gone) < request.limit:
                gone += _numbers(connection, self.left_untold, wanted(gone, tenant=tenant))
        removed += self._forget(connection, gone[len(pks) :])
        self.raise_horizons(connection, removed)
        return len(gone)

    def remove_tenant(self, transaction: Transaction, wanted: Sequence[tuple[str, int]]) -> Sequence[int]:
        """Remove one chunk of all that a tenant has, told or not."""
        counts = []
        connection = transaction.connection
        for tenant_id, limit in wanted:
            chosen = {"tenant": tenant_id, "limit": limit}
            found = _numbers(connection, self.of_tenant, chosen)
            self.remove(connection, found)
            if not found:
                found = _numbers(connection, self.events_of_tenant, chosen)
                self._forget(connection, found)
            counts.append(len(found))
        return counts

    def _forget(self, connection: Connection, event_ids: Sequence[int]) -> Removed:
        """Remove events alone; return those that were still there."""
        if not event_ids:
            return ()
        found = connection.execute(self.forget, {"event_ids": pack(event_ids)})
        return [(tenant_id, event_id) for tenant_id, event_id in found]


def _numbers(connection: Connection, which: Select[Any], wanted: Mapping[str, object]) -> list[int]:
    return [number for (number,) in unpack(connection.execute(which, wanted).scalar())]
