"""What is done with messages because somebody says so: deleting, sending again, cleaning up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Select, Text, and_, bindparam, false, func, select, text

from mail_proxy.domain.message import MessageState
from mail_proxy.ports.message_changes import Deletion, Found, Requeueing, RetryFilter
from mail_proxy.store.database import Database
from mail_proxy.store.keyset import upwards
from mail_proxy.store.operation import Company, Operation
from mail_proxy.store.prepared import once
from mail_proxy.store.queue import ENQUEUES
from mail_proxy.store.removal import Clean, CleanRequest, Delete, DeleteRequest
from mail_proxy.store.requeueing import Requeue, RequeueRequest
from mail_proxy.store.rows import pack, packed, selected, unpack, unpacked
from mail_proxy.store.schema import ANY_MESSAGE, messages

LOOK = 2000
"""Messages that are looked at in one go, on a reader's connection: some milliseconds."""  # G11


class StoreMessageChanges:
    """Keeps the `MessageChanges` port on SQLite and PostgreSQL.

    A write whose answer was lost is not repeated: it would tell what it finds, and not what it did.
    """

    def __init__(self, database: Database) -> None:
        dialect = database.dialect
        self._database = database
        keys = unpacked(dialect, {"tenant_id": Text(), "id": Text()}, "keys")
        named = messages.alias("named")
        number = select(named.c.pk).where(named.c.tenant_id == keys.c.tenant_id, named.c.id == keys.c.id)
        found = select(messages.c.id, messages.c.pk).where(
            selected(dialect, messages.c.pk, select(number.scalar_subquery()).select_from(keys))
        )
        self._find = packed(dialect, found.subquery("found"))
        self._delete_op = Operation(
            "delete_messages",
            once(Delete, dialect).run,
            lambda request: request.weight,
            repeats=False,
            company=Company.NONE,
        )
        self._requeue_op = Operation(
            "requeue",
            once(Requeue, dialect).run,
            lambda request: request.weight,
            rank=ENQUEUES,
            repeats=False,
            company=Company.NONE,
        )
        self._clean_op = Operation(
            "clean", once(Clean, dialect).run, lambda request: request.weight, repeats=False, company=Company.NONE
        )

    async def find(self, tenant_id: str, ids: Sequence[str]) -> Mapping[str, int]:
        """See `MessageChanges.find`."""
        if not ids:
            return {}
        keys = {"keys": pack((tenant_id, id_) for id_ in ids)}
        return await self._database.read(lambda connection: dict(unpack(connection.execute(self._find, keys).scalar())))

    async def failed(self, tenant_id: str, wanted: RetryFilter, after: int) -> Found:
        """See `MessageChanges.failed`."""
        states = [MessageState.FAILED.value, MessageState.EXPIRED.value] if wanted.state is None else [wanted.state]
        conditions: list[ColumnElement[bool]] = [messages.c.state.in_(states)]
        if wanted.account_id is not None:
            conditions.append(messages.c.account_id == wanted.account_id)
        if wanted.batch_code is not None:
            conditions.append(messages.c.batch_code == wanted.batch_code)
        if wanted.created_from is not None:
            conditions.append(messages.c.created_ts >= wanted.created_from)
        if wanted.created_to is not None:
            conditions.append(messages.c.created_ts < wanted.created_to)
        return await self._look(tenant_id, after, conditions)

    async def told(self, tenant_id: str, finished_before: float, after: int, *, silent: bool) -> Found:
        """See `MessageChanges.told`."""
        conditions: list[ColumnElement[bool]] = [messages.c.finished_ts < finished_before]
        if not silent:
            conditions.append(messages.c.reported_ts.is_not(None))
        return await self._look(tenant_id, after, conditions)

    async def delete(self, pks: Sequence[int], now: float, *, silent: bool) -> Mapping[int, Deletion]:
        """See `MessageChanges.delete`."""
        return await self._database.write(self._delete_op, DeleteRequest(tuple(pks), now, silent)) if pks else {}

    async def requeue(self, pks: Sequence[int], now: float) -> Requeueing:
        """See `MessageChanges.requeue`."""
        return await self._database.write(self._requeue_op, RequeueRequest(tuple(pks), now))

    async def clean(self, pks: Sequence[int], finished_before: float, *, silent: bool) -> int:
        """See `MessageChanges.clean`."""
        return await self._database.write(self._clean_op, CleanRequest(tuple(pks), finished_before, silent))

    async def _look(self, tenant_id: str, after: int, conditions: Sequence[ColumnElement[bool]]) -> Found:
        statement = _look(self._database.dialect, conditions)
        place = {"tenant": tenant_id, "after": after}

        def look(connection: Connection) -> Found:
            rows = unpack(connection.execute(statement, place).scalar())
            return Found([pk for pk, fits in rows if fits], rows[-1][0] if len(rows) == LOOK else None)

        return await self._database.read(look)


def _look(dialect: str, conditions: Sequence[ColumnElement[bool]]) -> Select[Any]:
    """The next messages of a tenant, and whether each of them fits."""
    walk = upwards(
        dialect,
        (messages.c.tenant_id, messages.c.pk),
        bindparam("tenant", type_=Text),
        bindparam("after", type_=BigInteger),
    )
    fits = func.coalesce(and_(*conditions), false()).label("fits")
    looked_at = (
        select(messages.c.pk, fits)
        .where(walk.condition, text(f"messages.{ANY_MESSAGE}"))
        .order_by(*walk.order)
        .limit(LOOK)
    )
    return packed(dialect, looked_at.subquery("looked_at"))
