"""Several workers on one port: a parent that does nothing but start them, start them anew, and end with them.

It alone speaks to the service manager: that all serve, that all live, that the service stops.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from mail_proxy.runtime.service_manager import ALIVE, READY, STOPPING, ServiceManager

SILENT = 30.0
"""Seconds of silence after which a worker is taken for hung, unless the service manager has an interval of its own."""
LOOKS = 10
"""Looks at a worker in that time, and how many signs of life it gives."""
LONGEST_PAUSE = 30.0
SETTLED = 60.0
"""Seconds after which a worker that ends counts as one that had worked."""
BEYOND_GRACE = 30.0
"""Seconds beyond the grace time after which a worker that does not end is killed."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """A worker's place: its number, and the pipes to its parent. Without any: a process that is alone."""

    worker: int = 0
    lifeline: int | None = None
    """Becomes readable when the parent is gone."""
    news: int | None = None
    beats: memoryview[int] | None = None
    """What each worker counts up while its loop turns, in memory that it shares with its parent."""
    beat_every: float = SILENT / LOOKS

    @property
    def word(self) -> str:
        """What is logged when it serves: the parent says `serving` for all of them."""
        return "serving" if self.news is None else "worker serving"

    def ready(self) -> None:
        """Tell the parent that this worker serves."""
        if self.news is not None:
            os.write(self.news, bytes([self.worker]))

    def beat(self) -> None:
        """Show the parent that this worker's loop turns."""
        if self.beats is not None:
            self.beats[self.worker] += 1


def pause_before(quick_ends: int) -> float:
    """Return the seconds to wait with a new start, after so many ends of a worker soon after its start."""
    return 0.0 if quick_ends <= 1 else min(2.0 ** (quick_ends - 2), LONGEST_PAUSE)


@dataclass(slots=True)
class _Worker:
    place: Place
    pid: int | None = None
    started_at: float = 0.0
    start_at: float | None = None
    """When to start it; None while it runs, or while it is not to run."""
    quick_ends: int = 0
    served: bool = False
    beats: int = 0
    """What it had counted at the last look; 0: its loop does not turn yet."""
    silent: int = 0
    """Looks in a row at which it had counted no further."""


