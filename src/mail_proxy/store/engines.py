"""Connections as the store wants them: durable, and with the same plans whatever the tables hold."""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import QueuePool

from mail_proxy.store.prepared import begin

CONNECT_TIMEOUT = 4
"""Seconds; a database that does not answer must be told within 5."""  # G12

WRITER_CACHE, READER_CACHE = 32_000, 4_000
"""Kilobytes of SQLite's pages that a connection keeps; each reader has its own, and all that is beyond is read again
from the system's cache."""

# Each statement of the queue takes a few rows by an index, in the index's order. PostgreSQL keeps a prepared
# statement's plan, and one made while the tables were empty would read them from end to end once they are full.
POSTGRESQL_SESSION = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_sort": "off",
    "enable_incremental_sort": "off",
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
    "lock_timeout": f"{CONNECT_TIMEOUT}s",
    # What an instance leaves open that was stopped or cut off gives its locks up, and cannot be committed much later.
    "idle_in_transaction_session_timeout": "10s",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}

# G1: whatever the server's configuration comes to say later. What it says at the start is looked at by `prepare`.
_WAIT_FOR_THE_DISK = (
    "set_config('synchronous_commit', "
    "CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false)"
)
CONNECT_ARGUMENTS: dict[str, Any] = {
    "connect_timeout": CONNECT_TIMEOUT,
    "application_name": "genro-mail-proxy",
    # G12: a server that went silent is noticed within seconds, not after the kernel's quarter of an hour
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 2,
    "tcp_user_timeout": CONNECT_TIMEOUT * 1000,
}
"""How to connect to PostgreSQL."""


def sqlite_engine(url: URL, *, connections: int, read_only: bool) -> Engine:
    """Make an engine on an SQLite file; its transactions take the write lock at once unless they only read."""
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=0,
        connect_args={"isolation_level": None, "check_same_thread": False, "timeout": CONNECT_TIMEOUT},
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: object) -> None:
        # G1: WAL with FULL makes each commit durable; the reader side cannot write at all
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA busy_timeout = {CONNECT_TIMEOUT * 1000}")
        connection.execute(f"PRAGMA cache_size = -{READER_CACHE if read_only else WRITER_CACHE}")
        connection.execute("PRAGMA temp_store = MEMORY")
        if read_only:
            connection.execute("PRAGMA query_only = ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        begin(connection, "BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def postgresql_engine(url: URL, *, connections: int) -> Engine:
    """Make an engine on a PostgreSQL database."""
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_size=connections,
        max_overflow=0,
        pool_pre_ping=False,
        connect_args=CONNECT_ARGUMENTS,
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: DBAPIConnection, _record: object) -> None:
        settings = [f"set_config('{name}', '{value}', false)" for name, value in POSTGRESQL_SESSION.items()]
        cursor = connection.cursor()
        cursor.execute(f"SELECT {', '.join([*settings, _WAIT_FOR_THE_DISK])}")
        cursor.close()
        connection.commit()

    return engine


def repeatable(engine: Engine) -> Engine:
    """The same connections for reading: all statements of a transaction see the database at one moment."""
    if engine.dialect.name == "sqlite":
        return engine
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
