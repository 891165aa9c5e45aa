"""The databases' errors, translated in one place."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from mail_proxy.domain.errors import StoreUnavailable

_SQLITE_CODE_OF_OUR_OWN_MISTAKE = 1
"""SQLITE_ERROR: bad SQL or a missing table, not a state of the disk."""
_SQLITE_MISTAKES = ("no such", "near ", "incomplete input", "too many", "ambiguous", "table ", "unrecognized")
_SQLITE_FSYNC_CODES = frozenset({1034, 1290})
"""SQLITE_IOERR_FSYNC and SQLITE_IOERR_DIR_FSYNC."""
_RUN_AGAIN = frozenset({"40001", "40P01"})
"""PostgreSQL: serialization_failure, deadlock_detected."""
_AWAY_CLASSES = ("08", "53", "57", "58", "25006", "55P03", "XX")
"""PostgreSQL: connection, resources (disk full, memory), operator intervention, system errors, read-only, locked."""


class FsyncFailed(Exception):
    """The disk refused to make written data durable: what the file holds is unknown. Ends the process."""  # G12


class SchemaTooNew(Exception):
    """The database was written by a later version of this software."""


def can_run_again(error: SQLAlchemyError) -> bool:
    """True when the transaction was undone by the database for a reason that passes (deadlock, serialisation)."""
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _RUN_AGAIN


def connection_lost(error: BaseException) -> bool:
    """True when the connection died, so that the outcome of a commit is not known."""
    if not isinstance(error, DBAPIError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    return error.connection_invalidated or (state is not None and state.startswith(("08", "57P")))


def translate(error: BaseException) -> BaseException:
    """Return the error that callers of the store meet; errors that are not the database's come back as they are."""
    if not isinstance(error, DBAPIError):
        return error
    original = error.orig
    if isinstance(original, sqlite3.Error):
        return _translate_sqlite(error, original)
    state = getattr(original, "sqlstate", None)
    if state is None:
        away = isinstance(error, (OperationalError, InterfaceError)) or error.connection_invalidated
    else:
        away = state.startswith(_AWAY_CLASSES)
    return StoreUnavailable(f"the database cannot be used now: {_first_line(original)}") if away else error


def _translate_sqlite(error: DBAPIError, original: sqlite3.Error) -> BaseException:
    code = getattr(original, "sqlite_errorcode", None)  # Python 3.11 and later
    if code in _SQLITE_FSYNC_CODES:
        return FsyncFailed(str(original))
    if not isinstance(original, sqlite3.OperationalError) and code is None:
        return error
    mistake = (
        str(original).startswith(_SQLITE_MISTAKES)
        if code is None
        else (code & 0xFF) in (_SQLITE_CODE_OF_OUR_OWN_MISTAKE, 19, 20, 21, 25)
    )
    if mistake:
        return error
    return StoreUnavailable(f"the database file cannot be used now: {original}")


def _first_line(error: BaseException | None) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
