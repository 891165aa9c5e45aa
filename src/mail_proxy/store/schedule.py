"""Messages that wait for a time or for a suspension to end, moved back into the queue in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Connection,
    Double,
    Integer,
    Select,
    Text,
    bindparam,
    delete,
    literal_column,
    select,
    text,
    update,
)

from mail_proxy.domain.claim import Claimed
from mail_proxy.domain.message import MessageState, Priority
from mail_proxy.domain.poison import MOST_CRASHES
from mail_proxy.ports.queue import Promotion
from mail_proxy.store.keyset import each_value
from mail_proxy.store.loading import Loader
from mail_proxy.store.operation import Transaction
from mail_proxy.store.poison import Poison
from mail_proxy.store.prepared import once
from mail_proxy.store.rows import among, pack, packed, unpack
from mail_proxy.store.schema import IS_WAITING, POISON_BATCH, messages, suspended_batches

# In the words of the indexes: PostgreSQL keeps plans in which a parameter may be anything. Statements that name their
# rows by number say a state by parameter, and so have only the primary key.
_IS_READY = messages.c.state == literal_column("'ready'")
_IS_SCHEDULED = messages.c.state == literal_column("'scheduled'")
_IS_HELD = messages.c.state == literal_column("'held'")


@dataclass(frozen=True, slots=True)
class Due:
    """One call of the queue's `promote` or `unhold`."""

    now: float
    limit: int


class Promote:
    """Makes scheduled messages ready when their time has come, urgent ones first."""

    def __init__(self, dialect: str) -> None:
        due = (
            select(messages.c.pk, messages.c.account_pk)
            .where(_IS_SCHEDULED, messages.c.priority == bindparam("priority", type_=Integer))
            .where(messages.c.due <= bindparam("now", type_=Double))
            .order_by(messages.c.due)
            .limit(bindparam("limit", type_=Integer))
            .with_for_update(skip_locked=True)
        )
        self.due = packed(dialect, due.subquery("due"))
        self.make_ready = update(messages).where(among(dialect, messages.c.pk)).values(state=MessageState.READY.value)
        scheduled = select(messages.c.due).where(_IS_SCHEDULED).order_by(messages.c.due).limit(1)
        earliest = [scheduled.where(messages.c.priority == int(p)).scalar_subquery() for p in Priority]
        self.earliest = select(*(each.label(f"due_{n}") for n, each in enumerate(earliest)))

    def next_due(self, connection: Connection) -> float | None:
        """When the next scheduled message is due, Unix seconds."""
        times = [due for due in connection.execute(self.earliest).one() if due is not None]
        return min(times) if times else None

    def run(self, transaction: Transaction, calls: Sequence[Due]) -> Sequence[Promotion]:
        """Promote for each call."""
        return [self._promote(transaction.connection, call) for call in calls]

    def _promote(self, connection: Connection, call: Due) -> Promotion:
        found: list[list[Any]] = []
        for priority in Priority:
            if len(found) < call.limit:
                wanted = {"priority": int(priority), "now": call.now, "limit": call.limit - len(found)}
                found += unpack(connection.execute(self.due, wanted).scalar())
        if found:
            connection.execute(self.make_ready, {"pks": pack(pk for pk, _ in found)})
        return Promotion(
            account_pks=frozenset(account for _, account in found),
            more=len(found) >= call.limit,
            next_due=self.next_due(connection),
        )


