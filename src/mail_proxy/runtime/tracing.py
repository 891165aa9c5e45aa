"""Traces: messages followed from their request over each attempt to their report, sent to a collector by OTLP.

What is told: ids of tenants, accounts and messages, hosts, codes, times. No address, no content, no secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

import mail_proxy
from mail_proxy.domain.account import Account
from mail_proxy.domain.attempt import Trace
from mail_proxy.domain.claim import Claimed
from mail_proxy.domain.message import MessageState
from mail_proxy.domain.report import split_reply
from mail_proxy.domain.settlement import Settlement
from mail_proxy.domain.trace_context import traceparent as checked
from mail_proxy.ports.clock import Clock
from mail_proxy.ports.observers import Submitted, Tracer

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

MOST_OF_A_REPORT = 200
"""Traces that one report is shown in."""
_IN_A_REPORT = re.compile(rb'"traceparent":"([0-9a-f-]{55})"')
_NANO = 1_000_000_000


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
            raise TracingRefused("GMP_TRACES_URL needs the extra [otel]: pip install '.[otel]' in a checkout") from None
        about = {"service.name": "genro-mail-proxy", "service.version": mail_proxy.__version__}
        resource = Resource.create({**about, "service.instance.id": instance})
        self._provider: TracerProvider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)), resource=resource, shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url, timeout=10)))
        self._tracer = self._provider.get_tracer("mail_proxy", mail_proxy.__version__)
        self._context = TraceContextTextMapPropagator()
        self._kinds = trace.SpanKind
        self._codes = trace.StatusCode
        self._in = trace.set_span_in_context
        self._clock = clock

    def close(self) -> None:
        """Send what is left, for some seconds at the most; blocks."""
        self._provider.shutdown()

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
            span.end(self._now())

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
        span.end(self._now())

    def _below(self, parent: str | None) -> Context | None:
        return None if parent is None else self._context.extract({"traceparent": parent})

    @staticmethod
    def _of(tenant_id: str) -> dict[str, str]:
        return {"mail_proxy.tenant_id": tenant_id}

    def _now(self) -> int:
        return int(self._clock.now() * _NANO)


@dataclass(slots=True)
class _Followed:
    span: Span
    traceparent: str | None

    def done(self, tenant_id: str | None, queued: int, rejected: int) -> None:
        """Show what came of it."""
        if tenant_id is not None:
            self.span.set_attribute("mail_proxy.tenant_id", tenant_id)
        self.span.set_attributes({"mail_proxy.queued": queued, "mail_proxy.rejected": rejected})
