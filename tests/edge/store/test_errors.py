"""What a database complains of becomes ours in one place, and never ends the writer in silence."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, event, insert, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.store.errors import FsyncFailed, can_run_again, connection_lost, translate
from mail_proxy.store.operation import Operation, Transaction
from mail_proxy.store.schema import settings
from mail_proxy.store.store import Store
from tests.edge.store.notes import notes, noting, on_the_writers_connection
from tests.support.stores import a_message, enqueue, open_test_store, with_account


def wrapped(original: sqlite3.Error) -> DBAPIError:
    """The error as SQLAlchemy hands it on."""
    error = DBAPIError.instance("statement", None, original, sqlite3.Error)
    assert isinstance(error, DBAPIError)
    return error


def as_python_3_10_has_it(error: sqlite3.Error) -> sqlite3.Error:
    """The same error without SQLite's code, which came with Python 3.11."""
    return type(error)(str(error))


def input_output_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    vars(error)["sqlite_errorcode"] = code
    return error


# -- SQLite's errors, as they are ------------------------------------------------------------------------------------

Provoke = Callable[[sqlite3.Connection, Path], object]


def full(connection: sqlite3.Connection, _file: Path) -> None:
    connection.execute("PRAGMA max_page_count = 1")
    connection.execute("INSERT INTO t VALUES (randomblob(1000000))")


def read_only(connection: sqlite3.Connection, _file: Path) -> None:
    connection.execute("PRAGMA query_only = ON")
    connection.execute("INSERT INTO t VALUES (1)")


def locked(connection: sqlite3.Connection, file: Path) -> None:
    connection.execute("PRAGMA busy_timeout = 1")
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        connection.execute("BEGIN IMMEDIATE")


def corrupt(connection: sqlite3.Connection, file: Path) -> None:
    connection.execute("INSERT INTO t VALUES (randomblob(100000))")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with file.open("r+b") as opened:
        opened.seek(4096)
        opened.write(b"\xff" * 4096)
    with closing(sqlite3.connect(file)) as other:
        other.execute("SELECT count(*) FROM t")


def no_database(connection: sqlite3.Connection, file: Path) -> None:
    other_file = file.with_name("letter.txt")
    other_file.write_text("Dear Sir or Madam, " * 100)
    with closing(sqlite3.connect(other_file)) as other:
        other.execute("PRAGMA journal_mode = WAL")


def no_such_file(connection: sqlite3.Connection, file: Path) -> None:
    sqlite3.connect(file.with_name("missing") / "mail.db")


AWAY = (full, read_only, locked, corrupt, no_database, no_such_file)
MISTAKES = (
    "SELECT * FROM nothing",
    "SELECT nothing FROM t",
    "SELEKT 1",
    "SELECT abs()",
    "SELECT 1, 1 UNION SELECT 1",
    "SELECT json('{')",
    "INSERT INTO u VALUES (1), (1)",
    "INSERT INTO u VALUES ('x')",
    "INSERT INTO t VALUES (randomblob(2000000000))",
)


def provoked(provoke: Provoke, folder: Path) -> sqlite3.Error:
    """What SQLite raises."""
    file = folder / "errors.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (x)")
        connection.execute("CREATE TABLE u (x INTEGER PRIMARY KEY)")
        with pytest.raises(sqlite3.Error) as raised:
            provoke(connection, file)
    return raised.value


@pytest.mark.parametrize("provoke", AWAY)
def test_what_lies_with_the_file_or_the_disk_makes_the_store_unavailable(provoke: Provoke, tmp_path: Path) -> None:
    original = provoked(provoke, tmp_path)
    for error in (wrapped(original), wrapped(as_python_3_10_has_it(original))):
        assert isinstance(translate(error), StoreUnavailable)  # G12
        assert not can_run_again(error)
        assert not connection_lost(error)


@pytest.mark.parametrize("statement", MISTAKES)
def test_a_mistake_of_ours_is_not_taken_for_the_disks(statement: str, tmp_path: Path) -> None:
    original = provoked(lambda connection, _: connection.execute(statement), tmp_path)
    for error in (wrapped(original), wrapped(as_python_3_10_has_it(original))):
        assert translate(error) is error


