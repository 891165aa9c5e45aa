"""Opening a database: its settings are strong enough, its schema is this one, its key is ours."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog
from sqlalchemy import Connection, bindparam, insert, inspect, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.domain.extra import how_to_install
from mail_proxy.store.database import Database
from mail_proxy.store.errors import SchemaTooNew, translate
from mail_proxy.store.prepared import once
from mail_proxy.store.schema import settings
from mail_proxy.store.sealed import CHECK
from mail_proxy.store.settle import WriteEvents

NEWEST = "0015"
"""The newest migration, which the schema has to be at."""
MIGRATION_LOCK = 0x6D70_6D69
"""PostgreSQL: held while the schema is brought up to date, so that instances starting together take turns."""
WEAK = ("off", "local", "remote_write")
SQLITE_WAITS = (2, 3)
"""`synchronous`: FULL and EXTRA."""


TWO_BEATS = 11.0
"""Seconds in which an instance that lives has raised its counter, where nobody says how long its lease is."""
BEATS = 12
"""How often an instance raises its counter within its lease."""

A_COMMAND = "a command of mail-proxy"
"""What a process that has a store open for a moment gives as its address."""
COMMAND_PATIENCE = 5.0
"""Seconds to wait for such a one."""

log = structlog.get_logger(__name__)


NO_DRIVER = f"PostgreSQL needs the extra [postgresql]: {how_to_install('postgresql')}"


class StoreRefused(Exception):
    """The database must not be used as it is; the text says why and what to do."""


class AlreadyOpen(StoreRefused):
    """Another process owns this SQLite file."""


@dataclass(slots=True)
class FileLock:
    """Says that this process owns an SQLite file; freed with the process, however it ends."""

    path: Path
    descriptor: int

    @classmethod
    def take(cls, database_file: Path, address: str) -> FileLock:
        """Lock `<database>.lock` and write pid and address into it; raises `AlreadyOpen` naming the owner.

        A symbolic link to the file finds the same lock. A command that has the file open is waited for. Raises
        `StoreRefused` where there can be no such file.
        """
        if database_file.is_dir():
            raise StoreRefused(f"{database_file} is a folder; name a file in it, such as {database_file / 'mail.db'}")
        real = database_file.resolve()
        path = real.with_name(real.name + ".lock")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreRefused(f"there can be no database at {database_file}: {path}: {error.strerror}") from error
        deadline = time.monotonic() + COMMAND_PATIENCE
        while (owner := _owner_or_ours(descriptor)) is not None:
            if A_COMMAND not in owner or time.monotonic() > deadline:
                os.close(descriptor)
                raise AlreadyOpen(
                    f"{database_file} is in use by another mail-proxy ({owner or 'starting up'}). One process owns an "
                    "SQLite file; stop that one, or use PostgreSQL for several."
                )
            time.sleep(0.05)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"pid {os.getpid()}, {address}\n".encode(), 0)
        return cls(path, descriptor)

    def free(self) -> None:
        """Give the file up."""
        os.close(self.descriptor)


def _owner_or_ours(descriptor: int) -> str | None:
    """Lock a file and return None, or what its owner has written into it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return os.pread(descriptor, 200, 0).decode(errors="replace").strip()
    return None


def database_url(path_or_url: str) -> str:
    """Return the URL for `GMP_DB_PATH`: a path of an SQLite file, or a `postgresql://` URL as it is."""
    if "://" in path_or_url:
        if not path_or_url.startswith(("postgresql://", "postgres://", "postgresql+psycopg://", "sqlite:///")):
            raise StoreRefused("the database must be a path or a postgresql:// URL")
        return path_or_url.replace("postgres://", "postgresql://", 1)
    return f"sqlite:///{Path(path_or_url).absolute()}"


def sqlite_file(url: str) -> Path | None:
    """Return the file of an SQLite URL, or None for PostgreSQL."""
    parsed = make_url(url)
    return Path(parsed.database or "") if parsed.get_backend_name() == "sqlite" else None