class Workers:
    """Keeps so many workers running until SIGTERM or SIGINT. To be used before there is any thread or event loop.

    Workers are forked, so that one that is started anew has the listening socket and the counts of the one before. They
    end when the parent does, however it ends: they hold the end of a pipe of which it has the other one.

    One whose loop does not turn is killed, and started anew. Its silence is counted in looks, not by a clock: while
    nothing of this machine runs, or the parent itself does not, nobody is looked at.
    """

    def __init__(
        self,
        count: int,
        work: Callable[[Place], int],
        serving: Callable[[], None],
        grace: float,
        manager: ServiceManager,
    ) -> None:
        """`work` is what a worker does, to its exit code; `serving` is called once all of them serve."""
        self._manager = manager
        self._patience = manager.patience or SILENT
        self._beats = memoryview(mmap.mmap(-1, count * 8)).cast("Q")  # anonymous, and shared with forked processes
        self._look_at = time.monotonic()
        self._work = work
        self._serving = serving
        self._grace = grace
        lifeline, self._own_end = os.pipe()
        self._news, news = os.pipe()
        self._woken, self._waker = os.pipe()
        for end in (self._news, self._woken, self._waker):
            os.set_blocking(end, False)
        every = self._patience / LOOKS
        self._workers = [_Worker(Place(n, lifeline, news, self._beats, every)) for n in range(count)]
        self._all_served = False
        self._stopping = False
        self._kill_at: float | None = None
        self._code = 0

    def run(self) -> int:
        """Return the exit code once every worker has ended; raises `SystemExit` in each worker when its work ends."""
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, _only_wake)
        self._workers[0].start_at = time.monotonic()  # the others when it serves: what refuses a start is said once
        while True:
            self._start_those_due()
            if self._stopping and not any(worker.pid for worker in self._workers):
                return self._code
            self._wait()
            self._reap()
            self._look()

    def _start_those_due(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.start_at is not None and worker.start_at <= now and not self._stopping:
                worker.start_at, worker.started_at = None, now
                worker.pid = self._fork(worker.place)
        if self._kill_at is not None and self._kill_at <= now:
            self._kill_at = None
            self._tell_all(signal.SIGKILL)

    def _fork(self, place: Place) -> int:
        # Signals wait until the new process has its own answers to them, or one that ends it could get lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            for end in (self._own_end, self._news, self._woken, self._waker):
                os.close(end)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        if pid == 0:
            structlog.contextvars.bind_contextvars(worker=place.worker)
            sys.exit(self._work(place))
        return pid

    def _wait(self) -> None:
        """Sleep until a signal, news of a worker, or the next thing to do."""
        times = [worker.start_at for worker in self._workers if worker.start_at is not None and not self._stopping]
        times += [self._look_at] if self._kill_at is None else [self._look_at, self._kill_at]
        timeout = max(0.0, min(times) - time.monotonic())
        readable, _, _ = select.select([self._woken, self._news], [], [], timeout)
        if self._news in readable:
            for number in os.read(self._news, 1024):
                self._serves(self._workers[number])
        if self._woken in readable:
            for number in os.read(self._woken, 1024):
                if number in {signal.SIGTERM, signal.SIGINT}:
                    log.info("stopping", signal=signal.Signals(number).name, grace=self._grace)
                    self._stop()

    def _serves(self, worker: _Worker) -> None:
        worker.served = True
        if worker is self._workers[0] and not self._all_served:
            for other in self._workers[1:]:
                if other.pid is None and other.start_at is None:
                    other.start_at = time.monotonic()
        if not self._all_served and all(each.served for each in self._workers):
            self._all_served = True
            self._serving()
            self._manager.tell(READY)

    def _look(self) -> None:
        """See who is alive, when it is time; at the first start, and at the end, nobody is taken for hung."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + self._patience / LOOKS
        for worker in self._workers:
            before, worker.beats = worker.beats, self._beats[worker.place.worker]
            turned = worker.beats != before or not worker.beats
            worker.silent = 0 if turned or self._stopping or not self._all_served else worker.silent + 1
            if worker.silent == LOOKS and worker.pid is not None:
                place = worker.place.worker
                log.error("worker hangs and is killed", worker=place, pid=worker.pid, silent=self._patience)
                os.kill(worker.pid, signal.SIGKILL)
        # One that cannot even be killed is for the service manager to deal with.
        if self._manager.alive_every is not None and all(worker.silent <= LOOKS for worker in self._workers):
            self._manager.tell(ALIVE)

    def _reap(self) -> None:
        while any(worker.pid for worker in self._workers):
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            for worker in self._workers:
                if worker.pid == pid:
                    worker.pid = None
                    worker.beats = worker.silent = self._beats[worker.place.worker] = 0
                    self._ended(worker, pid, os.waitstatus_to_exitcode(status))

    def _ended(self, worker: _Worker, pid: int, code: int) -> None:
        if self._stopping or not self._all_served:  # at the first start, one that cannot start ends the others
            asked = self._stopping and code == -signal.SIGTERM  # it had not begun to listen to signals
            self._code = self._code or (0 if asked else code if code >= 0 else 1)
            self._stop()
            return
        now = time.monotonic()
        worker.quick_ends = 1 if now - worker.started_at > SETTLED else worker.quick_ends + 1
        pause = pause_before(worker.quick_ends)
        worker.start_at = now + pause
        log.error("worker ended", worker=worker.place.worker, pid=pid, code=code, restart_in=pause)

    def _stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._manager.tell(STOPPING)
            self._kill_at = time.monotonic() + self._grace + BEYOND_GRACE
        self._tell_all(signal.SIGTERM)

    def _tell_all(self, number: signal.Signals) -> None:
        for worker in self._workers:
            if worker.pid is not None:
                os.kill(worker.pid, number)  # it is there, if only as a process that waits to be asked for its code


def _only_wake(_number: int, _frame: object) -> None:
    """Let the signal interrupt the sleep; what it is stands in the pipe."""
