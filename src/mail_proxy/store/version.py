"""The directory's version: one number that every change of tenants, accounts or suspensions raises.

Intake checks a message against what it knows of the directory and then asks, inside the transaction that writes the
message, whether that is still so. An instance never acts on settings that another one has changed.

On PostgreSQL the number stands still under an advisory lock. A lock of its row would do, but those who share it let
others in before one who waits to change it, for as long as there is traffic; advisory locks are given in turn.
"""

from __future__ import annotations

from sqlalchemy import Connection, Integer, cast, func, select, update
from sqlalchemy.types import Text

from mail_proxy.store.prepared import Prepared
from mail_proxy.store.schema import settings

NAME = "directory_version"
DIRECTORY_LOCK = 0x6D70_6469

_VERSION = Prepared(select(settings.c.value).where(settings.c.name == NAME))
_RAISE = update(settings).where(settings.c.name == NAME).values(value=cast(cast(settings.c.value, Integer) + 1, Text))
_SHARE = Prepared(select(func.pg_advisory_xact_lock_shared(DIRECTORY_LOCK)))
_OWN = select(func.pg_advisory_xact_lock(DIRECTORY_LOCK))


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
