"""The databases' errors, translated in one place."""

from __future__ import annotations

import re
import sqlite3

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from mail_proxy.domain.errors import StoreBroken, StoreUnavailable

_SQLITE_FSYNC_CODES = frozenset({1034, 1290})
"""SQLITE_IOERR_FSYNC and SQLITE_IOERR_DIR_FSYNC."""
_SQLITE_AWAY = {
    3: "access permission denied",
    5: "database is locked",
    6: "database table is locked",
    7: "out of memory",
    8: "attempt to write a readonly database",
    9: "interrupted",
    10: "disk I/O error",
    11: "database disk image is malformed",
    13: "database or disk is full",
    14: "unable to open database file",
    15: "locking protocol",
    22: "large file support is disabled",
    26: "file is not a database",
}
"""Results that speak of the file, the disk or the machine; all others are mistakes of ours or of the data.

By their code, which Python tells from 3.11 on, and in SQLite's words, which are the same wherever it is called from.
"""
_RUN_AGAIN = frozenset({"40001", "40P01"})
"""PostgreSQL: serialization_failure, deadlock_detected."""
_NO_SUCH_TABLE = "42P01"
_LOST = ("08", "25P03", "57P")
"""PostgreSQL: connection, a session ended for leaving a transaction open, the server's going down or coming up."""
_AWAY_CLASSES = (*_LOST, "53", "57", "58", "25006", "55P03", "XX")
"""PostgreSQL: resources (disk full, memory), operator intervention, system errors, read-only, locked."""

_WHERE = re.compile(
    r"""connection[ ]to[ ]server[ ](?:at|on[ ]socket)[ ]"[^"]*"(?:[ ]\([^)]*\))?(?:,[ ]port[ ]\d+)?[ ]failed:[ ]
    |(?<=resolve[ ]host)[ ]'[^']*'
    |(?<=for[ ]user)[ ]"[^"]*" """,
    re.VERBOSE,
)
"""What PostgreSQL's client says of the place that it connects to, and as whom."""


class FsyncFailed(StoreBroken):
    """The disk refused to make written data durable: what the file holds is unknown. Ends the process."""  # G12


class Crossed(StoreUnavailable):
    """A transaction found, when it held some rows, that it has to wait for others out of their order.

    Whoever waits like that may be waited for: it is run again from its start, with nothing in its hands.
    """


class SchemaTooNew(Exception):
    """The database was written by a later version of this software."""


def can_run_again(error: BaseException) -> bool:
    """True when the transaction was undone for a reason that passes (deadlock, serialisation, rows out of order)."""
    if isinstance(error, Crossed):
        return True
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _RUN_AGAIN


def is_not_made(error: BaseException) -> bool:
    """True where PostgreSQL says that there is no such table: the database is still empty."""
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) == _NO_SUCH_TABLE


def connection_lost(error: BaseException) -> bool:
    """True when the connection died, so that the outcome of a commit is not known."""
    if not isinstance(error, DBAPIError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    return error.connection_invalidated or (state is not None and state.startswith(_LOST))


def translate(error: BaseException, *, writing: bool = True, starting: bool = False) -> BaseException:
    """Return the error that callers of the store meet; errors that are not the database's come back as they are.

    Only writing meets `FsyncFailed`. The sentence does not tell where the database is, as it goes to whoever asks for
    `/ready`; but to the operator, who is `starting` the service.
    """
    if not isinstance(error, DBAPIError):
        return error
    original = error.orig
    if isinstance(original, sqlite3.Error):
        return _translate_sqlite(error, original, writing=writing)
    state = getattr(original, "sqlstate", None)
    if state is None:
        away = isinstance(error, (OperationalError, InterfaceError)) or error.connection_invalidated
    else:
        away = state.startswith(_AWAY_CLASSES) or error.connection_invalidated
    if not away:
        return error
    reason = _first_line(original)
    return StoreUnavailable(f"the database cannot be used now: {reason if starting else _WHERE.sub('', reason)}")


def _translate_sqlite(error: DBAPIError, original: sqlite3.Error, *, writing: bool) -> BaseException:
    code = getattr(original, "sqlite_errorcode", None)
    if code is None:  # Python 3.10, which does not tell a failed fsync from other I/O errors: taken for the worst
        away = str(original) in _SQLITE_AWAY.values()
        unsynced = str(original) == _SQLITE_AWAY[10]
    else:
        away = code & 0xFF in _SQLITE_AWAY
        unsynced = code in _SQLITE_FSYNC_CODES
    if unsynced and writing:
        return FsyncFailed(f"the database file could not be made durable: {original}")
    return StoreUnavailable(f"the database file cannot be used now: {original}") if away else error


def _first_line(error: BaseException | None) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
