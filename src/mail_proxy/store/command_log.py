"""The command log: entries are appended many at a time, read by time, and removed when they are old."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Double,
    Integer,
    Text,
    bindparam,
    delete,
    insert,
    literal,
    select,
    tuple_,
)

from mail_proxy.domain.command_log import Entry, EntryFilter, Logged, LogPage, Position
from mail_proxy.store.database import Database
from mail_proxy.store.operation import Operation, Transaction
from mail_proxy.store.prepared import Prepared, once
from mail_proxy.store.rows import among, pack, packed, unpack, unpacked
from mail_proxy.store.schema import command_log as log

LOOKED_AT = 10_000
"""Entries that are read for a page where methods or routes are looked for."""
NEVER, FOR_EVER = -1.0, 1e300
"""Times before and after every entry's."""

_VALUES = (
    log.c.key,
    log.c.ts,
    log.c.by_admin,
    log.c.tenant_id,
    log.c.method,
    log.c.route,
    log.c.status,
    log.c.code,
    log.c.address,
    log.c.details,
)


@dataclass(frozen=True, slots=True)
class Addition:
    """Entries that are written together; `again`: some may be there already."""

    entries: tuple[Entry, ...]
    again: bool

    @property
    def weight(self) -> int:
        """About how many bytes it writes."""
        return sum(len(entry.details) + 300 for entry in self.entries)


class Append:
    """Inserts entries: one statement for all that came in together."""

    def __init__(self, dialect: str) -> None:
        new = unpacked(dialect, {column.name: column.type for column in _VALUES})
        self.insert = Prepared(insert(log).from_select([column.name for column in _VALUES], select(*new.c)))
        first, last = bindparam("first", type_=Double), bindparam("last", type_=Double)
        # found by the time, which has an index; the key needs none for the few cases in which one is looked for
        known = select(log.c.key).where(log.c.ts >= first, log.c.ts <= last, among(dialect, log.c.key, "keys"))
        self.known = packed(dialect, known.subquery("known"))

    def run(self, transaction: Transaction, additions: Sequence[Addition]) -> Sequence[None]:
        """Write them all, but none twice."""
        unsure = [addition for addition in additions if addition.again or transaction.again]
        sure = chain.from_iterable(addition.entries for addition in additions if addition not in unsure)
        self._insert(transaction.connection, sure)
        for addition in unsure:
            self._insert(transaction.connection, self._unknown(transaction.connection, addition.entries))
        return [None] * len(additions)

    def _insert(self, connection: Connection, entries: Iterable[Entry]) -> None:
        rows = [_row(entry) for entry in entries]
        if rows:
            self.insert.run(connection, {"rows": pack(rows)})

    def _unknown(self, connection: Connection, entries: Sequence[Entry]) -> Sequence[Entry]:
        times = [entry.ts for entry in entries]
        about = {"first": min(times), "last": max(times), "keys": pack(entry.key for entry in entries)}
        known = {key for (key,) in unpack(connection.execute(self.known, about).scalar())}
        return [entry for entry in entries if entry.key not in known]


class Remove:
    """Deletes the oldest entries, a chunk at a time."""

    def __init__(self, dialect: str) -> None:
        before, limit = bindparam("before", type_=Double), bindparam("limit", type_=Integer)
        old = select(log.c.pk).where(log.c.ts < before).order_by(log.c.ts, log.c.pk).limit(limit)
        self.old = packed(dialect, old.subquery("old"))
        self.delete = delete(log).where(among(dialect, log.c.pk))

    def run(self, transaction: Transaction, wanted: Sequence[tuple[float, int]]) -> Sequence[int]:
        """Remove one chunk for each (time, size); answer how many went."""
        counts = []
        for before, limit in wanted:
            found = transaction.connection.execute(self.old, {"before": before, "limit": limit})
            pks = [pk for (pk,) in unpack(found.scalar())]
            if pks:
                transaction.connection.execute(self.delete, {"pks": pack(pks)})
            counts.append(len(pks))
        return counts