def prepare(url: str, check_key: Callable[[str | None], str], lease: float | None = None) -> Database:
    """Open the database, refuse weak settings, migrate, check the encryption key; blocks, to be called at start.

    `lease` (seconds) is that of the instances, to tell which of them live.
    `check_key` gets the check value that the database holds (None at the first start), returns the one to store, and
    raises what it likes when the key is another one. Raises `StoreRefused`, `SchemaTooNew` or `StoreUnavailable`.
    """  # G1, G16
    dialect = "sqlite" if sqlite_file(url) else "postgresql"
    try:
        database = Database(url, once(WriteEvents, dialect))
    except ImportError:
        raise StoreRefused(NO_DRIVER) from None
    try:
        with database.engine.connect() as connection:
            _refuse_weak_settings(connection, dialect)
        with database.engine.begin() as connection:
            _migrate(connection, dialect, TWO_BEATS if lease is None else 2 * lease / BEATS + 1)
            _check_key(connection, check_key)
    except SQLAlchemyError as error:
        database.engine.dispose()
        failure = translate(error, starting=True)
        if dialect == "sqlite" and isinstance(failure, StoreUnavailable):  # no file comes back by waiting for it
            raise StoreRefused(f"{database.url.database} cannot be opened: {failure.sentence}") from error
        raise failure from error
    except BaseException:
        database.engine.dispose()
        raise
    return database


def _refuse_weak_settings(connection: Connection, dialect: str) -> None:
    if dialect == "sqlite":
        mode = connection.execute(text("PRAGMA journal_mode")).scalar()
        if str(mode).lower() != "wal":
            raise StoreRefused(f"SQLite cannot use WAL here (journal_mode is {mode}); use a local file system")
        synchronous = connection.execute(text("PRAGMA synchronous")).scalar()
        if synchronous not in SQLITE_WAITS:
            raise StoreRefused(f"SQLite does not wait for the disk (synchronous is {synchronous}, not FULL)")
        return
    # What the server, the database and the role say, before our own SET.
    said = text("SELECT name, reset_val FROM pg_settings WHERE name IN :names")
    names = ("synchronous_commit", "fsync", "full_page_writes")
    for name, value in connection.execute(said.bindparams(bindparam("names", names, expanding=True))):
        if value in WEAK:
            raise StoreRefused(f"PostgreSQL has {name} = {value}: an accepted message could be lost; set it to on")


def _migrate(connection: Connection, dialect: str, two_beats: float) -> None:
    """Bring the schema up to date; on PostgreSQL other instances wait until the transaction has ended."""
    if dialect == "postgresql":
        connection.execute(text("SET LOCAL lock_timeout = 0"))
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))  # two beats may take longer
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
    current = _revision(connection)
    if current == NEWEST:
        return
    from mail_proxy.store import migrating  # noqa: PLC0415 - takes a while

    if current is not None and current not in migrating.revisions():
        raise SchemaTooNew(
            f"the database has schema {current}, which this version does not know; start the newer version"
        )
    if dialect == "postgresql" and current is not None:
        _refuse_while_others_work(connection, f"schema {current}, and this version needs {NEWEST}", two_beats)
    migrating.upgrade(connection)


def _revision(connection: Connection) -> str | None:
    """Return which migration the schema is at, None for a database without one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return revision


def _refuse_while_others_work(connection: Connection, why: str, two_beats: float) -> None:
    """Raise `StoreRefused` while instances of the version before are at work: they do not know the new schema."""
    listed = text("SELECT id, counter FROM instances ORDER BY id")
    before = {row.id: row.counter for row in connection.execute(listed)}
    if not before:
        return
    log.info("waiting to see whether instances of the version before are at work", seconds=two_beats)
    time.sleep(two_beats)  # no clock of another machine is trusted
    alive = [row.id for row in connection.execute(listed) if row.counter != before.get(row.id)]
    if alive:
        raise StoreRefused(
            f"the database has {why}, but {len(alive)} other instances are at work on it ({', '.join(alive[:3])}): "
            "stop all of them, then start this version"
        )


def _check_key(connection: Connection, check_key: Callable[[str | None], str]) -> None:
    held = connection.execute(select(settings.c.value).where(settings.c.name == CHECK)).scalar()
    value = check_key(held)
    if held is None:
        connection.execute(insert(settings).values(name=CHECK, value=value))