@pytest.mark.parametrize("code", [1034, 1290])  # SQLITE_IOERR_FSYNC, SQLITE_IOERR_DIR_FSYNC
def test_a_failed_fsync_is_told_from_other_input_and_output_errors(code: int) -> None:
    failure = translate(wrapped(input_output_error(code)))
    assert isinstance(failure, FsyncFailed)
    assert "disk I/O error" in str(failure)
    read_failed = input_output_error(266)  # SQLITE_IOERR_READ
    assert isinstance(translate(wrapped(read_failed)), StoreUnavailable)


def test_python_3_10_takes_every_input_and_output_error_while_writing_for_a_failed_fsync() -> None:
    error = wrapped(as_python_3_10_has_it(input_output_error(266)))
    assert isinstance(translate(error), FsyncFailed)
    assert isinstance(translate(error, writing=False), StoreUnavailable)


def test_what_is_not_a_databases_error_is_handed_on() -> None:
    error = ValueError("ours")
    assert translate(error) is error
    assert not can_run_again(error)
    assert not connection_lost(error)


# -- PostgreSQL's ------------------------------------------------------------------------------------------------------


async def raised_by_postgresql(store: Store, state: str) -> DBAPIError:
    statement = f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{state}', MESSAGE = E'first line\\nsecond'; END $$"
    with pytest.raises(DBAPIError) as raised, store.database.engine.begin() as connection:
        connection.execute(text(statement))
    return raised.value


async def test_states_of_the_server_make_the_store_unavailable(postgresql_store: Store) -> None:
    for state in (
        "08006",  # connection failure
        "25006",  # read-only transaction
        "25P03",  # idle in a transaction for too long
        "53100",  # disk full
        "53200",  # out of memory
        "53300",  # too many connections
        "55P03",  # lock not available
        "57014",  # query cancelled
        "58030",  # input or output error
        "XX002",  # index corrupted
    ):
        failure = translate(await raised_by_postgresql(postgresql_store, state))
        assert isinstance(failure, StoreUnavailable), state
        assert failure.sentence == "the database cannot be used now: first line"


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            'connection failed: connection to server at "db" (10.0.0.7), port 5432 failed: Connection refused\nUp?',
            "connection failed: Connection refused",
        ),
        (
            'connection is bad: connection to server on socket "/run/pg/.s.PGSQL.5432" failed: No such file',
            "connection is bad: No such file",
        ),
        (
            "failed to resolve host 'db.internal': [Errno -2] Name or service not known",
            "failed to resolve host: [Errno -2] Name or service not known",
        ),
        (
            'connection failed: connection to server at "::1", port 1 failed: FATAL: no login for user "gmp"',
            "connection failed: FATAL: no login for user",
        ),
    ],
)
def test_where_the_database_is_only_the_operator_is_told(said: str, sentence: str) -> None:
    error = DBAPIError.instance("statement", None, psycopg.OperationalError(said), psycopg.Error)
    failure, at_start = translate(error), translate(error, starting=True)
    assert isinstance(failure, StoreUnavailable)
    assert failure.sentence == f"the database cannot be used now: {sentence}"
    assert isinstance(at_start, StoreUnavailable)
    assert said.splitlines()[0] in at_start.sentence


async def test_states_of_a_statement_are_mistakes_of_ours(postgresql_store: Store) -> None:
    for state in (
        "0A000",  # feature not supported
        "22001",  # text too long
        "22012",  # division by zero
        "22032",  # not JSON
        "23503",  # foreign key
        "23505",  # not unique
        "42P01",  # unknown table
    ):
        error = await raised_by_postgresql(postgresql_store, state)
        assert translate(error) is error, state
        assert not can_run_again(error), state
        assert not connection_lost(error), state


async def test_states_of_a_transaction_ask_for_another_run_or_leave_its_commit_in_doubt(
    postgresql_store: Store,
) -> None:
    for state in ("40001", "40P01"):  # serialisation failure, deadlock
        assert can_run_again(await raised_by_postgresql(postgresql_store, state)), state
    # no connection; idle for too long in a transaction; shutdown, crash, start of the server
    for state in ("08003", "25P03", "57P01", "57P02", "57P03"):
        error = await raised_by_postgresql(postgresql_store, state)
        assert connection_lost(error), state
        assert isinstance(translate(error), StoreUnavailable), state


