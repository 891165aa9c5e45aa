"""Removing messages that are finished and told, in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Double, Integer, Text, bindparam, delete, select, text

from mail_proxy.store.database import Transaction
from mail_proxy.store.rows import among, pack, packed, unpack
from mail_proxy.store.schema import ANY_MESSAGE, contents, events, messages, recipients


@dataclass(frozen=True, slots=True)
class PruneRequest:
    """Remove what ended before that time; `silent_tenants` have no endpoint, so nothing of theirs is to be told."""

    finished_before: float
    limit: int
    silent_tenants: tuple[str, ...]


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
        self.deletes = (
            delete(events).where(among(dialect, events.c.message_pk)),
            delete(recipients).where(among(dialect, recipients.c.message_pk)),
            delete(contents).where(among(dialect, contents.c.message_pk)),
            delete(messages).where(among(dialect, messages.c.pk)),
        )

    def run(self, transaction: Transaction, requests: Sequence[PruneRequest]) -> Sequence[int]:
        """Remove one chunk for each request; answer how many messages went."""
        return [self._prune(transaction, request) for request in requests]

    def _prune(self, transaction: Transaction, request: PruneRequest) -> int:
        connection = transaction.connection
        wanted = {"finished_before": request.finished_before, "limit": request.limit}
        pks = [pk for (pk,) in unpack(connection.execute(self.reported, wanted).scalar())]
        for tenant in request.silent_tenants:
            if len(pks) < request.limit:
                found = connection.execute(self.silent, {**wanted, "limit": request.limit - len(pks), "tenant": tenant})
                pks += [pk for (pk,) in unpack(found.scalar())]
        self._delete(transaction, pks)
        return len(pks)

    def remove_tenant(self, transaction: Transaction, wanted: Sequence[tuple[str, int]]) -> Sequence[int]:
        """Remove one chunk of all that a tenant has, told or not."""
        counts = []
        for tenant_id, limit in wanted:
            chosen = {"tenant": tenant_id, "limit": limit}
            pks = [pk for (pk,) in unpack(transaction.connection.execute(self.of_tenant, chosen).scalar())]
            self._delete(transaction, pks)
            counts.append(len(pks))
        return counts

    def _delete(self, transaction: Transaction, pks: Sequence[int]) -> None:
        if pks:
            for statement in self.deletes:
                transaction.connection.execute(statement, {"pks": pack(pks)})
