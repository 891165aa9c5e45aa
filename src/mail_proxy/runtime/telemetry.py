"""Metrics for operators, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from mail_proxy.ports import Meter

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER = "other"
MAX_SERIES = 2000
"""Accounts that are counted apart. Prometheus keeps every series that it has ever seen, so their number is bounded."""
MAX_SERIES_PER_TENANT = 100
"""So that a tenant with very many accounts does not take the others' places."""

_COUNTERS = {
    "gmp_sent": "Messages that were sent.",
    "gmp_errors": "Messages that ended as failed or expired.",
    "gmp_deferred": "Times that a message was put off to a later attempt, or told that a rate limit holds it up.",
    "gmp_rate_limited": "Times that a rate limit was met.",
    "gmp_uncertain": "Times that a final dot got no answer, so that a message may have been delivered.",
    "gmp_poison": "Messages that were held because instances kept ending while they sent them.",
}
_SENT, _ERRORS, _DEFERRED, _RATE_LIMITED, _UNCERTAIN, _POISON = range(len(_COUNTERS))

Labels = tuple[str, str]


class PrometheusMeter(Meter, Collector):
    """Keeps the `Meter` port, in a registry of its own. May be called from any thread.

    Each account has its own series until there are `max_series` of them, or `max_per_tenant` of one tenant. The rest is
    counted under `other`, and stays there: a series that was shown once never becomes another one.
    """

    def __init__(
        self, *, max_series: int = MAX_SERIES, max_per_tenant: int = MAX_SERIES_PER_TENANT, process: bool = True
    ) -> None:
        """`process`: also show memory, processor time and open files of this process."""
        self._max_series = max_series
        self._max_per_tenant = max_per_tenant
        self._lock = Lock()
        self._counts: dict[Labels, list[int]] = {}
        self._own_series: dict[str, int] = {}
        self._series_given = 0
        self._reports = {True: [0, 0], False: [0, 0]}
        self._pending: int | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)
        if process:
            ProcessCollector(registry=self._registry)

    @override
    def sent(self, tenant_id: str, account_id: str) -> None:
        self._count(_SENT, tenant_id, account_id)

    @override
    def failed(self, tenant_id: str, account_id: str) -> None:
        self._count(_ERRORS, tenant_id, account_id)

    @override
    def deferred(self, tenant_id: str, account_id: str) -> None:
        self._count(_DEFERRED, tenant_id, account_id)

    @override
    def rate_limited(self, tenant_id: str, account_id: str) -> None:
        self._count(_RATE_LIMITED, tenant_id, account_id)

    @override
    def uncertain(self, tenant_id: str, account_id: str) -> None:
        self._count(_UNCERTAIN, tenant_id, account_id)

    @override
    def poison(self, tenant_id: str, account_id: str) -> None:
        self._count(_POISON, tenant_id, account_id)

    @override
    def reported(self, events: int, *, ok: bool) -> None:
        with self._lock:
            counts = self._reports[ok]
            counts[0] += 1
            counts[1] += events

    @override
    def pending(self, messages: int) -> None:
        self._pending = messages

    @property
    def pending_messages(self) -> int | None:
        """The number of messages that were not finished when they were last counted; None before that."""
        return self._pending

    def render(self) -> bytes:
        """Return everything in the text format, to be answered with `CONTENT_TYPE`."""
        return generate_latest(self._registry)

    @override
    def collect(self) -> Iterator[Metric]:
        """Give the state of this moment to the registry."""
        with self._lock:
            counts = {labels: tuple(numbers) for labels, numbers in self._counts.items()}
            reports = {ok: tuple(numbers) for ok, numbers in self._reports.items()}
        for index, (name, text) in enumerate(_COUNTERS.items()):
            family = CounterMetricFamily(name, text, labels=["tenant_id", "account_id"])
            for labels, numbers in counts.items():
                family.add_metric(labels, numbers[index])
            yield family
        for index, (name, text) in enumerate(
            (("gmp_reports", "Reports to tenants' endpoints."), ("gmp_reported_events", "Events in those reports."))
        ):
            family = CounterMetricFamily(name, text, labels=["outcome"])
            for ok, numbers in reports.items():
                family.add_metric(["acknowledged" if ok else "failed"], numbers[index])
            yield family
        if self._pending is not None:  # no number is shown before one was counted
            yield GaugeMetricFamily("gmp_pending_messages", "Messages that are not finished.", value=self._pending)

    def _count(self, counter: int, tenant_id: str, account_id: str) -> None:
        with self._lock:
            labels = (tenant_id, account_id)
            counts = self._counts.get(labels)
            if counts is None:
                counts = self._series(labels)
            counts[counter] += 1

    def _series(self, labels: Labels) -> list[int]:
        """Return where a new pair is counted: a series of its own while there is room, else one that is shared."""
        tenant_id, _ = labels
        own = self._own_series.get(tenant_id, 0)
        if own >= self._max_per_tenant:  # asked first: neither answer changes once it was given
            labels = (tenant_id, OTHER)
        elif self._series_given >= self._max_series:
            labels = (OTHER, OTHER)
        else:
            self._own_series[tenant_id] = own + 1
            self._series_given += 1
        return self._counts.setdefault(labels, [0] * len(_COUNTERS))
