"""Reports to a Python callable that a user's package brings along, in the place of HTTP."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Any, cast

import structlog
from typing_extensions import override

from mail_proxy.domain.reply import printable
from mail_proxy.domain.tenant import Tenant
from mail_proxy.ports.report_sink import ReportSink, SinkAnswer
from mail_proxy.reporters import GROUP, Report, Reporter

BUILT_IN = "http"
MOST_THREADS = 256
"""Calls of a plain function at a time, those included that were given up and have not come back."""
_TO_END = 1.0
"""Seconds that a call gets to take note of being cancelled."""
_LONGEST_TEXT = 500

log = structlog.get_logger(__name__)


class ReporterRefused(Exception):
    """`GMP_REPORTER` names what is not there, or cannot be used; the text says so."""


def load(name: str) -> Reporter:
    """Return the reporter of this name that an installed package brings along; raises `ReporterRefused`."""
    installed = {each.name: each for each in metadata.entry_points(group=GROUP)}
    point = installed.get(name)
    if point is None:
        there = ", ".join(sorted({BUILT_IN, *installed}))
        raise ReporterRefused(f"GMP_REPORTER names {name!r}, and no installed package has it; there is: {there}")
    try:
        loaded: object = point.load()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - told in a sentence, whatever it is
        log.warning("reporter_not_loaded", reporter=name, entry_point=point.value, error=_words(error))
        raise ReporterRefused(
            f"GMP_REPORTER names {name!r}, and {point.value} cannot be imported: {_words(error)}"
        ) from None
    if not callable(loaded) or isinstance(loaded, type):
        raise ReporterRefused(
            f"GMP_REPORTER names {name!r}, and {point.value} is neither a function nor an object that can be called"
        )
    return cast("Reporter", loaded)


@dataclass(frozen=True, slots=True)
class _Failed:
    """A call that came to nothing, in the words of `sync-status`."""

    why: str


class OwnReporterSink(ReportSink):
    """Carries reports by calling a function. Whatever it does is an answer within `timeout` seconds.

    A tenant has one call at a time: one that was given up and goes on all the same is waited for, since what it does
    could come after what a second one does.
    """

    def __init__(self, reporter: Reporter, *, timeout: float = 30.0, max_bytes: int = 1_000_000) -> None:
        self._reporter = cast("Callable[[Report], Any]", reporter)
        self._is_async = _gives_coroutines(reporter)
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._under_way: set[str] = set()
        self._tasks: set[asyncio.Task[object]] = set()

    @override
    def has_endpoint(self, tenant: Tenant) -> bool:
        return True

    @override
    async def deliver(self, tenant: Tenant, payload: bytes, report_id: str) -> SinkAnswer:
        outcome = await self._called(_report(tenant.id, payload, report_id))
        if not isinstance(outcome, _Failed):
            outcome = self._as_json(outcome)
        if isinstance(outcome, _Failed):
            return SinkAnswer(None, b"", error=outcome.why)
        return SinkAnswer(200, outcome)

    async def close(self) -> None:
        """Cancel what is under way in the event loop; threads end with the process."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_TO_END)

    async def _called(self, report: Report) -> object:
        """Call the reporter and return what it answers, or `_Failed`."""
        if report.tenant_id in self._under_way:
            return _Failed("the reporter has not come back from an earlier call for this tenant")
        if not self._is_async and len(self._under_way) >= MOST_THREADS:
            return _Failed(f"the reporter has not come back from {MOST_THREADS} other calls")
        # A task of its own: what cancels itself in it does not cancel us, and we leave when it does not.
        work = self._in_loop(report) if self._is_async else self._in_thread(report)
        self._under_way.add(report.tenant_id)
        task = asyncio.get_running_loop().create_task(work, name=f"own reporter for {report.tenant_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._is_async:
            task.add_done_callback(lambda _: self._under_way.discard(report.tenant_id))
        try:
            await asyncio.wait({task}, timeout=self._timeout)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=_TO_END)
            return _Failed(f"the reporter did not answer in {self._timeout:g} s")
        return _Failed("the reporter was cancelled") if task.cancelled() else task.result()

    async def _in_loop(self, report: Report) -> object:
        try:
            return await self._reporter(report)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - it acknowledges nothing, and ends nothing else  G9
            return _raised(report, error)

    async def _in_thread(self, report: Report) -> object:
        """Run a plain function. Its thread ends nothing and is waited for by nobody when the process ends."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[object] = loop.create_future()

        def came_back(outcome: object) -> None:
            self._under_way.discard(report.tenant_id)
            if not done.done():
                done.set_result(outcome)

        def call() -> None:
            try:
                outcome: object = self._reporter(report)
            except BaseException as error:  # noqa: BLE001 - a thread has nobody above it
                outcome = _raised(report, error)
            try:
                loop.call_soon_threadsafe(came_back, outcome)
            except RuntimeError:  # the loop has ended: nobody waits any more
                log.debug("reporter_too_late", tenant_id=report.tenant_id)

        try:
            threading.Thread(target=call, name=f"own reporter for {report.tenant_id}", daemon=True).start()
        except RuntimeError:
            self._under_way.discard(report.tenant_id)
            return _Failed("the system has no thread left for the reporter")
        return await done

    def _as_json(self, answer: object) -> bytes | _Failed:
        """Write down what an endpoint would have answered."""
        if answer is None:
            return b"{}"
        if inspect.iscoroutine(answer):
            answer.close()
        if not isinstance(answer, Mapping):
            return _Failed(f"the reporter answered with {type(answer).__name__}, which is neither a mapping nor None")
        try:
            written = json.dumps(dict(answer), allow_nan=False).encode()
        except Exception as error:  # noqa: BLE001 - a mapping can be anybody's code
            return _Failed(f"what the reporter answered is no JSON ({type(error).__name__})")
        if len(written) > self._max_bytes:
            return _Failed(f"the reporter's answer is longer than {self._max_bytes} bytes")
        return written


def _report(tenant_id: str, payload: bytes, report_id: str) -> Report:
    return Report(tenant_id, report_id, tuple(json.loads(payload)["delivery_report"]), payload)


def _gives_coroutines(reporter: object) -> bool:
    """True for an `async def`, for a partial of one, and for an object whose `__call__` is one."""
    while isinstance(reporter, partial):
        reporter = reporter.func
    return inspect.iscoroutinefunction(reporter) or inspect.iscoroutinefunction(getattr(reporter, "__call__", None))  # noqa: B004


def _raised(report: Report, error: BaseException) -> _Failed:
    """Tell the log what was raised, and the status only of what kind it was: the words may be secret."""
    log.warning("reporter_raised", tenant_id=report.tenant_id, report=report.id, error=_words(error))
    return _Failed(f"the reporter raised {type(error).__name__}")


def _words(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - even that is somebody else's code
        text = "?"
    return printable(f"{type(error).__name__}: {text}"[:_LONGEST_TEXT])
