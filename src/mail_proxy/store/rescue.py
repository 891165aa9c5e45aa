"""Instances, told apart by a counter that each keeps raising, and what a dead one leaves behind."""  # G6

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import (
    Connection,
    Double,
    Integer,
    Text,
    bindparam,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy import literal_column as sql

from mail_proxy.domain.claim import Claimed
from mail_proxy.store.keyset import each_value
from mail_proxy.store.loading import Loader
from mail_proxy.store.operation import Transaction
from mail_proxy.store.prepared import once
from mail_proxy.store.rows import among, pack, packed, unpack
from mail_proxy.store.schema import instances, messages

_IS_SENDING = messages.c.state == sql("'sending'")


@dataclass(frozen=True, slots=True)
class Rescue:
    """A wish to take over what these instances had claimed."""

    dead: tuple[str, ...]
    instance_id: str
    limit: int
    taken: list[str] = field(default_factory=list)
    """The tokens, filled while it is carried out, for the case that nobody hears the answer."""


class RescueClaims:
    """Moves a dead instance's claims into the hands of this one.

    They keep their tokens: the dead one's journal names them, and if it only slept, its late 250 still counts.
    """

    def __init__(self, dialect: str) -> None:
        orphans = (
            select(messages.c.pk)
            .where(_IS_SENDING, among(dialect, messages.c.instance_id, "dead"))
            .limit(bindparam("limit", type_=Integer))
            .with_for_update(skip_locked=True)
        )
        self.orphans = packed(dialect, orphans.subquery("orphans"))
        self.take = (
            update(messages)
            .where(among(dialect, messages.c.pk))
            .values(instance_id=bindparam("claim_instance", type_=Text))
        )
        self.forget = delete(instances).where(among(dialect, instances.c.id, "dead"))
        self.loader = once(Loader, dialect)

    def run(self, transaction: Transaction, requests: Sequence[Rescue]) -> Sequence[Sequence[Claimed]]:
        """Answer each request with what was taken over; an instance that left nothing is forgotten."""
        return [self._rescue(transaction.connection, request) for request in requests]

    def _rescue(self, connection: Connection, request: Rescue) -> Sequence[Claimed]:
        dead = {"dead": pack(request.dead)}
        pks = [pk for (pk,) in unpack(connection.execute(self.orphans, {**dead, "limit": request.limit}).scalar())]
        if not pks:
            connection.execute(self.forget, dead)
            return ()
        connection.execute(self.take, {"pks": pack(pks), "claim_instance": request.instance_id})
        taken = self.loader.load(connection, pks)
        request.taken[:] = {claimed.token for claimed in taken}
        return taken


@dataclass(frozen=True, slots=True)
class Registration:
    """An instance as it puts itself on the list."""

    id: str
    started_ts: float
    key_id: str | None
    """Which encryption key it has as its own."""


_REGISTER = insert(instances).values(
    id=bindparam("id", type_=Text),
    counter=0,
    started_ts=bindparam("started_ts", type_=Double),
    key_id=bindparam("key_id", type_=Text),
)


def register(connection: Connection, instance: Registration) -> None:
    """Put an instance on the list that is not on it."""
    values = {"id": instance.id, "started_ts": instance.started_ts, "key_id": instance.key_id}
    connection.execute(_REGISTER, values)


BEAT = (
    update(instances).where(instances.c.id == bindparam("instance", type_=Text)).values(counter=instances.c.counter + 1)
)
LEAVE = delete(instances).where(instances.c.id == bindparam("instance", type_=Text))


_CLAIMING = select(each_value(messages.c.instance_id, _IS_SENDING))


def counters(connection: Connection) -> Mapping[str, int]:
    """The counter of each instance; one that claimed messages but has no row any more counts as -1."""
    known = {row.id: row.counter for row in connection.execute(select(instances.c.id, instances.c.counter))}
    return dict.fromkeys(connection.execute(_CLAIMING).scalars(), -1) | known
