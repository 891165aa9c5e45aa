"""One database: a writer that commits in groups, readers beside it, and nothing else that holds a connection.

    flows ── write(operation, item) ──▶ queue ──▶ writer thread: BEGIN, every waiting operation, COMMIT ──▶ answers
          ── read(function) ──────────▶ reader threads, each with its own connection

Everything that waits when the writer gets round to it is committed together, so a thousand callers cost a handful of
fsyncs, and no flow needs a batching of its own. Items of one operation are handed to it together, too: it writes
them with one statement.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Engine, make_url
from sqlalchemy.engine import URL

from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.domain.report import Event
from mail_proxy.store.engines import postgresql_engine, repeatable, sqlite_engine
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


@dataclass(slots=True)
class Transaction:
    """What an operation writes through. `again` is true when an earlier commit of it may have gone through."""

    connection: Connection
    dialect: str
    again: bool = False
    events: list[Event] = field(default_factory=list)
    hints: set[str] = field(default_factory=set)
    """What other instances should look at once this is committed: values of `hints.Hint`."""

    def emit(self, events: Sequence[Event]) -> None:
        """Write these events at the end of the transaction, where their ids are drawn."""
        self.events.extend(events)


@dataclass(frozen=True, slots=True, eq=False)
class Operation(Generic[ItemT, ResultT]):
    """A kind of write: takes many items in one transaction and answers one result for each, in order.

    It may be run again, with more or fewer items, and must then come to the same end. `unanswered` is told, on the
    event loop, each item that was or may have been committed without its caller hearing of it. One that `leads` runs
    before the others of its group, as its locks have to be taken first.
    """

    name: str
    run: Callable[[Transaction, Sequence[ItemT]], Sequence[ResultT]]
    weigh: Callable[[ItemT], int] = lambda _item: 1
    unanswered: Callable[[ItemT], None] = lambda _item: None
    leads: bool = False


@dataclass(slots=True, eq=False)
class _Waiting:
    operation: Operation[Any, Any]
    item: Any
    weight: int
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None
    unsure: bool = False


class _Line:
    """What waits to be written, in the order in which it came. Several writers may take from it."""

    def __init__(self) -> None:
        self._items: deque[_Waiting] = deque()
        self._news = threading.Condition()
        self._ended = False

    def add(self, waiting: _Waiting) -> None:
        """Put one at the end."""
        with self._news:
            self._items.append(waiting)
            self._news.notify()

    def end(self) -> None:
        """Tell the writers that nothing more will come."""
        with self._news:
            self._ended = True
            self._news.notify_all()

    def take_group(self) -> list[_Waiting]:
        """Wait until there is something and take as much as is committed together; empty once all is taken."""
        group: list[_Waiting] = []
        weight = 0
        with self._news:
            self._news.wait_for(lambda: self._items or self._ended)
            while self._items and len(group) < GROUP_ITEMS:
                weight += self._items[0].weight
                if group and weight > GROUP_WEIGHT:
                    break
                group.append(self._items.popleft())
            if self._items:
                self._news.notify()
        return group


class Database:
    """Opens an SQLite file or a PostgreSQL database and runs operations on it.

    `write_events` puts a transaction's events down as its last statement.
    """

    def __init__(self, url: str, write_events: Callable[[Transaction], None]) -> None:
        self.url: URL = make_url(url)
        self.dialect: str = "sqlite" if self.url.get_backend_name() == "sqlite" else "postgresql"
        self._write_events = write_events
        self._writer_count = 1 if self.dialect == "sqlite" else POSTGRESQL_WRITERS
        if self.dialect == "sqlite":
            self._engine = sqlite_engine(self.url, connections=1, read_only=False)
            self._readers_engine = sqlite_engine(self.url, connections=READERS, read_only=True)
        else:
            self._engine = postgresql_engine(self.url, connections=READERS + POSTGRESQL_WRITERS)
            self._readers_engine = repeatable(self._engine)
        self._line = _Line()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")
        self._writers: list[threading.Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self.before_commit: Callable[[Transaction], None] = lambda _transaction: None
        """Called in a transaction that has hints."""
        self._unanswered = 0
        self._all_answered = asyncio.Event()
        self._all_answered.set()
        self.available = True
        """False after a write that failed because the database was away, until one succeeds."""
        self.broken: FsyncFailed | None = None
        """Set for good once a commit could not be made durable; every later write raises it."""  # G12

    @property
    def engine(self) -> Engine:
        """For migrations and checks at start, before any flow runs."""
        return self._engine

    def start(self) -> None:
        """Start the writer; to be called on the event loop that writes are awaited on."""
        self._loop = asyncio.get_running_loop()
        for n in range(self._writer_count):
            thread = threading.Thread(
                target=self._write_forever, args=(self._loop,), name=f"store-writer-{n}", daemon=True
            )
            thread.start()
            self._writers.append(thread)

    async def close(self) -> None:
        """Finish the writes that were handed over, then close every connection."""
        self._closed = True
        self._line.end()
        for thread in self._writers:
            await asyncio.to_thread(thread.join)
        self._writers.clear()
        await asyncio.to_thread(self._readers.shutdown)
        self._readers_engine.dispose()
        self._engine.dispose()

    async def write(self, operation: Operation[ItemT, ResultT], item: ItemT) -> ResultT:
        """Run one item of an operation and return its result after the commit.

        Raises `StoreUnavailable` when the database is away, what the operation raises for this item, and `FsyncFailed`
        from the first failed fsync on.
        """
        if self._closed or self._loop is None:
            raise StoreUnavailable("the store is closed")
        waiting = _Waiting(operation, item, operation.weigh(item), self._loop.create_future())
        self._unanswered += 1
        self._all_answered.clear()
        self._line.add(waiting)
        result: ResultT = await waiting.future
        return result

    async def drained(self) -> None:
        """Return when nothing that was handed over is still on its way, whether or not somebody waits for it."""
        await self._all_answered.wait()

    async def read(self, function: Callable[[Connection], ResultT]) -> ResultT:
        """Run a function on a reader's connection, in a transaction of its own that changes nothing.

        It is run a second time when the connection turns out to be an old one. Raises `StoreUnavailable`.
        """
        if self._closed:
            raise StoreUnavailable("the store is closed")
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, function)

    def _read(self, function: Callable[[Connection], ResultT]) -> ResultT:
        try:
            return self._read_once(function)
        except Exception as error:
            if not connection_lost(error):
                raise translate(error, writing=False) from error
        try:
            return self._read_once(function)
        except Exception as error:
            raise translate(error, writing=False) from error

    def _read_once(self, function: Callable[[Connection], ResultT]) -> ResultT:
        with self._readers_engine.connect() as connection:
            return function(connection)

    def _answer(self, group: Sequence[_Waiting]) -> None:
        """Tell the callers; runs on the event loop."""
        for waiting in group:
            error = waiting.error
            cancelled = waiting.future.done()  # what its caller asked for is done all the same
            if waiting.unsure or (cancelled and error is None):
                waiting.operation.unanswered(waiting.item)
            if cancelled:
                continue
            if error is None:
                waiting.future.set_result(waiting.result)
            elif isinstance(error, StopIteration):  # which no future takes
                waiting.future.set_exception(RuntimeError(f"{waiting.operation.name} raised {error!r}"))
            else:
                # one for each: those who raise it add to its traceback
                own = copy(error) if isinstance(error, (StoreUnavailable, FsyncFailed)) else error
                waiting.future.set_exception(own)
        self._unanswered -= len(group)
        if not self._unanswered:
            self._all_answered.set()

    # -- the writer's thread ---------------------------------------------------------------------------------------

    def _write_forever(self, loop: asyncio.AbstractEventLoop) -> None:
        while group := self._line.take_group():
            try:
                self._commit(group)
            except BaseException as error:  # noqa: BLE001 - those who wait must hear of it, and the others go on
                self._fail(group, error)
            try:
                loop.call_soon_threadsafe(self._answer, group)
            except RuntimeError:  # the loop is gone, and with it everybody who could wait
                return

    def _commit(self, group: Sequence[_Waiting]) -> None:
        """Commit a group and leave each member its result; one that fails alone leaves the others theirs."""
        apart = again = False
        for _ in range(RUNS):
            if self.broken is not None:
                self._fail(group, self.broken)
                return
            try:
                self._run(group, apart=apart, again=again)
            except Exception as error:  # noqa: BLE001 - it belongs to the callers
                lost = connection_lost(error)
                again = again or lost
                if lost or can_run_again(error):
                    continue
                failure = translate(error)
                if apart or len(group) == 1 or isinstance(failure, (StoreUnavailable, FsyncFailed)):
                    self._fail(group, failure, unsure=again)
                    return
                apart = True  # a single one spoils it for all
            else:
                self.available = True
                return
        self._fail(group, StoreUnavailable("the database gives up every transaction"), unsure=again)

    def _fail(self, group: Sequence[_Waiting], failure: BaseException, *, unsure: bool = False) -> None:
        if isinstance(failure, StoreUnavailable):
            self.available = False
        if isinstance(failure, FsyncFailed):
            self.available, self.broken = False, failure
        for waiting in group:
            waiting.error, waiting.unsure = failure, unsure

    def _run(self, group: Sequence[_Waiting], *, apart: bool, again: bool) -> None:
        by_operation: dict[Operation[Any, Any], list[_Waiting]] = {}
        for waiting in group:
            waiting.result = waiting.error = None
            by_operation.setdefault(waiting.operation, []).append(waiting)
        run = _run_apart if apart else _run_together
        with self._engine.begin() as connection:
            transaction = Transaction(connection, self.dialect, again=again)
            for operation, members in sorted(by_operation.items(), key=lambda each: not each[0].leads):
                run(transaction, operation, members)
            if transaction.hints:
                self.before_commit(transaction)
            if transaction.events:
                self._write_events(transaction)


def _run_together(transaction: Transaction, operation: Operation[Any, Any], members: Sequence[_Waiting]) -> None:
    results = operation.run(transaction, [member.item for member in members])
    for member, result in zip(members, results, strict=True):
        member.result = result


def _run_apart(transaction: Transaction, operation: Operation[Any, Any], members: Sequence[_Waiting]) -> None:
    """Run them in a savepoint, and each in its own where that fails; errors stay with their members."""
    kept = len(transaction.events)
    savepoint = transaction.connection.begin_nested()
    try:
        _run_together(transaction, operation, members)
    except Exception as error:
        failure = translate(error)
        if can_run_again(error) or connection_lost(error) or isinstance(failure, (StoreUnavailable, FsyncFailed)):
            raise  # not the fault of any of them
        savepoint.rollback()
        del transaction.events[kept:]
        if len(members) == 1:
            members[0].error = failure
            return
        for member in members:
            _run_apart(transaction, operation, [member])
    else:
        savepoint.commit()
