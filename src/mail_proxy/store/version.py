"""The directory's version: one number that every change of tenants, accounts or suspensions raises.

Intake checks a message against what it knows of the directory and then asks, inside the transaction that writes the
message, whether that is still so. An instance never acts on settings that another one has changed.

On PostgreSQL the number stands still under an advisory lock. A lock of its row would do, but those who share it let
others in before one who waits to change it, for as long as there is traffic; advisory locks are given in turn.

Whose the last changes were is kept beside it, in a ring of rows: the one of a version says which tenants were changed
when the number became that. An instance that is behind by less than the ring forgets only what is theirs. One that
finds another version's row (it is behind by more, or an instance of an earlier release made a change and wrote none)
forgets everything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Integer, bindparam, cast, func, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.types import Text

from mail_proxy.store.prepared import Prepared
from mail_proxy.store.schema import settings

NAME = "directory_version"
DIRECTORY_LOCK = 0x6D70_6469
RING = 256
"""How many changes are kept with whose they were."""

_VERSION = Prepared(select(settings.c.value).where(settings.c.name == NAME))
_RAISE = update(settings).where(settings.c.name == NAME).values(value=cast(cast(settings.c.value, Integer) + 1, Text))
_SHARE = Prepared(select(func.pg_advisory_xact_lock_shared(DIRECTORY_LOCK)))
_OWN = select(func.pg_advisory_xact_lock(DIRECTORY_LOCK))


def _put(into: Callable[..., Any]) -> Prepared:
    given = bindparam("value", type_=Text)
    row = into(settings).values(name=bindparam("name", type_=Text), value=given)
    return Prepared(row.on_conflict_do_update(index_elements=["name"], set_={"value": given}))


_PUT = {"postgresql": _put(postgresql_insert), "sqlite": _put(sqlite_insert)}


@dataclass(frozen=True, slots=True)
class Changes:
    """Whose changes led to a version from one that was known; None: anybody's."""

    version: int
    tenants: frozenset[str] | None


def read_version(connection: Connection) -> int:
    """Return the version."""
    return int(str(_VERSION.value(connection, {})))


def hold_version(connection: Connection) -> int:
    """Return the version and keep it from changing until the transaction ends."""
    if connection.dialect.name != "sqlite":
        _SHARE.run(connection, {})
    return read_version(connection)


def hold_alone(connection: Connection) -> None:
    """Wait for every change and every holder of the version, and let none in until the transaction ends."""
    if connection.dialect.name != "sqlite":
        connection.execute(_OWN)


def raise_version(connection: Connection) -> int:
    """Tell every instance that the directory has changed; changes by several of them follow one another."""
    hold_alone(connection)
    connection.execute(_RAISE)
    return read_version(connection)


def write_change(connection: Connection, version: int, tenants: Iterable[str] | None) -> None:
    """Write down whose change led to a version; None: everybody's."""
    value = json.dumps([version, None if tenants is None else sorted(tenants)])
    _PUT[connection.dialect.name].run(connection, {"name": _place(version), "value": value})


def changes_since(connection: Connection, known: int) -> Changes:
    """Return the version, and whose changes led to it from one that is known.

    Both come from one state of the database where the transaction sees only one, or keeps the version from changing.
    """
    version = read_version(connection)
    if not 0 <= version - known <= RING:
        return Changes(version, None)
    new = range(known + 1, version + 1)
    tenants: set[str] = set()
    if new:
        rows = connection.execute(select(settings.c.value).where(settings.c.name.in_([_place(each) for each in new])))
        found = dict(json.loads(value) for value in rows.scalars())
        for each in new:
            whose = found.get(each)
            if whose is None:
                return Changes(version, None)
            tenants.update(whose)
    return Changes(version, frozenset(tenants))


def _place(version: int) -> str:
    return f"directory_change/{version % RING}"
