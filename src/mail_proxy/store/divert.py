"""Moving ready messages from an account that cannot be used to another one of its tenant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Connection, Integer, Text, bindparam, func, literal_column, select, update

from mail_proxy.domain.message import Priority
from mail_proxy.store.claim import may_send
from mail_proxy.store.operation import Transaction
from mail_proxy.store.rows import among, pack, packed, unpack
from mail_proxy.store.schema import accounts, messages
from mail_proxy.store.version import hold_version


@dataclass(frozen=True, slots=True)
class Diversion:
    """One call of the queue's `divert`."""

    account_pk: int
    fallback_pk: int
    limit: int


class Divert:
    """Moves messages, oldest first, until the fallback has `limit` ready ones of a priority."""

    def __init__(self, dialect: str) -> None:
        ready = messages.c.state == literal_column("'ready'")
        of_account = messages.c.account_pk == bindparam("account", type_=BigInteger)
        self.anything = select(messages.c.pk).where(of_account, ready).limit(1)
        source, target = accounts.alias("source"), accounts
        fallback = bindparam("fallback", type_=BigInteger)
        self.target = (
            select(target.c.id)
            .join(source, source.c.tenant_id == target.c.tenant_id)
            .where(source.c.pk == bindparam("account", type_=BigInteger), target.c.pk == fallback, may_send(fallback))
        )
        of_priority = messages.c.priority == bindparam("priority", type_=Integer)
        limit = bindparam("limit", type_=Integer)
        there = select(messages.c.pk).where(messages.c.account_pk == fallback, ready, of_priority).limit(limit)
        self.count = select(func.count()).select_from(there.subquery("there"))
        chosen = (
            select(messages.c.pk)
            .where(of_account, ready, of_priority)
            .order_by(messages.c.pk)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        self.chosen = packed(dialect, chosen.subquery("chosen"))
        self.move = (
            update(messages)
            .where(among(dialect, messages.c.pk))
            .values(account_pk=fallback, account_id=bindparam("fallback_id", type_=Text))
        )

    def any_ready(self, connection: Connection, account_pk: int) -> bool:
        """True when there is something to move."""
        return connection.execute(self.anything, {"account": account_pk}).first() is not None

    def run(self, transaction: Transaction, diversions: Sequence[Diversion]) -> Sequence[int]:
        """Answer each with the number of messages that were moved."""
        hold_version(transaction.connection)  # the fallback is not deleted, nor put on hold, meanwhile
        return [self._divert(transaction.connection, diversion) for diversion in diversions]

    def _divert(self, connection: Connection, wanted: Diversion) -> int:
        ends = {"account": wanted.account_pk, "fallback": wanted.fallback_pk}
        fallback_id = connection.execute(self.target, ends).scalar()
        moved = 0
        for priority in Priority if fallback_id is not None else ():
            there = {"fallback": wanted.fallback_pk, "priority": int(priority), "limit": wanted.limit}
            room = wanted.limit - connection.execute(self.count, there).scalar_one()
            here = {"account": wanted.account_pk, "priority": int(priority), "limit": room}
            pks = [pk for (pk,) in unpack(connection.execute(self.chosen, here).scalar())] if room > 0 else []
            if pks:
                to = {"fallback": wanted.fallback_pk, "fallback_id": fallback_id}
                connection.execute(self.move, {"pks": pack(pks), **to})
            moved += len(pks)
        return moved
