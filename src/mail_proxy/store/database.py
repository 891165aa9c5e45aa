"""One database: a writer that commits in groups, readers beside it, and nothing else that holds a connection.

    flows ── write(operation, item) ──▶ queue ──▶ writer thread: BEGIN, every waiting operation, COMMIT ──▶ answers
          ── read(function) ──────────▶ reader threads, each with its own connection

Everything that waits when the writer gets round to it is committed together, so a thousand callers cost a handful of
fsyncs, and no flow needs a batching of its own. Items of one operation are handed to it together, too: it writes
them with one statement.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.domain.report import Event
from mail_proxy.store.errors import FsyncFailed, can_run_again, connection_lost, translate

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

READERS = 4
POSTGRESQL_WRITERS = 2
GROUP_WEIGHT = 8_000_000
"""Bytes, about, that are committed together; a heavier item commits alone."""
GROUP_ITEMS = 2_000
RUNS = 4
"""How often a group is run when the database asks for it (deadlock, serialisation, lost connection)."""
CONNECT_TIMEOUT = 4
"""Seconds; a database that does not answer must be told within 5."""  # G12


@dataclass(slots=True)
class Transaction:
    """What an operation writes through. `again` is true when an earlier commit of it may have gone through."""

    connection: Connection
    dialect: str
    again: bool = False
    events: list[Event] = field(default_factory=list)

    def emit(self, events: Sequence[Event]) -> None:
        """Write these events at the end of the transaction, where their ids are drawn."""
        self.events.extend(events)


@dataclass(frozen=True, slots=True, eq=False)
class Operation(Generic[ItemT, ResultT]):
    """A kind of write: takes many items in one transaction and answers one result for each, in order.

    It may be run again, with more or fewer items, and must then come to the same end.
    """

    name: str
    run: Callable[[Transaction, Sequence[ItemT]], Sequence[ResultT]]
    weigh: Callable[[ItemT], int] = lambda _item: 1


@dataclass(slots=True, eq=False)
class _Waiting:
    operation: Operation[Any, Any]
    item: Any
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


class Database:
    """Opens an SQLite file or a PostgreSQL database and runs operations on it.

    `write_events` puts a transaction's events down as its last statement.
    """

    def __init__(self, url: str, write_events: Callable[[Transaction], None]) -> None:
        self.url: URL = make_url(url)
        self.dialect: str = "sqlite" if self.url.get_backend_name() == "sqlite" else "postgresql"
        self._write_events = write_events
        self._engine = _sqlite_engine(self.url) if self.dialect == "sqlite" else _postgresql_engine(self.url)
        self._readers_engine = _sqlite_engine(self.url, read_only=True) if self.dialect == "sqlite" else self._engine
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")
        self._writers: list[threading.Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self.available = True
        """False after a write that failed because the database was away, until one succeeds."""

    @property
    def engine(self) -> Engine:
        """For migrations and checks at start, before any flow runs."""
        return self._engine

    def start(self) -> None:
        """Start the writer; to be called on the event loop that writes are awaited on."""
        self._loop = asyncio.get_running_loop()
        count = 1 if self.dialect == "sqlite" else POSTGRESQL_WRITERS
        for n in range(count):
            thread = threading.Thread(
                target=self._write_forever, args=(self._loop,), name=f"store-writer-{n}", daemon=True
            )
            thread.start()
            self._writers.append(thread)

    async def close(self) -> None:
        """Finish the writes that were handed over, then close every connection."""
        for _ in self._writers:
            self._waiting.put(None)
        for thread in self._writers:
            await asyncio.to_thread(thread.join)
        self._writers.clear()
        await asyncio.to_thread(self._readers.shutdown)
        self._readers_engine.dispose()
        self._engine.dispose()

    async def write(self, operation: Operation[ItemT, ResultT], item: ItemT) -> ResultT:
        """Run one item of an operation and return its result after the commit.

        Raises `StoreUnavailable` when nothing was stored, and what the operation raises for this item.
        """
        if self._loop is None or not self._writers:
            raise StoreUnavailable("the store is closed")
        waiting = _Waiting(operation, item, self._loop.create_future())
        self._waiting.put(waiting)
        result: ResultT = await waiting.future
        return result

    async def read(self, function: Callable[[Connection], ResultT]) -> ResultT:
        """Run a function on a reader's connection, in a transaction of its own that changes nothing."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, function)

    def _read(self, function: Callable[[Connection], ResultT]) -> ResultT:
        try:
            with self._readers_engine.connect() as connection:
                return function(connection)
        except SQLAlchemyError as error:
            raise translate(error) from error

    # -- the writer's thread ---------------------------------------------------------------------------------------

    def _write_forever(self, loop: asyncio.AbstractEventLoop) -> None:
        ended = False
        while not ended:
            group, ended = self._take_group()
            if group:
                self._commit(group)
                loop.call_soon_threadsafe(_answer, group)

    def _take_group(self) -> tuple[list[_Waiting], bool]:
        first = self._waiting.get()
        if first is None:
            return [], True
        group = [first]
        weight = first.operation.weigh(first.item)
        while weight < GROUP_WEIGHT and len(group) < GROUP_ITEMS:
            try:
                following = self._waiting.get_nowait()
            except queue.Empty:
                break
            if following is None:
                return group, True
            group.append(following)
            weight += following.operation.weigh(following.item)
        return group, False

    def _commit(self, group: list[_Waiting]) -> None:
        """Run a group in one transaction; if an item spoils it, run each in a savepoint so that it fails alone."""
        again = False
        for _ in range(RUNS):
            try:
                self._run_together(group, again=again)
            except SQLAlchemyError as error:
                again = again or connection_lost(error)
                if can_run_again(error) or connection_lost(error):
                    continue
                failure = translate(error)
                if len(group) == 1 or isinstance(failure, (StoreUnavailable, FsyncFailed)):
                    self._fail(group, failure)
                    return
            except Exception as error:  # noqa: BLE001 - it belongs to the caller of one item, found out below
                if len(group) == 1:
                    group[0].error = error
                    return
            else:
                self.available = True
                return
            break
        else:
            self._fail(group, StoreUnavailable("the database does not keep a connection"))
            return
        self._commit_one_by_one(group)

    def _fail(self, group: Sequence[_Waiting], failure: BaseException) -> None:
        if isinstance(failure, StoreUnavailable):
            self.available = False
        for waiting in group:
            waiting.error = failure

    def _run_together(self, group: list[_Waiting], *, again: bool) -> None:
        by_operation: dict[Operation[Any, Any], list[_Waiting]] = {}
        for waiting in group:
            by_operation.setdefault(waiting.operation, []).append(waiting)
        with self._engine.begin() as connection:
            transaction = Transaction(connection, self.dialect, again=again)
            for operation, members in by_operation.items():
                results = operation.run(transaction, [member.item for member in members])
                for member, result in zip(members, results, strict=True):
                    member.result = result
            if transaction.events:
                self._write_events(transaction)

    def _commit_one_by_one(self, group: list[_Waiting]) -> None:
        try:
            with self._engine.begin() as connection:
                transaction = Transaction(connection, self.dialect)
                for waiting in group:
                    self._run_in_savepoint(transaction, waiting)
                if transaction.events:
                    self._write_events(transaction)
        except SQLAlchemyError as error:
            self._fail(group, translate(error))

    def _run_in_savepoint(self, transaction: Transaction, waiting: _Waiting) -> None:
        kept = len(transaction.events)
        try:
            with transaction.connection.begin_nested():
                waiting.result = waiting.operation.run(transaction, [waiting.item])[0]
        except SQLAlchemyError as error:
            if connection_lost(error):
                raise
            waiting.error = translate(error)
        except Exception as error:  # noqa: BLE001 - handed to the caller of this item
            waiting.error = error
        if waiting.error is not None:
            del transaction.events[kept:]


def _answer(group: Sequence[_Waiting]) -> None:
    for waiting in group:
        if waiting.future.done():  # the caller was cancelled; what it asked for is committed all the same
            continue
        if waiting.error is not None:
            waiting.future.set_exception(waiting.error)
        else:
            waiting.future.set_result(waiting.result)


def _sqlite_engine(url: URL, *, read_only: bool = False) -> Engine:
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=READERS if read_only else 1,
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
        connection.execute("PRAGMA cache_size = -32000")
        connection.execute("PRAGMA temp_store = MEMORY")
        if read_only:
            connection.execute("PRAGMA query_only = ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def _postgresql_engine(url: URL) -> Engine:
    return create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_size=READERS + POSTGRESQL_WRITERS,
        max_overflow=0,
        pool_pre_ping=False,
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT,
            "application_name": "genro-mail-proxy",
            # G12: a server that went silent is noticed within seconds, not after the kernel's quarter of an hour
            "keepalives_idle": 2,
            "keepalives_interval": 1,
            "keepalives_count": 2,
            "tcp_user_timeout": CONNECT_TIMEOUT * 1000,
        },
    )
