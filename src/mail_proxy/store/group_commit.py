"""How a group of writes becomes one commit, whatever fails on the way: run again, by kinds, or one by one.

Everything here runs on the writers' threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine

from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.ports.observers import CommitMeter
from mail_proxy.store.errors import FsyncFailed, can_run_again, connection_lost, translate
from mail_proxy.store.line import Call
from mail_proxy.store.operation import Operation, Transaction
from mail_proxy.store.watch import Watch

RUNS = 4
"""How often a group is run when the database asks for it (deadlock, serialisation, lost connection)."""


@dataclass(slots=True, eq=False)
class Write(Call):
    """One item of an operation. `unsure`: it failed, but an earlier run of it may have been committed."""

    operation: Operation[Any, Any]
    item: Any
    unsure: bool = False


class GroupCommit:
    """Runs the operations of a group in one transaction, and leaves each call its result or its error.

    `write_events` puts a transaction's events down as its last statement.
    """

    def __init__(self, engine: Engine, dialect: str, watch: Watch, write_events: Callable[[Transaction], None]) -> None:
        self._engine = engine
        self._dialect = dialect
        self._watch = watch
        self._write_events = write_events
        self._held: Connection | None = None
        """The connection of SQLite's writer, while it waits for work."""
        self.trouble: str | None = None
        """Why the last write failed, if the database was away or did not answer, until one succeeds."""
        self.broken: FsyncFailed | None = None
        """Set for good once a commit could not be made durable; every later write fails with it."""  # G12
        self.before_commit: Callable[[Transaction], None] = lambda _transaction: None
        """Called in a transaction that has hints."""
        self.meter: CommitMeter | None = None
        """Told of each commit."""

    @property
    def available(self) -> bool:
        """False after a write that failed because the database was away, until one succeeds."""
        return self.trouble is None and self.broken is None

    def close(self) -> None:
        """Give up the connection that is held."""
        if self._held is not None:
            self._held.close()

    def commit(self, group: Sequence[Write]) -> None:
        """Commit a group and leave each member its result; one that fails alone leaves the others theirs.

        After a deadlock each operation of the group is committed by itself.
        """
        apart = again = False
        for _ in range(RUNS):
            if self.broken is not None:
                self.fail(group, self.broken, unsure=again)
                return
            try:
                self._run(group, apart=apart, again=again)
            except Exception as error:  # noqa: BLE001 - it belongs to the callers
                lost = connection_lost(error)
                again = again or lost
                if lost or can_run_again(error):
                    group = self._without_those_that_end(group, translate(error), again=again)
                    if not group:
                        return
                    if not again and len(_by_operation(group)) > 1:
                        self._commit_apart(group, translate(error))
                        return
                    continue
                failure = translate(error)
                if apart or len(group) == 1 or isinstance(failure, (StoreUnavailable, FsyncFailed)):
                    self.fail(group, failure, unsure=again)
                    return
                apart = True  # a single one spoils it for all
            else:
                self.trouble = None
                return
        self.fail(group, StoreUnavailable("the database gives up every transaction"), unsure=again)

    def _commit_apart(self, group: Sequence[Write], failure: BaseException) -> None:
        """Commit each operation by itself, as it locks in the order of all, and the sum of them does not."""
        for members in _by_operation(group).values():
            # the one before may have waited for long
            if left := self._without_those_that_end(members, failure, again=False):
                self.commit(left)

    def _without_those_that_end(
        self, group: Sequence[Write], failure: BaseException, *, again: bool
    ) -> Sequence[Write]:
        """Return those that are run once more.

        Not what its caller has given up and may have asked for anew, or for the opposite: it would come out of turn.
        """
        kept: list[Write] = []
        ended: list[Write] = []
        for call in group:
            ends = call.given_up or (again and not call.operation.repeats)
            (ended if ends else kept).append(call)
        self.fail(ended, failure, unsure=again)
        return kept

    def fail(self, group: Sequence[Write], failure: BaseException, *, unsure: bool = False) -> None:
        """Leave each call that it failed; remember what of it is wrong with the database."""
        if not group:
            return
        if isinstance(failure, StoreUnavailable):
            self.trouble = failure.sentence
        if isinstance(failure, FsyncFailed):
            self.broken = failure
        for call in group:
            call.error, call.unsure = failure, unsure

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """Begin a transaction; SQLite's only writer keeps its connection as long as nothing goes wrong on it."""
        connection, self._held = self._held or self._engine.connect(), None
        try:
            with connection.begin():
                yield connection
        except BaseException:
            connection.close()
            raise
        if self._dialect == "sqlite":
            self._held = connection
        else:
            connection.close()

    def _run(self, group: Sequence[Write], *, apart: bool, again: bool) -> None:
        for call in group:
            call.result = call.error = None
        run = _run_apart if apart else _run_together
        began = time.monotonic()
        with self._watch.at_work(), self._transaction() as connection:
            transaction = Transaction(connection, self._dialect, again=again)
            for operation, members in _by_operation(group).items():
                run(transaction, operation, members)
            if transaction.hints:
                self.before_commit(transaction)
            if transaction.events:
                self._write_events(transaction)
        if self.meter is not None:
            self.meter.committed(len(group), time.monotonic() - began)


def _by_operation(group: Sequence[Write]) -> Mapping[Operation[Any, Any], Sequence[Write]]:
    """The calls of each operation, in the order in which operations are run."""
    by_operation: dict[Operation[Any, Any], list[Write]] = {}
    for call in group:
        by_operation.setdefault(call.operation, []).append(call)
    return dict(sorted(by_operation.items(), key=lambda each: each[0].rank))


def _run_together(transaction: Transaction, operation: Operation[Any, Any], members: Sequence[Write]) -> None:
    results = operation.run(transaction, [member.item for member in members])
    for member, result in zip(members, results, strict=True):
        member.result = result


def _run_apart(transaction: Transaction, operation: Operation[Any, Any], members: Sequence[Write]) -> None:
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
