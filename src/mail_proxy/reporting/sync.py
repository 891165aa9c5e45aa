"""One sync: what a tenant is to be told is read, sent, and marked as told where the tenant says so."""  # G9

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random

import anyio
import structlog
from typing_extensions import assert_never

from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.domain.report import StoredEvent
from mail_proxy.domain.tenant import Tenant
from mail_proxy.ports.clock import Clock
from mail_proxy.ports.directory import Directory
from mail_proxy.ports.observers import Observers
from mail_proxy.ports.outbox import Outbox
from mail_proxy.ports.report_sink import ReportSink, SinkAnswer
from mail_proxy.reporting.answer import Acknowledged, Answer, Paused, Refused, understand
from mail_proxy.reporting.backoff import LONGEST_FOR_STORE, pause_after
from mail_proxy.reporting.complaints import Complaints
from mail_proxy.reporting.lane import Lane
from mail_proxy.reporting.payload import Page, Posted, build_page
from mail_proxy.reporting.places import Place, Places
from mail_proxy.reporting.turns import Turn, Turns

_CHUNK = 100
"""Events read at a time, so that no more than a few too many are in memory where they are big."""

log = structlog.get_logger(__name__)


@dataclass(eq=False)
class Syncs:
    """Syncs tenants."""

    outbox: Outbox
    directory: Directory
    sink: ReportSink
    clock: Clock
    observers: Observers
    rng: Random
    turns: Turns
    _on_their_way: set[anyio.CancelScope] = field(default_factory=set)
    _stop_at: float = math.inf
    _store: Complaints = field(default_factory=Complaints)

    def begin(self) -> None:
        """Let reports on their way take the time that they need."""
        self._stop_at = math.inf

    def end(self, grace: float) -> None:
        """Give reports on their way so many seconds."""
        self._stop_at = anyio.current_time() + grace
        for scope in self._on_their_way:
            scope.deadline = self._stop_at

    def mark(self, tenant: Tenant) -> str:
        """Return what stands for where a tenant's reports go, and shows nothing of it."""
        return self.turns.mark(self.sink.place(tenant))

    async def leads_nowhere(self, lane: Lane) -> bool:
        """True for a tenant without an endpoint, for which no turn has to be taken."""
        try:
            tenant = await self.directory.tenant(lane.tenant_id)
        except StoreUnavailable:  # as the sync will find, too
            return False
        if tenant is None or not self.sink.has_endpoint(tenant):
            lane.without_endpoint()
            return True
        lane.aim(self.mark(tenant))
        return False

    async def sync(
        self, lane: Lane, turn: Turn, place: Place | None = None, places: Places | None = None
    ) -> Answer | None:
        """Send one report, if there is anything to report or it is time for an empty one; None if nothing was sent."""
        also_empty = lane.begin(self.clock.monotonic())
        try:
            tenant = await self.directory.tenant(lane.tenant_id)
            if tenant is None or not self.sink.has_endpoint(tenant):
                lane.without_endpoint()
                return None
            lane.aim(self.mark(tenant))
            page = await self._next_page(lane)
        except StoreUnavailable as error:
            lane.store_away(self.clock.monotonic(), self.rng, also_empty=also_empty)
            self.store_failed("outbox_unavailable", error, tenant_id=lane.tenant_id)
            return None
        lane.store_answered()
        self.store_answered()
        if not page.events and not also_empty:
            return None
        if not self.turns.holds(turn):  # the page may be another instance's by now
            lane.elsewhere(self.clock.monotonic())
            return None
        if place is not None and places is not None:
            places.filled(place, len(page.payload))
        with self._finishing():  # left without an answer when the grace time is over
            sent = await self._delivered(lane, tenant, page, place)
            if sent is None:
                lane.broken_off(len(page.events), self.clock.monotonic(), also_empty=also_empty)
                return None
            return await self._take_in(lane, turn, page, sent, also_empty=also_empty)

    def store_failed(self, event: str, error: StoreUnavailable, **facts: object) -> None:
        """Say that the store is away; not for each tenant, and not each time."""
        if self._store.worth_a_line(self.clock.monotonic()):
            log.warning(event, error=str(error), **facts)
        else:
            log.debug(event, error=str(error), **facts)

    def store_answered(self) -> None:
        """The store is there."""
        self._store.over(self.clock.monotonic())

    @contextmanager
    def _finishing(self) -> Iterator[None]:
        """Let a report that is on its way come to its end, also when the service stops."""
        with anyio.CancelScope(shield=True, deadline=self._stop_at) as scope:
            self._on_their_way.add(scope)
            try:
                yield
            finally:
                self._on_their_way.discard(scope)

    async def _next_page(self, lane: Lane) -> Page:
        """Read the oldest events of messages that are not held back, in order."""
        now = self.clock.monotonic()
        ready: list[StoredEvent] = []
        seen: set[int] = set()
        size = after = 0
        complete = False
        while not complete and len(ready) < lane.page_events and size < lane.page_bytes:
            rows = await self.outbox.pending(lane.tenant_id, _CHUNK, after)
            complete = len(rows) < _CHUNK
            for row in rows:
                after = row.event_id
                seen.add(row.event.message_pk)
                if lane.held_back.admits(row.event.message_pk, now):
                    ready.append(row)
                    size += len(row.event.entry)
            if lane.held_back.nothing_beyond(seen):
                break
        page = build_page(ready, lane.page_events, lane.page_bytes)
        if complete:
            lane.held_back.keep_only(seen)
        if len(page.events) < len(ready) or not complete:
            lane.more(now)
        return page

    async def _delivered(self, lane: Lane, tenant: Tenant, page: Page, place: Place | None) -> SinkAnswer | None:
        """Post the report; None where it was broken off, as others wanted its place."""
        began = self.clock.monotonic()
        sent: SinkAnswer | None = None
        with anyio.CancelScope() as scope:
            if place is not None:
                place.began, place.scope, place.broken_off = began, scope, False
            sent = await self.sink.deliver(tenant, page.payload, page.report_id)
        if place is not None:
            place.began = place.scope = None
        if sent is not None:
            took = self.clock.monotonic() - began
            lane.took(took)
            self.observers.meter.reports_took(took, answered=sent.status is not None)
            self.observers.tracer.report(lane.tenant_id, page.payload, sent.status, self.clock.now() - took)
        return sent

    async def _take_in(self, lane: Lane, turn: Turn, page: Page, sent: SinkAnswer, *, also_empty: bool) -> Answer:
        answer = understand(sent)
        events = len(page.events)
        now = self.clock.monotonic()
        match answer:
            case Acknowledged():
                await self._acknowledge(lane, turn, page, answer)
            case Refused(reason, retry_after):
                lane.refused(reason, retry_after, events, now, self.rng, also_empty=also_empty)
                self._complain(lane, events)
            case Paused(reason):
                lane.gone(reason, now)
                self.observers.meter.reported(events, ok=False)
                log.warning("reports_paused", tenant_id=lane.tenant_id, reason=reason, events=events)
            case _:
                assert_never(answer)
        return answer

    async def _acknowledge(self, lane: Lane, turn: Turn, page: Page, answer: Acknowledged) -> None:
        """Mark what the tenant took; the store may be away, the answer must not be forgotten."""
        taken, refused = _divide(page, answer.refused_ids)
        failures = 0
        while taken:
            try:
                ids = [posted.event_id for posted in taken]
                if not await self.outbox.acknowledge(ids, self.clock.now(), turn.lease):
                    log.warning("turn_lost", tenant_id=lane.tenant_id, events=len(taken))
                    lane.elsewhere(self.clock.monotonic())
                    return
                break
            except StoreUnavailable as error:
                failures += 1
                self.store_failed("acknowledgement_not_stored", error, tenant_id=lane.tenant_id)
                await self.clock.sleep(pause_after(failures, self.rng, longest=LONGEST_FOR_STORE))
        now = self.clock.monotonic()
        before = lane.failures
        lane.acknowledged(answer, taken, refused, now, self.clock.now(), self.rng)
        if (lasted := lane.complaints.over(now)) is not None:
            log.info("reports_go_again", tenant_id=lane.tenant_id, failures=before, failing_for=round(lasted, 1))
        self.observers.meter.reported(len(taken), ok=True)
        if refused:
            self.observers.meter.reported(len(page.events) - len(taken), ok=False)
        if refused and lane.oddities.worth_a_line(now):
            log.warning("events_refused", tenant_id=lane.tenant_id, messages=len(refused))
        if answer.ignored and lane.oddities.worth_a_line(now):
            log.warning("answer_fields_ignored", tenant_id=lane.tenant_id, fields=answer.ignored)
        if page.events:
            log.info("reported", tenant_id=lane.tenant_id, events=len(taken), refused=len(page.events) - len(taken))

    def _complain(self, lane: Lane, events: int) -> None:
        self.observers.meter.reported(events, ok=False)
        now = self.clock.monotonic()
        status = lane.status(now, self.clock.now())
        say = log.warning if lane.complaints.worth_a_line(now) else log.debug
        say(
            "report_failed",
            tenant_id=lane.tenant_id,
            reason=status.last_error,
            events=events,
            failures=status.consecutive_failures,
            next_try=status.next_sync_due,
        )


def _divide(page: Page, refused_ids: frozenset[str]) -> tuple[list[Posted], set[int]]:
    """Part the events that the tenant took from the messages that it could not take."""
    if not refused_ids:
        return list(page.events), set()
    taken: list[Posted] = []
    refused: set[int] = set()
    for message_id, posted in page.with_message_ids():
        if message_id in refused_ids:
            refused.add(posted.message_pk)
        else:
            taken.append(posted)
    return taken, refused
