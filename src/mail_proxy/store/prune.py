"""Removing messages that are finished and told, in chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Connection, Double, Integer, Select, Text, bindparam, delete, literal, select, text

from mail_proxy.store.database import Transaction
from mail_proxy.store.keyset import upwards
from mail_proxy.store.rows import among, pack, packed, unpack
from mail_proxy.store.schema import ANY_MESSAGE, contents, events, messages, recipients


@dataclass(frozen=True, slots=True)
class PruneRequest:
    """Remove what ended before that time; `silent_tenants` have no endpoint, so nothing of theirs is to be told."""

    finished_before: float
    limit: int
    silent_tenants: tuple[str, ...]


class Remove:
    """Removes messages with what belongs to them."""

    def __init__(self, dialect: str) -> None:
        self.events = delete(events).where(among(dialect, events.c.message_pk))
        self.rest = (
            delete(recipients).where(among(dialect, recipients.c.message_pk)),
            delete(contents).where(among(dialect, contents.c.message_pk)),
            delete(messages).where(among(dialect, messages.c.pk)),
        )

    def __call__(self, connection: Connection, pks: Sequence[int], *, with_events: bool = True) -> None:
        """Remove these; without their events, those go when they are acknowledged."""
        if pks:
            for statement in (self.events, *self.rest) if with_events else self.rest:
                connection.execute(statement, {"pks": pack(pks)})


class Prune:
    """Deletes finished and reported messages with all that belongs to them."""  # G9

    def __init__(self, dialect: str) -> None:
        before = bindparam("finished_before", type_=Double)
        limit = bindparam("limit", type_=Integer)
        reported = (
            select(messages.c.pk)
            .where(messages.c.finished_ts.is_not(None), messages.c.reported_ts.is_not(None))
            .where(messages.c.finished_ts < before)
            .order_by(messages.c.finished_ts)
            .limit(limit)
        )
        self.reported = packed(dialect, reported.subquery("old"))
        silent = (
            select(messages.c.pk)
            .where(messages.c.tenant_id == bindparam("tenant", type_=Text))
            .where(messages.c.finished_ts.is_not(None), messages.c.reported_ts.is_(None))
            .where(messages.c.finished_ts < before)
            .order_by(messages.c.finished_ts)
            .limit(limit)
        )
        self.silent = packed(dialect, silent.subquery("old"))
        of_tenant = (
            select(messages.c.pk)
            .where(messages.c.tenant_id == bindparam("tenant", type_=Text), text(ANY_MESSAGE))
            .limit(limit)
        )
        self.of_tenant = packed(dialect, of_tenant.subquery("all_of"))
        self.remove = Remove(dialect)
        # What a deleted message has left behind. The oldest are looked at, also where most belong to messages.
        numbers = (events.c.tenant_id, events.c.event_id)
        walk = upwards(dialect, numbers, bindparam("tenant", type_=Text), literal(0, BigInteger))
        untold = (
            select(events.c.event_id, events.c.message_pk, events.c.ts)
            .where(walk.condition, events.c.reported_ts.is_(None))
            .order_by(*walk.order)
            .limit(limit)
            .subquery("untold")
        )
        of_message = select(messages.c.pk).where(messages.c.pk == untold.c.message_pk).scalar_subquery()
        left = select(untold.c.event_id).where(of_message.is_(None))
        self.left_behind = packed(dialect, left.where(untold.c.ts < before).subquery("left_behind"))
        self.all_left_behind = packed(dialect, left.subquery("left_behind"))
        self.forget = delete(events).where(among(dialect, events.c.event_id, "event_ids"))

    def run(self, transaction: Transaction, requests: Sequence[PruneRequest]) -> Sequence[int]:
        """Remove one chunk for each request; answer how many messages went."""
        return [self._prune(transaction, request) for request in requests]

    def _prune(self, transaction: Transaction, request: PruneRequest) -> int:
        connection = transaction.connection
        wanted = {"finished_before": request.finished_before, "limit": request.limit}
        pks = [pk for (pk,) in unpack(connection.execute(self.reported, wanted).scalar())]
        for tenant in request.silent_tenants:
            if len(pks) < request.limit:
                here = {**wanted, "tenant": tenant}
                found = connection.execute(self.silent, {**here, "limit": request.limit - len(pks)})
                pks += [pk for (pk,) in unpack(found.scalar())]
                self._forget(connection, self.left_behind, here)
        self.remove(connection, pks)
        return len(pks)

    def remove_tenant(self, transaction: Transaction, wanted: Sequence[tuple[str, int]]) -> Sequence[int]:
        """Remove one chunk of all that a tenant has, told or not."""
        counts = []
        connection = transaction.connection
        for tenant_id, limit in wanted:
            chosen = {"tenant": tenant_id, "limit": limit}
            pks = [pk for (pk,) in unpack(connection.execute(self.of_tenant, chosen).scalar())]
            self.remove(connection, pks)
            counts.append(len(pks) or self._forget(connection, self.all_left_behind, chosen))
        return counts

    def _forget(self, connection: Connection, which: Select[Any], wanted: Mapping[str, object]) -> int:
        """Remove events whose messages were deleted before they were told; return how many."""
        event_ids = [event_id for (event_id,) in unpack(connection.execute(which, wanted).scalar())]
        if event_ids:
            connection.execute(self.forget, {"event_ids": pack(event_ids)})
        return len(event_ids)