# -- through the store -------------------------------------------------------------------------------------------------


async def test_a_full_disk_is_told_and_recovered_from(sqlite_store: Store) -> None:
    store = sqlite_store
    account = await with_account(store)

    await on_the_writers_connection(store, "PRAGMA max_page_count = 1")
    big = '{"id":"big","body":"' + "x" * 500_000 + '"}'
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="database or disk is full"):  # G12
            await enqueue(store, a_message("small", account), a_message("big", account, fields=big))
        assert not store.database.available
    assert await store.archive.message("acme", "small") is None  # G2
    await on_the_writers_connection(store, "PRAGMA max_page_count = 1000000")
    assert await enqueue(store, a_message("big", account, fields=big)) == ["queued"]
    assert store.database.available


async def test_a_file_that_became_read_only_is_told_and_recovered_from(sqlite_store: Store) -> None:
    store = sqlite_store
    await on_the_writers_connection(store, "PRAGMA query_only = ON")
    with pytest.raises(StoreUnavailable, match="readonly"):  # G12
        await store.database.write(noting(), "meanwhile")
    assert await store.problems() == [
        "The last write failed: the database file cannot be used now: attempt to write a readonly database."
    ]
    with closing(store.database.engine.raw_connection()) as given_up:  # where it had met the error
        given_up.cursor().execute("PRAGMA query_only = OFF")
    await store.queue.beat(1.0)  # comes every few seconds, and finds out
    assert await store.problems() == []
    assert await notes(store) == []


async def test_a_file_that_somebody_else_locks_is_told(sqlite_store: Store) -> None:
    store = sqlite_store
    await on_the_writers_connection(store, "PRAGMA busy_timeout = 1")
    other = sqlite3.connect(str(store.database.url.database), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="database is locked"):
        await store.database.write(noting(), "meanwhile")
    other.close()
    assert await store.database.write(noting(), "after") == "AFTER"
    assert await notes(store) == ["after"]


async def test_a_reader_cannot_write(sqlite_store: Store) -> None:
    with pytest.raises(StoreUnavailable, match="readonly"):
        await sqlite_store.database.read(lambda c: c.execute(insert(settings).values(name="n", value="noted")))
    assert await notes(sqlite_store) == []


async def test_a_mistake_reaches_its_caller_as_it_is(store: Store) -> None:
    def mistaken(transaction: Transaction, items: Sequence[str]) -> Sequence[str]:
        transaction.connection.execute(text("SELECT * FROM nothing"))
        return items

    with pytest.raises(DBAPIError, match="nothing"):
        await store.database.write(Operation("mistaken", mistaken), "x")
    with pytest.raises(DBAPIError, match="nothing"):
        await store.database.read(lambda c: c.execute(text("SELECT * FROM nothing")))
    await store.database.write(noting(), "twice")
    with pytest.raises(IntegrityError):
        await store.database.write(noting(), "twice")
    assert store.database.available
    assert await store.database.write(noting(), "after") == "AFTER"


async def test_after_a_failed_fsync_nothing_more_is_written(sqlite_url: str) -> None:
    store = await open_test_store(sqlite_url)
    await store.database.write(noting(), "before")
    written: list[str] = []

    def fail(_connection: Connection) -> None:
        raise wrapped(input_output_error(1034))

    event.listen(store.database.engine, "commit", fail)
    with pytest.raises(FsyncFailed):  # G12
        await store.database.write(noting(), "lost")
    event.remove(store.database.engine, "commit", fail)
    for _ in range(2):
        with pytest.raises(FsyncFailed):
            await store.database.write(noting(written.append), "later")
    assert isinstance(store.database.commits.broken, FsyncFailed)
    assert not store.database.available
    assert written == []  # not even tried
    assert await notes(store) == ["before"]
    await store.close()
    again = await open_test_store(sqlite_url)
    assert await notes(again) == ["before"]
    await again.close()