class Unhold:
    """Puts the messages of batches back whose suspension is ending, and then forgets the suspension."""

    def __init__(self, dialect: str) -> None:
        self.ending = (
            select(suspended_batches.c.tenant_id, suspended_batches.c.batch_code)
            .where(suspended_batches.c.ending)
            .limit(1)
        )
        is_batch = suspended_batches.c.batch_code != POISON_BATCH
        self.lock_ending = self.ending.where(is_batch).with_for_update()
        self.lock_poison = self.ending.where(~is_batch).with_for_update()
        self.poison = once(Poison, dialect)
        held = (
            select(messages.c.pk, messages.c.account_pk)
            .where(_IS_HELD, messages.c.tenant_id == bindparam("tenant", type_=Text))
            .where(messages.c.batch_code == bindparam("batch", type_=Text), messages.c.crashes < MOST_CRASHES)
            .limit(bindparam("limit", type_=Integer))
        )
        self.held = packed(dialect, held.subquery("held"))
        self.make_ready = (
            update(messages)
            .where(among(dialect, messages.c.pk), messages.c.state == MessageState.HELD.value)
            .values(state=MessageState.READY.value)
        )
        self.forget = delete(suspended_batches).where(
            suspended_batches.c.tenant_id == bindparam("tenant", type_=Text),
            suspended_batches.c.batch_code == bindparam("batch", type_=Text),
        )

    def any_ending(self, connection: Connection) -> bool:
        """True when there is something to put back."""
        return connection.execute(self.ending).first() is not None

    def run(self, transaction: Transaction, calls: Sequence[Due]) -> Sequence[Promotion]:
        """Put back one chunk for each call."""
        return [self._unhold(transaction.connection, call.limit) for call in calls]

    def _unhold(self, connection: Connection, limit: int) -> Promotion:
        ending = connection.execute(self.lock_ending).first()
        if ending is None:
            return self._free_poison(connection, limit)
        batch = {"tenant": ending.tenant_id, "batch": ending.batch_code}
        found = unpack(connection.execute(self.held, {**batch, "limit": limit}).scalar())
        if found:
            connection.execute(self.make_ready, {"pks": pack(pk for pk, _ in found)})
        if len(found) < limit:
            connection.execute(self.forget, batch)
        return Promotion(frozenset(account for _, account in found), more=True, next_due=None)

    def _free_poison(self, connection: Connection, limit: int) -> Promotion:
        """Put back what is held as poison, once nothing else of the tenant is being put back."""  # G13
        ending = connection.execute(self.lock_poison).first()
        if ending is None:
            return Promotion(frozenset(), more=False, next_due=None)
        found = self.poison.put_back(connection, ending.tenant_id, limit)
        if len(found) < limit:
            connection.execute(self.forget, {"tenant": ending.tenant_id, "batch": POISON_BATCH})
        return Promotion(frozenset(account for _, account in found), more=True, next_due=None)


@dataclass(frozen=True, slots=True)
class ExpiryRequest:
    """One call of the queue's `claim_expired`."""

    now: float
    limit: int
    token: str
    instance_id: str


class TakeUp:
    """Marks messages as being in an instance's hands without counting an attempt, and reads them."""

    def __init__(self, dialect: str) -> None:
        self.take = (
            update(messages)
            .where(among(dialect, messages.c.pk))
            .values(
                state=MessageState.SENDING.value,
                token=bindparam("claim_token", type_=Text),
                instance_id=bindparam("claim_instance", type_=Text),
            )
        )
        self.loader = once(Loader, dialect)

    def __call__(self, connection: Connection, request: ExpiryRequest, pks: Sequence[int]) -> Sequence[Claimed]:
        """Take these for the request."""
        if not pks:
            return ()
        owner = {"claim_token": request.token, "claim_instance": request.instance_id}
        connection.execute(self.take, {"pks": pack(pks), **owner})
        return self.loader.load(connection, pks)


class ClaimExpired:
    """Takes waiting messages whose time has passed, so that they can be settled as expired."""

    def __init__(self, dialect: str) -> None:
        late = (
            select(messages.c.pk)
            .where(messages.c.expires_ts.is_not(None), text(IS_WAITING))
            .where(messages.c.expires_ts <= bindparam("now", type_=Double))
            .order_by(messages.c.expires_ts)
            .limit(bindparam("limit", type_=Integer))
        )
        self.any_late = late
        self.late = packed(dialect, late.with_for_update(skip_locked=True).subquery("late"))
        self.take_up = once(TakeUp, dialect)

    def any_expired(self, connection: Connection, now: float) -> bool:
        """True when there is something to take."""
        return connection.execute(self.any_late, {"now": now, "limit": 1}).first() is not None

    def run(self, transaction: Transaction, requests: Sequence[ExpiryRequest]) -> Sequence[Sequence[Claimed]]:
        """Take one chunk for each request."""
        return [self._take(transaction.connection, request) for request in requests]

    def _take(self, connection: Connection, request: ExpiryRequest) -> Sequence[Claimed]:
        wanted = {"now": request.now, "limit": request.limit}
        pks = [pk for (pk,) in unpack(connection.execute(self.late, wanted).scalar())]
        return self.take_up(connection, request, pks)


def ready_accounts(dialect: str) -> Select[Any]:
    """Accounts with ready messages, at the same cost however many messages they have."""
    return packed(dialect, each_value(messages.c.account_pk, _IS_READY))
