"""Putting back what is held because instances ended while they sent it."""  # G13

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Integer, Text, bindparam, literal_column, select, update

from mail_proxy.domain.message import MessageState
from mail_proxy.domain.poison import MOST_CRASHES
from mail_proxy.store.keyset import each_value
from mail_proxy.store.rows import among, pack, packed, unpack
from mail_proxy.store.schema import messages, suspended_batches

_IS_HELD = messages.c.state == literal_column("'held'")
_TENANT = bindparam("tenant", type_=Text)


class Poison:
    """Finds a tenant's poison among what is held, batch by batch.

    Where a batch is not suspended nothing else of it is held, so that a million messages of suspended ones cost one
    step each batch.
    """

    def __init__(self, dialect: str) -> None:
        self.batches = packed(dialect, each_value(messages.c.batch_code, _IS_HELD & (messages.c.tenant_id == _TENANT)))
        self.suspended = select(suspended_batches.c.batch_code).where(suspended_batches.c.tenant_id == _TENANT)
        held = (
            select(messages.c.pk, messages.c.account_pk)
            .where(_IS_HELD, messages.c.tenant_id == _TENANT, messages.c.crashes >= MOST_CRASHES)
            .limit(bindparam("limit", type_=Integer))
            .with_for_update(skip_locked=True)
        )
        of_batch = held.where(messages.c.batch_code == bindparam("batch", type_=Text))
        self.of_batch = packed(dialect, of_batch.subquery("of_batch"))
        self.without_batch = packed(dialect, held.where(messages.c.batch_code.is_(None)).subquery("without_batch"))
        self.make_ready = (
            update(messages)
            .where(among(dialect, messages.c.pk), messages.c.state == MessageState.HELD.value)
            .values(state=MessageState.READY.value, crashes=0, reply=None)
        )

    def put_back(self, connection: Connection, tenant_id: str, limit: int) -> list[list[Any]]:
        """Make up to `limit` messages ready as if they had harmed nobody; answer (pk, account) of each."""
        tenant = {"tenant": tenant_id}
        found = unpack(connection.execute(self.without_batch, {**tenant, "limit": limit}).scalar())
        suspended = set(connection.execute(self.suspended, tenant).scalars())
        for (batch,) in unpack(connection.execute(self.batches, tenant).scalar()):
            if len(found) < limit and batch not in suspended:
                wanted = {**tenant, "batch": batch, "limit": limit - len(found)}
                found += unpack(connection.execute(self.of_batch, wanted).scalar())
        if found:
            connection.execute(self.make_ready, {"pks": pack(pk for pk, _ in found)})
        return found
