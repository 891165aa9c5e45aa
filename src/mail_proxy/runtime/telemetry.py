"""Metrics for operators, in the text format of Prometheus."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from itertools import accumulate
from operator import add
from threading import Lock

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

import mail_proxy
from mail_proxy.domain.attempt import Phase
from mail_proxy.domain.large_file import LargeFileAction
from mail_proxy.domain.message import Priority
from mail_proxy.domain.sync_lease import Behind, SyncStanding
from mail_proxy.ports.observers import CacheMeter, CacheTier, CommitMeter, Meter
from mail_proxy.runtime.histograms import Histogram
from mail_proxy.runtime.tally import Labels, Page, Shape, Tally, kept

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER = "(other)"
"""Whatever has no series of its own. No id of a tenant or an account has parentheses."""
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

_REPORTS = (("gmp_reports", "Reports to tenants' endpoints."), ("gmp_reported_events", "Events in those reports."))
_OUTCOMES = (True, False)
_ON_HOLD, _LEFT_ALONE, _BEHIND = (len(_REPORTS) * len(_OUTCOMES) + n for n in range(3))
"""Gauges behind those totals. All workers know of the same accounts on hold; 0: not known yet, else one less.

From `_BEHIND` on two for each standing: tenants, the same way, and milliseconds.
"""
_TOTALS = _BEHIND + 2 * len(SyncStanding)

_CACHE_HITS, _CACHE_HIT_BYTES, _CACHE_EVICTIONS, _CACHE_BYTES = (
    {tier: _TOTALS + n * len(CacheTier) + m for m, tier in enumerate(CacheTier)} for n in range(4)
)
_CACHE_MISSES = _TOTALS + 4 * len(CacheTier)
_LARGE_FILES = {action: _CACHE_MISSES + 1 + n for n, action in enumerate(LargeFileAction)}
_OLDEST, _IN_HAND, _SESSIONS, _JOURNAL = (_CACHE_MISSES + 1 + len(LargeFileAction) + n for n in range(4))
"""Gauges of each worker; the oldest message is that of the database, in milliseconds and one more; 0: not known yet."""
_PHASES = {phase: n for n, phase in enumerate(Phase)}
_PRIORITIES = {priority: n for n, priority in enumerate(Priority)}
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_WAITING = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 15, 60, 300, 1800, 7200, 86400)
_WAITED = Histogram(
    "gmp_queue_wait_seconds",
    "Seconds from when a message was taken in until its first attempt, of those without a time of their own.",
    _WAITING,
    "priority",
    tuple(priority.name.lower() for priority in _PRIORITIES),
)
_PHASE = Histogram(
    "gmp_smtp_phase_seconds",
    "Seconds that attempts spent on each phase.",
    (*_SECONDS, 60, 300),
    "phase",
    tuple(phase.value for phase in _PHASES),
)
_REPORTS_TOOK = Histogram(
    "gmp_report_seconds",
    "Seconds until a report was answered, or given up.",
    _SECONDS,
    "outcome",
    ("answered", "no_answer"),
)
_COMMIT_SECONDS = Histogram("gmp_commit_seconds", "Seconds that a transaction took, its commit included.", _SECONDS)
_COMMIT_WRITES = Histogram(
    "gmp_commit_writes", "Writes that were committed together.", (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
)
_HISTOGRAMS = (_WAITED, _PHASE, _REPORTS_TOOK, _COMMIT_SECONDS, _COMMIT_WRITES)
_BEGIN = dict(zip(_HISTOGRAMS, accumulate((each.cells for each in _HISTOGRAMS), initial=_JOURNAL + 1), strict=False))
_ALL_TOTALS = _JOURNAL + 1 + sum(each.cells for each in _HISTOGRAMS)
_KEPT = (CacheTier.MEMORY, CacheTier.DISK)


def new_tally(workers: int = 1, max_series: int = MAX_SERIES, max_per_tenant: int = MAX_SERIES_PER_TENANT) -> Tally:
    """Return empty counts for so many workers, each of which has a meter of its own on them."""
    shared_rows = max_series // max(max_per_tenant, 1) + 2
    shape = Shape(totals=_ALL_TOTALS, rows=max_series + shared_rows, numbers=len(_COUNTERS))
    return Tally(shape, workers)


class PrometheusMeter(Meter, CacheMeter, CommitMeter, Collector):
    """Keeps the `Meter` port, in a registry of its own. May be called from any thread.

    It counts for one worker, and shows the sum over all that share the tally. Each account has its own series until
    there are `max_series` of them, or `max_per_tenant` of one tenant, over all workers. The rest is counted under
    `(other)`, and stays there: what a series shows is all that was counted for its account, and never less than before.
    """

    def __init__(
        self,
        tally: Tally | None = None,
        worker: int = 0,
        *,
        max_series: int = MAX_SERIES,
        max_per_tenant: int = MAX_SERIES_PER_TENANT,
        process: bool = True,
    ) -> None:
        """Go on counting where an earlier worker of this number ended.

        `process`: also show memory, processor time and open files of each worker.
        """
        self._max_series = max_series
        self._max_per_tenant = max_per_tenant
        self._lock = Lock()
        self._commit_lock = Lock()
        """Of its own, so that the event loop never waits for a writer's thread that has lost the interpreter."""
        self._tally = tally or new_tally(1, max_series, max_per_tenant)
        self._page = self._tally.pages[worker]
        self._page.take(os.getpid())
        self._counts: dict[Labels, memoryview[int]] = {}
        self._own_series: Counter[str] = Counter()
        """How many accounts of each tenant have one."""
        self._series_given = 0
        self._render_lock = Lock()
        self._shown: list[str] = []
        """The labels of each row, as they are shown."""
        totals = self._page.totals
        self._spread = {each: totals[begin : begin + each.cells] for each, begin in _BEGIN.items()}
        self._registry = CollectorRegistry()
        self._registry.register(self)
        if process:
            pages = self._tally.pages
            self._registry.register(ProcessCollector(registry=None) if len(pages) == 1 else _Processes(pages))

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
            first = _OUTCOMES.index(ok) * len(_REPORTS)
            self._page.totals[first] += 1
            self._page.totals[first + 1] += events

    @override
    def behind(self, tenants: Mapping[SyncStanding, Behind]) -> None:
        for index, standing in enumerate(SyncStanding):
            behind = tenants.get(standing, Behind())
            first = _BEHIND + 2 * index
            self._page.totals[first], self._page.totals[first + 1] = behind.tenants + 1, max(0, int(behind.lag * 1000))

    @override
    def pending(self, messages: int, oldest: float | None) -> None:
        self._tally.latest = messages
        self._page.totals[_OLDEST] = 1 + int((oldest or 0.0) * 1000)

    @override
    def in_hand(self, messages: int, sessions: int, journal: int) -> None:
        totals = self._page.totals
        totals[_IN_HAND], totals[_SESSIONS], totals[_JOURNAL] = messages, sessions, journal

    @override
    def waited(self, priority: Priority, seconds: float) -> None:
        self._observe(_WAITED, _PRIORITIES[priority], seconds)

    @override
    def phases(self, seconds: Mapping[Phase, float]) -> None:
        cells = self._spread[_PHASE]
        with self._lock:
            for phase, each in seconds.items():
                _PHASE.observe(cells, _PHASES[phase], each)

    @override
    def reports_took(self, seconds: float, *, answered: bool) -> None:
        self._observe(_REPORTS_TOOK, 0 if answered else 1, seconds)

    @override
    def committed(self, writes: int, seconds: float) -> None:
        with self._commit_lock:
            _COMMIT_WRITES.observe(self._spread[_COMMIT_WRITES], 0, writes)
            _COMMIT_SECONDS.observe(self._spread[_COMMIT_SECONDS], 0, seconds)

    def _observe(self, histogram: Histogram, index: int, value: float) -> None:
        with self._lock:
            histogram.observe(self._spread[histogram], index, value)

    @override
    def outages(self, on_hold: int, left_alone: int) -> None:
        self._page.totals[_ON_HOLD], self._page.totals[_LEFT_ALONE] = on_hold + 1, left_alone

    @override
    def large_file(self, action: LargeFileAction) -> None:
        with self._lock:
            self._page.totals[_LARGE_FILES[action]] += 1

    @override
    def cache_hit(self, tier: CacheTier, size: int) -> None:
        with self._lock:
            self._page.totals[_CACHE_HITS[tier]] += 1
            self._page.totals[_CACHE_HIT_BYTES[tier]] += size

    @override
    def cache_missed(self) -> None:
        with self._lock:
            self._page.totals[_CACHE_MISSES] += 1

    @override
    def cache_evicted(self, tier: CacheTier) -> None:
        with self._lock:
            self._page.totals[_CACHE_EVICTIONS[tier]] += 1

    @override
    def cache_holds(self, tier: CacheTier, size: int) -> None:
        self._page.totals[_CACHE_BYTES[tier]] = size

    @property
    def pending_messages(self) -> int | None:
        """The number of messages that were not finished when they were last counted; None before that."""
        return self._tally.latest

    def render(self) -> bytes:
        """Return everything in the text format, to be answered with `CONTENT_TYPE`; takes a while."""
        with self._render_lock:
            return self._accounts().encode() + generate_latest(self._registry)

    def _accounts(self) -> str:
        """Return what is counted by account: so many lines that the library would take ten times as long for them."""
        self._shown += map(_as_shown, self._tally.names.since(len(self._shown)))
        numbers = _sums(page.numbers(len(self._shown)) for page in self._tally.pages)
        parts = []
        for index, (name, text) in enumerate(_COUNTERS.items()):
            parts.append(f"# HELP {name}_total {text}\n# TYPE {name}_total counter\n")
            counted = zip(self._shown, numbers[index :: len(_COUNTERS)], strict=True)
            parts += [f"{name}_total{labels} {number}.0\n" for labels, number in counted]
        return "".join(parts)

    @override
    def collect(self) -> Iterator[Metric]:
        """Give the state of this moment to the registry, but what is counted by account: the sum over all workers."""
        totals = _sums(page.totals.tolist() for page in self._tally.pages)
        for index, (name, text) in enumerate(_REPORTS):
            family = CounterMetricFamily(name, text, labels=["outcome"])
            for n, ok in enumerate(_OUTCOMES):
                family.add_metric(["acknowledged" if ok else "failed"], totals[n * len(_REPORTS) + index])
            yield family
        yield from self._cache(totals)
        yield from self._gauges(totals)
        yield from self._reports_behind()
        for histogram, begin in _BEGIN.items():
            yield histogram.family(totals[begin : begin + histogram.cells])
        build = InfoMetricFamily("gmp_build", "What is running.")
        build.add_metric([], {"version": mail_proxy.__version__, "python": platform.python_version()})
        yield build

    def _gauges(self, totals: Sequence[int]) -> Iterator[Metric]:
        """Show what was last seen; nothing of what was not looked at yet."""
        pending = self._tally.latest
        if pending is not None:
            yield GaugeMetricFamily("gmp_pending_messages", "Messages that are not finished.", value=pending)
        held = max(page.totals[_ON_HOLD] for page in self._tally.pages)
        if held:
            alone = sum(page.totals[_LEFT_ALONE] for page in self._tally.pages)
            yield GaugeMetricFamily("gmp_accounts_on_hold", "Accounts that are on hold.", value=held - 1)
            yield GaugeMetricFamily("gmp_breakers_open", "Servers that are left alone.", value=alone)
        oldest = max(page.totals[_OLDEST] for page in self._tally.pages)
        if oldest:
            text = "Age of the oldest message that could go at once; 0: there is none."
            yield GaugeMetricFamily("gmp_oldest_waiting_seconds", text, value=(oldest - 1) / 1000)
        for name, text, cell in (
            ("gmp_messages_in_hand", "Messages that instances have taken up and not settled.", _IN_HAND),
            ("gmp_smtp_sessions", "SMTP sessions that are open.", _SESSIONS),
            ("gmp_journal_bytes", "Size of the flight journals.", _JOURNAL),
        ):
            yield GaugeMetricFamily(name, text, value=totals[cell])

    def _reports_behind(self) -> Iterator[Metric]:
        """Give how far reports are behind. All workers see one database: what the one saw that saw most."""
        tenants = GaugeMetricFamily("gmp_tenants_behind", "Tenants with events to be told of.", labels=["state"])
        lag = GaugeMetricFamily("gmp_report_lag_seconds", "Age of the oldest of those events.", labels=["state"])
        pages = [page.totals for page in self._tally.pages if page.totals[_BEHIND]]
        for index, standing in enumerate(SyncStanding):
            if pages:
                first = _BEHIND + 2 * index
                tenants.add_metric([standing.value], max(totals[first] for totals in pages) - 1)
                lag.add_metric([standing.value], max(totals[first + 1] for totals in pages) / 1000)
        if pages:
            yield from (tenants, lag)

    def _cache(self, totals: Sequence[int]) -> Iterator[Metric]:
        """Show the cache of attachments. Each worker has its memory; on disk all have the same files."""
        for name, text, places, tiers in (
            ("hits", "Attachments that did not have to be fetched.", _CACHE_HITS, tuple(CacheTier)),
            ("hit_bytes", "Bytes of those attachments.", _CACHE_HIT_BYTES, tuple(CacheTier)),
            ("evictions", "Contents that had to make room for others.", _CACHE_EVICTIONS, _KEPT),
        ):
            family = CounterMetricFamily(f"gmp_attachment_cache_{name}", text, labels=["tier"])
            for tier in tiers:
                family.add_metric([tier.value], totals[places[tier]])
            yield family
        text = "Attachments with a digest that had to be fetched."
        yield CounterMetricFamily("gmp_attachment_cache_misses", text, value=totals[_CACHE_MISSES])
        text = "Attachments that were larger than their tenants want to send, by what was done."
        large = CounterMetricFamily("gmp_large_files", text, labels=["action"])
        for action in LargeFileAction:
            large.add_metric([action.value], totals[_LARGE_FILES[action]])
        yield large
        held = GaugeMetricFamily("gmp_attachment_cache_bytes", "Bytes that are kept.", labels=["tier"])
        held.add_metric([CacheTier.MEMORY.value], totals[_CACHE_BYTES[CacheTier.MEMORY]])
        on_disk = max(page.totals[_CACHE_BYTES[CacheTier.DISK]] for page in self._tally.pages)
        held.add_metric([CacheTier.DISK.value], on_disk)
        yield held

    def _count(self, counter: int, tenant_id: str, account_id: str) -> None:
        with self._lock:
            labels = (tenant_id, account_id)
            counts = self._counts.get(labels)
            if counts is None:
                counts = self._series(labels)
            counts[counter] += 1

    def _series(self, labels: Labels) -> memoryview[int]:
        """Return where a pair is counted that is not known here: in a series of its own if it has or gets one."""
        labels = kept(labels)
        self._learn()
        where = self._where(labels)
        if where not in self._counts:
            with self._tally.alone():
                self._learn()
                where = self._where(labels)
                if where not in self._counts:
                    self._tally.names.add(where)
                    self._learn()
        return self._counts[where]

    def _learn(self) -> None:
        """Take in the series that have come about, in whichever worker."""
        known = len(self._counts)
        for row, labels in enumerate(self._tally.names.since(known), known):
            self._counts[labels] = self._page.row(row)
            tenant_id, account_id = labels
            if account_id != OTHER:
                self._own_series[tenant_id] += 1
                self._series_given += 1

    def _where(self, labels: Labels) -> Labels:
        """Return the series that a pair is counted under. Once it is a shared one, it is the same for ever."""
        tenant_id, _ = labels
        if labels in self._counts:
            return labels
        if self._own_series[tenant_id] >= self._max_per_tenant:  # asked first, as it cannot come about any more
            return tenant_id, OTHER
        return (OTHER, OTHER) if self._series_given >= self._max_series else labels


def _sums(rows: Iterable[list[int]]) -> list[int]:
    """Add up lists of equal length, of which there is one at least."""
    return reduce(lambda all_, each: list(map(add, all_, each)), rows)


def _as_shown(labels: Labels) -> str:
    tenant_id, account_id = (each.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"') for each in labels)
    return f'{{account_id="{account_id}",tenant_id="{tenant_id}"}}'


class _Processes(Collector):
    """Shows what each worker's process takes, under the worker's number: a sum would fall when one is started anew."""

    def __init__(self, pages: Sequence[Page]) -> None:
        self._pages = pages

    @override
    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for worker, page in enumerate(self._pages):
            for metric in ProcessCollector(pid=_of(page), registry=None).collect() if page.pid else ():
                family = families.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                for sample in metric.samples:
                    family.add_sample(sample.name, {"worker": str(worker)}, sample.value)
        yield from families.values()


def _of(page: Page) -> Callable[[], int]:
    return lambda: page.pid
