"""One database: a writer that commits in groups, readers beside it, and nothing else that holds a connection.

    flows ── write(operation, item) ──▶ queue ──▶ writer thread: BEGIN, every waiting operation, COMMIT ──▶ answers
          ── read(function) ──────────▶ reader threads, each with its own connection

Everything that waits when the writer gets round to it is committed together, so a thousand callers cost a handful of
fsyncs, and no flow needs a batching of its own. Items of one operation are handed to it together, too: it writes
them with one statement.

Whoever waits hears within 5 s, also of a database that hangs. What had not been taken up by then is not done at all.
What had been may still be committed, as after a lost connection; it is not run again.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, make_url
from sqlalchemy.engine import URL

from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.store.engines import postgresql_engine, repeatable, sqlite_engine
from mail_proxy.store.errors import FsyncFailed, connection_lost, translate
from mail_proxy.store.group_commit import GroupCommit, Write
from mail_proxy.store.line import ALONE, Call, Line, Patience
from mail_proxy.store.operation import Company, ItemT, Operation, ResultT, Transaction
from mail_proxy.store.watch import STUCK_AFTER, Watch

READERS = 4
POSTGRESQL_WRITERS = 2
GROUP_WEIGHT = 8_000_000
"""Bytes, about, that are committed together; a heavier item commits alone."""
GROUP_ITEMS = 2_000


@dataclass(slots=True, eq=False)
class _Read(Call):
    function: Callable[[Connection], Any]


class Database:
    """Opens an SQLite file or a PostgreSQL database and runs operations on it.

    `write_events` puts a transaction's events down as its last statement.
    """

    def __init__(self, url: str, write_events: Callable[[Transaction], None]) -> None:
        self.url: URL = make_url(url)
        self.dialect: str = "sqlite" if self.url.get_backend_name() == "sqlite" else "postgresql"
        self._writer_count = 1 if self.dialect == "sqlite" else POSTGRESQL_WRITERS
        self._watch = Watch()
        if self.dialect == "sqlite":
            self._engine = sqlite_engine(self.url, connections=2, read_only=False)
            self._readers_engine = sqlite_engine(self.url, connections=READERS, read_only=True)
        else:
            self._engine = postgresql_engine(self.url, connections=READERS + POSTGRESQL_WRITERS)
            self._watch.attach(self._engine)
            self._readers_engine = repeatable(self._engine)
        self.commits = GroupCommit(self._engine, self.dialect, self._watch, write_events)
        """What writers do with what they have taken, and how that goes."""
        self._writes: Line[Write] = Line()
        self._reads: Line[_Read] = Line()
        self._write_patience = Patience(self._give_up_write, self._watch.cut_stuck)
        self._read_patience = Patience(self._give_up_read, self._watch.cut_stuck)
        self._threads: list[threading.Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    @property
    def engine(self) -> Engine:
        """For migrations and checks at start, before any flow runs; a writer keeps its connection from then on."""
        return self._engine

    @property
    def available(self) -> bool:
        """False after a write that failed because the database was away, until one succeeds."""
        return self.commits.available

    def start(self) -> None:
        """Start the threads; to be called on the event loop that the store is used on."""
        self._loop = asyncio.get_running_loop()
        names = [(f"store-writer-{n}", self._write_forever) for n in range(self._writer_count)]
        names += [(f"store-reader-{n}", self._read_forever) for n in range(READERS)]
        for name, work in names:
            thread = threading.Thread(target=work, args=(self._loop,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    async def close(self) -> None:
        """Finish the writes that were handed over, then close every connection.

        A thread that hangs in a disk is left behind; one that waits for a server comes back when that is cut off.
        """
        self._closed = True
        self._writes.end()
        self._reads.end()
        await asyncio.to_thread(self._join, time.monotonic() + STUCK_AFTER + 5)
        self._threads.clear()
        self._readers_engine.dispose()
        self._engine.dispose()

    def _join(self, deadline: float) -> None:
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))

    async def write(self, operation: Operation[ItemT, ResultT], item: ItemT) -> ResultT:
        """Run one item of an operation and return its result after the commit.

        Raises `StoreUnavailable` when the database is away or does not answer within 4.5 s, what the operation raises
        for this item, and `FsyncFailed` from the first failed fsync on.
        """  # G12
        if self._closed or self._loop is None:
            raise StoreUnavailable("the store is closed")
        call = Write(
            self._loop.create_future(),
            operation,
            item,
            weight=operation.weigh(item),
            company=self._company(operation),
            start_by=time.monotonic() + operation.patience if operation.patience else 0.0,
        )
        self._writes.add(call)
        self._write_patience.watch(call)
        result: ResultT = await call.future
        return result

    def _company(self, operation: Operation[Any, Any]) -> object:
        """Return what the calls have in common that may be committed together."""
        if self._writer_count == 1 or operation.company is Company.ANY:
            return None
        return operation if operation.company is Company.OWN else ALONE

    async def drained(self) -> None:
        """Return when nothing that was handed over is still on its way, whether or not somebody waits for it."""
        await self._write_patience.none_left()

    async def read(self, function: Callable[[Connection], ResultT]) -> ResultT:
        """Run a function on a reader's connection, in a transaction of its own that changes nothing.

        It is run a second time when the connection turns out to be an old one. Raises `StoreUnavailable`, also when
        the database does not answer within 4.5 s.
        """  # G12
        if self._closed or self._loop is None:
            raise StoreUnavailable("the store is closed")
        call = _Read(self._loop.create_future(), function)
        self._reads.add(call)
        self._read_patience.watch(call)
        result: ResultT = await call.future
        return result

    # -- on the event loop -------------------------------------------------------------------------------------------

    def _give_up_write(self, call: Write) -> None:
        """Tell a caller that it has waited long enough. What is still in the line will never be done."""  # G12
        if self._writes.leave(call):
            sentence = "the database does not answer; nothing was stored"
            self._write_patience.answered(call)
        else:
            sentence = "the database does not answer; repeat the request, it finds what may have been stored"
            call.given_up = True
        self.commits.trouble = "the database does not answer"
        if not call.future.done():
            call.future.set_exception(StoreUnavailable(sentence))

    def _give_up_read(self, call: _Read) -> None:
        if self._reads.leave(call):
            self._read_patience.answered(call)
        else:
            call.given_up = True
        if not call.future.done():
            call.future.set_exception(StoreUnavailable("the database does not answer"))

    def _answer(self, group: Sequence[Write]) -> None:
        """Tell the callers."""
        for call in group:
            # what its caller asked for is done all the same
            if call.unsure or (call.future.done() and call.error is None):
                call.operation.unanswered(call.item)
            _settle(call, call.operation.name)
            self._write_patience.answered(call)

    def _answer_read(self, call: _Read) -> None:
        _settle(call, "a read")
        self._read_patience.answered(call)

    # -- a reader's thread -------------------------------------------------------------------------------------------

    def _read_forever(self, loop: asyncio.AbstractEventLoop) -> None:
        while taken := self._reads.take():
            (call,) = taken
            try:
                call.result = self._read(call)
            except BaseException as error:  # noqa: BLE001 - those who wait must hear of it, and the others go on
                call.error = error
            try:
                loop.call_soon_threadsafe(self._answer_read, call)
            except RuntimeError:  # the loop is gone, and with it everybody who could wait
                return
            del call, taken

    def _read(self, call: _Read) -> object:
        try:
            return self._read_once(call.function)
        except Exception as error:
            if not connection_lost(error) or call.given_up:
                raise translate(error, writing=False) from error
        try:
            return self._read_once(call.function)
        except Exception as error:
            raise translate(error, writing=False) from error

    def _read_once(self, function: Callable[[Connection], ResultT]) -> ResultT:
        with self._watch.at_work(), self._readers_engine.connect() as connection:
            return function(connection)

    # -- a writer's thread -------------------------------------------------------------------------------------------

    def _write_forever(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            self._write_to_the_end(loop)
        finally:
            self.commits.close()

    def _write_to_the_end(self, loop: asyncio.AbstractEventLoop) -> None:
        while group := self._writes.take(GROUP_ITEMS, GROUP_WEIGHT):
            try:
                self.commits.commit(group)
            except BaseException as error:  # noqa: BLE001 - those who wait must hear of it, and the others go on
                self.commits.fail(group, error)
            try:
                loop.call_soon_threadsafe(self._answer, group)
            except RuntimeError:  # the loop is gone, and with it everybody who could wait
                return
            del group


def _settle(call: Call, name: str) -> None:
    """Give a caller that still waits what its call came to."""
    error = call.error
    if call.future.done():
        return
    if error is None:
        call.future.set_result(call.result)
    elif isinstance(error, StopIteration):  # which no future takes
        call.future.set_exception(RuntimeError(f"{name} raised {error!r}"))
    else:
        # one for each: those who raise it add to its traceback
        own = copy(error) if isinstance(error, (StoreUnavailable, FsyncFailed)) else error
        call.future.set_exception(own)
