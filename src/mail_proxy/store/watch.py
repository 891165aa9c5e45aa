"""Connections that a thread is stuck on are cut, so that it comes back although the other side never answers."""  # G12

from __future__ import annotations

import os
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from sqlalchemy import Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection

STUCK_AFTER = 10.0
"""Seconds for one transaction; those who asked for it were told long before."""


class _Wire:
    """A second handle on a connection's socket: it shuts that one down and no other that got its number since."""

    def __init__(self, connection: DBAPIConnection) -> None:
        self._descriptor = os.dup(connection.fileno())
        self.release = weakref.finalize(connection, os.close, self._descriptor)
        self.release.atexit = False

    def cut(self) -> None:
        if self.release.alive:
            with socket.socket(fileno=os.dup(self._descriptor)) as line, suppress(OSError):  # the other side was faster
                line.shutdown(socket.SHUT_RDWR)


@dataclass(slots=True)
class _Work:
    since: float
    wire: _Wire | None = None


class Watch:
    """Knows since when each thread is at work, and on which of an engine's connections."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a connection may be collected in a thread that holds it
        self._at_work: dict[int, _Work] = {}
        self._wires: weakref.WeakKeyDictionary[DBAPIConnection, _Wire] = weakref.WeakKeyDictionary()

    def attach(self, engine: Engine) -> None:
        """Take note of which connection a thread takes; before anything else is said on a new one."""

        def taken(connection: DBAPIConnection, *_: object) -> None:
            with self._lock:
                wire = self._wires.get(connection)
                if wire is None:
                    wire = self._wires[connection] = _Wire(connection)
                work = self._at_work.get(threading.get_ident())
                if work is not None:
                    work.wire = wire

        def closed(connection: DBAPIConnection, _record: object) -> None:
            with self._lock:
                wire = self._wires.pop(connection, None)
                if wire is not None:
                    wire.release()

        event.listen(engine, "connect", taken, insert=True)
        event.listen(engine, "checkout", taken)
        event.listen(engine, "close", closed)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """This thread is at work within the block."""
        me = threading.get_ident()
        with self._lock:
            self._at_work[me] = _Work(time.monotonic())
        try:
            yield
        finally:
            with self._lock:
                del self._at_work[me]

    def cut_stuck(self) -> None:
        """Shut down what a thread has been at work on for too long; it then meets a lost connection."""
        limit = time.monotonic() - STUCK_AFTER
        with self._lock:
            for work in self._at_work.values():
                if work.since < limit and work.wire is not None:
                    work.wire.cut()
                    work.wire = None
