"""Messages that accounts on hold have kept waiting for too long."""  # G8

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Double,
    Integer,
    Select,
    bindparam,
    func,
    literal_column,
    select,
)

from mail_proxy.domain.claim import Claimed
from mail_proxy.domain.message import Priority
from mail_proxy.store.keyset import each_value
from mail_proxy.store.operation import Transaction
from mail_proxy.store.prepared import once
from mail_proxy.store.rows import packed, unpack
from mail_proxy.store.schedule import ExpiryRequest, TakeUp
from mail_proxy.store.schema import accounts, messages

_IS_READY = messages.c.state == literal_column("'ready'")


class WaitedOut:
    """Takes them from the head of each such account's queue, where the oldest are.

    Of each priority a bounded number is looked at, also when most of the queue is young.
    """

    def __init__(self, dialect: str) -> None:
        self.on_hold = select(accounts.c.pk).where(accounts.c.hold_since <= bindparam("before", type_=Double))
        self.with_messages = packed(dialect, each_value(messages.c.account_pk, _IS_READY))
        head = (
            select(
                messages.c.pk,
                func.coalesce(messages.c.first_attempt_ts, messages.c.due, messages.c.created_ts).label("since"),
            )
            .where(messages.c.account_pk == bindparam("account", type_=BigInteger), _IS_READY)
            .where(messages.c.priority == bindparam("priority", type_=Integer))
            .order_by(messages.c.pk)
            .limit(bindparam("limit", type_=Integer))
        )
        self.look = packed(dialect, _late(head).subquery("late"))
        self.lock = packed(dialect, _late(head.with_for_update(of=messages, skip_locked=True)).subquery("late"))
        self.take_up = once(TakeUp, dialect)

    def any(self, connection: Connection, before: float, limit: int) -> bool:
        """True when there is something to take."""
        return bool(self._find(connection, self.look, before, limit))

    def run(self, transaction: Transaction, requests: Sequence[ExpiryRequest]) -> Sequence[Sequence[Claimed]]:
        """Take one chunk for each request."""
        connection = transaction.connection
        return [
            self.take_up(connection, request, self._find(connection, self.lock, request.now, request.limit))
            for request in requests
        ]

    def _find(self, connection: Connection, statement: Select[Any], before: float, limit: int) -> list[int]:
        on_hold = set(connection.execute(self.on_hold, {"before": before}).scalars())
        if not on_hold:
            return []
        found: list[int] = []
        for (account_pk,) in unpack(connection.execute(self.with_messages).scalar()):
            for priority in Priority if account_pk in on_hold else ():
                wanted = {"account": account_pk, "priority": int(priority), "limit": limit - len(found)}
                if len(found) < limit:
                    rows = connection.execute(statement, {**wanted, "before": before})
                    found += [pk for (pk,) in unpack(rows.scalar())]
        return found


def _late(head: Select[Any]) -> Select[Any]:
    oldest = head.subquery("head")
    return select(oldest.c.pk).where(oldest.c.since <= bindparam("before", type_=Double))