class StoreCommandLog:
    """Keeps the `CommandLog` port on SQLite and PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database
        append, remove = once(Append, database.dialect), once(Remove, database.dialect)
        self._append_op = Operation("append", append.run, lambda addition: addition.weight)
        self._remove_op = Operation("remove from the command log", remove.run)

    async def append(self, entries: Sequence[Entry], *, again: bool) -> None:
        """See `CommandLog.append`."""
        if entries:
            await self._database.write(self._append_op, Addition(tuple(entries), again))

    async def page(
        self, wanted: EntryFilter, beyond: Position | None, limit: int, *, oldest_first: bool = False
    ) -> LogPage:
        """See `CommandLog.page`."""
        walk = _walk(self._database.dialect, wanted, beyond, oldest_first=oldest_first)
        sought = {name: value for name, value in (("method", wanted.method), ("route", wanted.route)) if value}
        statement = select(log.c.pk, *_VALUES).where(*walk.conditions).order_by(*walk.order)
        if sought:
            near = statement.limit(LOOKED_AT).subquery("near")
            statement = select(near).where(*(near.c[name] == value for name, value in sought.items()))
        page = packed(self._database.dialect, statement.limit(limit + 1).subquery("page"))
        # where looking ended, for what was not found yet
        edge = select(log.c.ts, log.c.pk).where(*walk.conditions).order_by(*walk.order).offset(LOOKED_AT - 1).limit(1)

        def look(connection: Connection) -> LogPage:
            found = [_logged(row) for row in unpack(connection.execute(page).scalar())]
            if len(found) > limit:
                return LogPage(tuple(found[:limit]), found[limit - 1].at)
            end = connection.execute(edge).first() if sought else None
            return LogPage(tuple(found), None if end is None else Position(end.ts, end.pk))

        return await self._database.read(look)

    async def prune(self, before: float, limit: int) -> int:
        """See `CommandLog.prune`."""
        return await self._database.write(self._remove_op, (before, limit))


class _Walk(NamedTuple):
    """Entries in order, from a place on to an end: all of them, or those of a tenant."""

    conditions: tuple[ColumnElement[bool], ...]
    order: tuple[ColumnElement[Any], ...]


def _walk(dialect: str, wanted: EntryFilter, beyond: Position | None, *, oldest_first: bool) -> _Walk:
    lowest = Position(NEVER if wanted.since is None else wanted.since, 0)
    highest = Position(FOR_EVER if wanted.until is None else wanted.until, 0)
    columns: tuple[Column[Any], ...] = (log.c.ts, log.c.pk)
    named: tuple[ColumnElement[Any], ...] = ()
    conditions: tuple[ColumnElement[bool], ...] = ()
    if wanted.tenant_id is not None:
        # As in keyset.py: PostgreSQL is not told that the tenant is always the same, SQLite has to be.
        conditions = (log.c.tenant_id.is_not(None),)
        if dialect == "sqlite":
            conditions = (*conditions, log.c.tenant_id == wanted.tenant_id)
        else:
            columns, named = (log.c.tenant_id, *columns), (literal(wanted.tenant_id, Text),)

    def at(place: Position) -> ColumnElement[Any]:
        return tuple_(*named, literal(place.ts, Double), literal(place.pk, BigInteger))

    here = tuple_(*columns)
    if oldest_first:
        low = here >= at(lowest) if beyond is None else here > at(beyond)
        return _Walk((*conditions, low, here < at(highest)), columns)
    high = here < at(highest if beyond is None else beyond)
    return _Walk((*conditions, here >= at(lowest), high), tuple(column.desc() for column in columns))


def _row(entry: Entry) -> tuple[object, ...]:
    return (
        entry.key,
        entry.ts,
        entry.by_admin,
        entry.tenant_id,
        entry.method,
        entry.route,
        entry.status,
        entry.code,
        entry.address,
        entry.details,
    )


def _logged(row: Sequence[Any]) -> Logged:
    pk, key, ts, by_admin, tenant_id, method, route, status, code, address, details = row
    ts = float(ts)  # PostgreSQL writes whole ones without a point
    entry = Entry(key, ts, bool(by_admin), tenant_id, method, route, status, code, address, details)
    return Logged(Position(ts, pk), entry)
