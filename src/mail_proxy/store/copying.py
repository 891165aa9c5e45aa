"""Whole copies of an SQLite file, also while its owner writes to it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from mail_proxy.domain.errors import StoreUnavailable


def copy_database(source: Path, target: Path) -> None:
    """Write a copy of a database as it is at one moment; `target` must not exist.

    It is read by a connection that cannot write, so that its owner stays the only writer. Raises `StoreUnavailable`.
    """
    try:
        with closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute("VACUUM INTO ?", (str(target),))
    except sqlite3.Error as error:
        raise StoreUnavailable(f"{source} cannot be copied: {error}") from error


def problem_with(file: Path) -> str | None:
    """Say what is wrong with a copy, or None: it is whole, and a database of this software."""
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if said != "ok":
                return f"it is damaged: {said}"
            connection.execute("SELECT 1 FROM messages, tenants, settings LIMIT 1")
    except sqlite3.Error as error:
        return f"it is no database of mail-proxy: {error}"
    return None


def make_whole(file: Path) -> None:
    """Bring into a database what its WAL holds, so that it is one file; nobody else may have it open.

    Raises `StoreUnavailable` where it cannot be opened.
    """
    try:
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        raise StoreUnavailable(f"{file} cannot be opened: {error}") from error
