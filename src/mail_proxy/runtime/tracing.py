"""Traces: messages followed from their request over each attempt to their report, sent to a collector by OTLP.

What is told: ids of tenants, accounts and messages, hosts, codes, times. No address, no content, no secret.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from threading import Thread
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog
from typing_extensions import override

import mail_proxy
from mail_proxy.domain.account import Account
from mail_proxy.domain.attempt import Trace
from mail_proxy.domain.claim import Claimed
from mail_proxy.domain.extra import how_to_install
from mail_proxy.domain.message import MessageState
from mail_proxy.domain.report import split_reply
from mail_proxy.domain.settlement import Settlement
from mail_proxy.domain.trace_context import traceparent as checked
from mail_proxy.ports.clock import Clock
from mail_proxy.ports.observers import Submitted, Tracer

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.trace import Span

MOST_OF_A_REPORT = 200
"""Traces that one report is shown in."""
_IN_A_REPORT = re.compile(rb'"traceparent":"([0-9a-f-]{55})"')
_NANO = 1_000_000_000
LAST_SECONDS = 2.0
"""How long the end waits for a collector to take what is left."""
BETWEEN_LINES = 60.0
"""Seconds between two lines that say that a collector does not take spans."""
EXPORTER_LOG = "opentelemetry.exporter.otlp.proto.http.trace_exporter"

log = structlog.get_logger(__name__)


class TracingRefused(Exception):
    """Traces are wanted and cannot be made; the text says what to do."""


@dataclass(slots=True)
class _Kept(AbstractContextManager[Submitted]):
    traceparent: str | None

    @override
    def __exit__(self, *_: object) -> None:
        pass

    def done(self, tenant_id: str | None, queued: int, rejected: int) -> None:
        """Nobody looks."""


class NoTracer(Tracer):
    """Sends nothing anywhere; what a caller has sent is kept with the message all the same."""

    @override
    def submission(self, traceparent: str | None) -> AbstractContextManager[Submitted]:
        return _Kept(checked(traceparent))

    @override
    def attempt(self, account: Account, claimed: Claimed, outcome: Settlement, trace: Trace, began: float) -> None:
        pass

    @override
    def report(self, tenant_id: str, payload: bytes, status: int | None, began: float) -> None:
        pass


class OtlpTracer(Tracer):
    """Sends spans to a collector, in the background; what it does not take is dropped."""

    def __init__(self, url: str, ratio: float, instance: str, clock: Clock) -> None:
        """`ratio`: how many of the traces that begin here are kept. Raises `TracingRefused`."""
        try:
            from opentelemetry import trace  # noqa: PLC0415 - comes with an extra
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased  # noqa: PLC0415
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415
        except ImportError:
            raise TracingRefused(f"GMP_TRACES_URL needs the extra [otel]: {how_to_install('otel')}") from None
        about = {"service.name": "genro-mail-proxy", "service.version": mail_proxy.__version__}
        resource = Resource.create({**about, "service.instance.id": instance})
        self._provider: TracerProvider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)), resource=resource, shutdown_on_exit=False
        )
        self._collector = Collector(OTLPSpanExporter(endpoint=url, timeout=10), url, clock)
        exporter: SpanExporter = self._collector  # type: ignore[assignment]  # its class comes with the extra
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("mail_proxy", mail_proxy.__version__)
        self._context = TraceContextTextMapPropagator()
        self._kinds = trace.SpanKind
        self._codes = trace.StatusCode
        self._in = trace.set_span_in_context
        self._clock = clock

    def close(self) -> None:
        """Send what is left, for `LAST_SECONDS` at the most, and say how much is lost; blocks."""
        closing = Thread(target=self._provider.shutdown, name="end of traces", daemon=True)
        closing.start()
        closing.join(LAST_SECONDS)
        self._collector.close()

    @override
    @contextmanager
    def submission(self, traceparent: str | None) -> Iterator[Submitted]:
        span = self._tracer.start_span(
            "add-messages", self._below(checked(traceparent)), self._kinds.SERVER, start_time=self._now()
        )
        carrier: dict[str, str] = {}
        self._context.inject(carrier, self._in(span))
        followed = _Followed(span, carrier.get("traceparent"))
        try:
            yield followed
        except BaseException as error:
            span.set_status(self._codes.ERROR, type(error).__name__)
            raise
        finally:
            self._end(span)

    @override
    def attempt(self, account: Account, claimed: Claimed, outcome: Settlement, trace: Trace, began: float) -> None:
        attributes: dict[str, str | int | float] = {
            **self._of(claimed.tenant_id),
            "mail_proxy.account_id": claimed.account_id,
            "mail_proxy.message_id": claimed.identity.mail_id,
            "mail_proxy.priority": claimed.priority,
            "mail_proxy.attempt": claimed.attempts,
            "mail_proxy.outcome": outcome.state.value,
            "server.address": account.host,
            "server.port": account.port,
            "tls.protocol.version": trace.tls or "none",
            **{f"mail_proxy.{phase.value}_ms": round(took * 1000, 3) for phase, took in trace.seconds.items()},
        }
        code, _, _ = split_reply(outcome.reply)
        if code is not None:
            attributes["mail_proxy.code"] = code
        failed = outcome.state in {MessageState.FAILED, MessageState.EXPIRED}
        self._past("attempt", self._below(claimed.traceparent), attributes, began, failed=failed)

    @override
    def report(self, tenant_id: str, payload: bytes, status: int | None, began: float) -> None:
        attributes: dict[str, str | int | float] = dict(self._of(tenant_id))
        if status is not None:
            attributes["http.response.status_code"] = status
        failed = status is None or status >= 400
        followed = dict.fromkeys(_IN_A_REPORT.findall(payload))
        for found in list(followed)[:MOST_OF_A_REPORT]:
            self._past("report", self._below(checked(found.decode())), attributes, began, failed=failed)

    def _past(
        self,
        name: str,
        below: Context | None,
        attributes: Mapping[str, str | int | float],
        began: float,
        *,
        failed: bool,
    ) -> None:
        """Show what has just ended."""
        span = self._tracer.start_span(
            name, below, self._kinds.CLIENT, attributes=attributes, start_time=int(began * _NANO)
        )
        if failed:
            span.set_status(self._codes.ERROR)
        self._end(span)

    def _end(self, span: Span) -> None:
        if span.get_span_context().trace_flags.sampled:
            self._collector.ended += 1
        span.end(self._now())

    def _below(self, parent: str | None) -> Context | None:
        return None if parent is None else self._context.extract({"traceparent": parent})

    @staticmethod
    def _of(tenant_id: str) -> dict[str, str]:
        return {"mail_proxy.tenant_id": tenant_id}

    def _now(self) -> int:
        return int(self._clock.now() * _NANO)


class Collector:
    """Where spans go: an exporter that is spoken for. What it says itself in the log is said here, in fewer words.

    Of its URL host and port are told, of an error its kind: the rest may have a secret in it. It is called by one
    thread, which ends with the process.
    """

    def __init__(self, exporter: SpanExporter, url: str, clock: Clock) -> None:
        self._exporter = exporter
        self._address = _host_and_port(url)
        self._clock = clock
        self._words = _Words()
        self._logger = logging.getLogger(EXPORTER_LOG)
        self._logger.setLevel(logging.WARNING)
        self._logger.addFilter(self._words)
        self._taken = self._untold = self._told = 0
        self._next_line = 0.0
        self._closed = False
        self.ended = 0
        """Spans that were to be sent, counted by who ends them."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans; what is not taken is lost."""
        from opentelemetry.sdk.trace.export import SpanExportResult  # noqa: PLC0415 - comes with an extra

        if self._closed:
            return SpanExportResult.FAILURE
        self._words.said = ""
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the exporter's
            result, self._words.said = SpanExportResult.FAILURE, type(error).__name__
        if result is SpanExportResult.SUCCESS:
            self._taken += len(spans)
        elif not self._closed:  # else it is told with all that is lost
            self._lost(len(spans))
        return result

    def _lost(self, spans: int) -> None:
        self._untold += spans
        now = self._clock.monotonic()
        if now >= self._next_line:
            self._next_line = now + BETWEEN_LINES
            log.warning("traces_not_taken", spans=self._untold, collector=self._address, reason=self._words.said)
            self._told, self._untold = self._told + self._untold, 0

    def close(self) -> None:
        """Send nothing more, and say how many spans are lost that nothing was said of."""
        self._closed = True
        self._exporter.shutdown()  # which ends the wait for another try
        lost = self.ended - self._taken - self._told
        if lost > 0:
            log.warning("traces_lost", spans=lost, collector=self._address, reason=self._words.said)
        self._logger.setLevel(logging.CRITICAL)  # it may say something to that
        self._logger.removeFilter(self._words)

    def shutdown(self) -> None:
        """Leave it to `close`."""


class _Words(logging.Filter):
    """Keeps the kind of error that a library tells first, and lets nothing that it says into the log."""

    def __init__(self) -> None:
        super().__init__()
        self.said = ""

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        if not self.said:
            values = record.args if isinstance(record.args, tuple) else ()
            kinds = filter(None, map(_kind, values))
            self.said = next(kinds, "no answer in time" if "timeout" in record.msg else "not sent")
        return False


def _kind(value: object) -> str | None:
    """Return what kind of error it is, where the value tells one: an exception, a status, or its phrase."""
    if isinstance(value, BaseException):
        return type(value).__name__
    for status in HTTPStatus:
        if value in {status.value, status.phrase}:
            return f"HTTP {status.value} {status.phrase}"
    return None


def _host_and_port(url: str) -> str:
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"{f'[{host}]' if ':' in host else host}:{port}"


@dataclass(slots=True)
class _Followed:
    span: Span
    traceparent: str | None

    def done(self, tenant_id: str | None, queued: int, rejected: int) -> None:
        """Show what came of it."""
        if tenant_id is not None:
            self.span.set_attribute("mail_proxy.tenant_id", tenant_id)
        self.span.set_attributes({"mail_proxy.queued": queued, "mail_proxy.rejected": rejected})
