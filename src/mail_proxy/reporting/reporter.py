"""Reports go out: one loop that knows who is due when, and one task for each tenant that is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Protocol

import anyio
import anyio.lowlevel
import structlog
from anyio.abc import TaskGroup
from typing_extensions import assert_never

from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.domain.report import StoredEvent
from mail_proxy.domain.tenant import Tenant
from mail_proxy.ports import Clock, Directory, Meter, Outbox, ReportSink
from mail_proxy.reporting.answer import Acknowledged, Answer, Paused, Refused, understand
from mail_proxy.reporting.backoff import LONGEST_FOR_STORE, pause_after
from mail_proxy.reporting.lane import Lane, SyncStatus
from mail_proxy.reporting.payload import Page, Posted, build_page
from mail_proxy.reporting.settings import ReportingSettings
from mail_proxy.reporting.timetable import Timetable
from mail_proxy.reporting.turns import Turn, Turns

_LONGEST_SLEEP = 3600.0
_CHUNK = 100
"""Events read at a time, so that no more than a few too many are in memory where they are big."""

log = structlog.get_logger(__name__)


class Roster(Directory, Protocol):
    """Who there is to report to, and what is known of each."""

    async def tenants(self) -> Sequence[Tenant]:
        """All tenants."""
        ...


class Reporter:
    """Reports every event until its tenant acknowledges it, each tenant on its own (G9, G11).

    `notify` and `wake` may be called at any time from the event loop's thread; `run` does the work.
    """

    def __init__(
        self,
        outbox: Outbox,
        directory: Roster,
        sink: ReportSink,
        clock: Clock,
        meter: Meter,
        settings: ReportingSettings,
        rng: Random,
        turns: Turns,
    ) -> None:
        self._outbox = outbox
        self._directory = directory
        self._sink = sink
        self._clock = clock
        self._meter = meter
        self._settings = settings
        self._rng = rng
        self._turns = turns
        self._lanes: dict[str, Lane] = {}
        self._timetable = Timetable()
        self._alarm: anyio.Event | None = None
        self._alarm_at = math.inf
        self._poll_at = -math.inf if settings.automatic else math.inf
        self._poll_failures = 0
        self._roster_version: int | None = None
        self._on_their_way: set[anyio.CancelScope] = set()
        self._stop_at = math.inf

    def notify(self, tenant_ids: Iterable[str]) -> None:
        """Tell that events were written, one mention for each event."""
        now = self._clock.monotonic()
        for tenant_id, events in Counter(tenant_ids).items():
            lane = self._lane(tenant_id)
            lane.expect(now, events)
            self._schedule(lane)

    def wake(self, tenant_id: str | None) -> None:
        """Run now: end what a tenant was waiting for and sync at once, even if there is nothing to report.

        None ends all tenants' waits for events, and leaves do-not-disturb and empty syncs as they are.
        """
        if tenant_id is not None:
            lane = self._lane(tenant_id)
            lane.wake()
            self._schedule(lane, asked=True)
            return
        for lane in self._lanes.values():
            lane.hurry()
            self._schedule(lane)
        self._poll_at = -math.inf
        self._ring(self._poll_at)

    def status(self, tenant_id: str) -> SyncStatus:
        """Tell how reporting to one tenant goes."""
        lane = self._lanes.get(tenant_id)
        return SyncStatus() if lane is None else lane.status(self._clock.monotonic(), self._clock.now())

    async def run(self, started: Callable[[], None]) -> None:
        """Report until cancelled; calls `started` once it does. Raises only what is neither store nor endpoint.

        When cancelled, reports on their way get `shutdown_grace` to end; what is not acknowledged then goes out again.
        """
        healthy, failing = anyio.Semaphore(self._settings.parallel), anyio.Semaphore(self._settings.parallel)
        self._stop_at = math.inf
        async with anyio.create_task_group() as tasks:
            started()
            try:
                while True:
                    if self._poll_at <= self._clock.monotonic():
                        await self._poll()
                    for tenant_id in self._timetable.take(self._clock.monotonic()):
                        self._begin(self._lanes[tenant_id], healthy, failing, tasks)
                    await self._sleep_until(min(self._timetable.next_due(), self._poll_at))
            finally:
                self._stop_at = anyio.current_time() + self._settings.shutdown_grace
                for scope in self._on_their_way:
                    scope.deadline = self._stop_at

    async def run_once(self, tenant_id: str) -> Answer | None:
        """Sync one tenant now, whatever its schedule says; None if nothing was sent or one is on its way."""
        lane = self._lane(tenant_id)
        if lane.busy:
            return None
        lane.wake()
        lane.busy = True
        try:
            async with self._turns.taken(lane) as turn:
                return None if turn is None else await self._sync(lane, turn)
        finally:
            lane.busy = False
            self._schedule(lane)

    # The loop ----------------------------------------------------------------------------------------------------

    def _begin(self, lane: Lane, healthy: anyio.Semaphore, failing: anyio.Semaphore, tasks: TaskGroup) -> None:
        due = lane.due()
        if lane.busy or due is None:
            return
        if due > self._clock.monotonic():
            self._schedule(lane)
            return
        lane.busy = True
        tasks.start_soon(self._work, lane, failing if lane.failing else healthy, name=f"report to {lane.tenant_id}")

    async def _work(self, lane: Lane, places: anyio.Semaphore) -> None:
        """Sync one tenant until nothing more is due now."""
        try:
            if await self._leads_nowhere(lane):
                return
            async with places, self._turns.taken(lane) as turn:
                while turn is not None and (due := lane.due()) is not None and due <= self._clock.monotonic():
                    await anyio.lowlevel.checkpoint()
                    await self._sync(lane, turn)
        finally:
            lane.busy = False
            self._schedule(lane)

    async def _leads_nowhere(self, lane: Lane) -> bool:
        """True for a tenant without an endpoint, for which no turn has to be taken."""
        try:
            tenant = await self._directory.tenant(lane.tenant_id)
        except StoreUnavailable:  # as the sync will find, too
            return False
        nowhere = tenant is None or not self._sink.has_endpoint(tenant)
        if nowhere:
            lane.without_endpoint()
        return nowhere

    async def _poll(self) -> None:
        """Look for what nobody told of: events of other instances, new tenants, endpoints that changed."""
        asked = self._poll_at == -math.inf
        self._poll_at = math.inf
        try:
            version = await self._directory.refresh()
            if version != self._roster_version:
                await self._read_roster()
                self._roster_version = version
            for lane in [lane for lane in self._lanes.values() if lane.failing]:
                await self._look_for_move(lane)
            waiting = await self._outbox.tenants_with_events()
        except StoreUnavailable as error:
            self._poll_failures += 1
            pause = pause_after(self._poll_failures, self._rng, longest=LONGEST_FOR_STORE)
            log.warning("outbox_unavailable", error=str(error), retry_in=round(pause, 1))
            self._poll_again_in(pause)
            return
        self._poll_failures = 0
        self._poll_again_in(self._settings.poll_interval if self._settings.automatic else math.inf)
        now = self._clock.monotonic()
        for tenant_id in waiting:
            lane = self._lane(tenant_id)
            lane.expect(now, at_once=True)
            self._schedule(lane, asked=asked)

    def _poll_again_in(self, seconds: float) -> None:
        self._poll_at = min(self._poll_at, self._clock.monotonic() + seconds)  # not later than `wake` has set

    async def _read_roster(self) -> None:
        """Take note of who is there; newcomers join the round of empty syncs at a random place."""
        tenants = await self._directory.tenants()
        now = self._clock.monotonic()
        for tenant in tenants:
            lane = self._lane(tenant.id)
            if not (tenant.active and self._sink.has_endpoint(tenant)):
                lane.leave_round()
            elif not lane.in_round:
                lane.join_round(now + self._rng.uniform(0, self._settings.sync_interval))
            self._schedule(lane)
        for tenant_id in self._lanes.keys() - {tenant.id for tenant in tenants}:
            if not self._lanes[tenant_id].busy:
                self._timetable.put(tenant_id, None)
                del self._lanes[tenant_id]

    async def _look_for_move(self, lane: Lane) -> None:
        tenant = await self._directory.tenant(lane.tenant_id)
        if tenant is not None:
            lane.moved(tenant)
            self._schedule(lane)

    def _lane(self, tenant_id: str) -> Lane:
        lane = self._lanes.get(tenant_id)
        if lane is None:
            lane = self._lanes[tenant_id] = Lane(tenant_id, self._settings)
        return lane

    def _schedule(self, lane: Lane, *, asked: bool = False) -> None:
        """Put a lane where it belongs in the timetable; a busy one is put there when it is done."""
        if lane.busy or not (asked or self._settings.automatic):
            return
        due = lane.due()
        self._timetable.put(lane.tenant_id, due)
        if due is not None:
            self._ring(due)

    def _ring(self, due: float) -> None:
        """Wake the loop if it sleeps past that time."""
        if self._alarm is not None and due < self._alarm_at:
            self._alarm.set()

    async def _sleep_until(self, due: float) -> None:
        """Sleep until that time, or until something is due earlier."""
        delay = min(due - self._clock.monotonic(), _LONGEST_SLEEP)
        if delay <= 0:
            await anyio.lowlevel.checkpoint()
            return
        alarm = self._alarm = anyio.Event()
        self._alarm_at = due

        async def sleep() -> None:
            await self._clock.sleep(delay)
            alarm.set()

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(sleep, name="reporter's alarm")
                await alarm.wait()
                tasks.cancel_scope.cancel()
        finally:
            self._alarm = None

    # One sync ----------------------------------------------------------------------------------------------------

    async def _sync(self, lane: Lane, turn: Turn) -> Answer | None:
        """Send one report, if there is anything to report or it is time for an empty one; None if nothing was sent."""
        also_empty = lane.begin(self._clock.monotonic())
        try:
            tenant = await self._directory.tenant(lane.tenant_id)
            if tenant is None or not self._sink.has_endpoint(tenant):
                lane.without_endpoint()
                return None
            lane.aim(tenant)
            page = await self._next_page(lane)
        except StoreUnavailable as error:
            lane.store_away(self._clock.monotonic(), self._rng, also_empty=also_empty)
            log.warning("outbox_unavailable", tenant_id=lane.tenant_id, error=str(error))
            return None
        lane.store_answered()
        if not page.events and not also_empty:
            return None
        if not self._turns.holds(turn):  # the page may be another instance's by now
            lane.elsewhere(self._clock.monotonic())
            return None
        with self._finishing():  # left without an answer when the grace time is over
            return await self._report(lane, turn, tenant, page, also_empty=also_empty)

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
        now = self._clock.monotonic()
        ready: list[StoredEvent] = []
        seen: set[int] = set()
        size = after = 0
        complete = False
        while not complete and len(ready) < lane.page_events and size < lane.page_bytes:
            rows = await self._outbox.pending(lane.tenant_id, _CHUNK, after)
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

    async def _report(self, lane: Lane, turn: Turn, tenant: Tenant, page: Page, *, also_empty: bool) -> Answer:
        sent = await self._sink.deliver(tenant, page.payload, page.report_id)
        answer = understand(sent)
        events = len(page.events)
        match answer:
            case Acknowledged():
                await self._acknowledge(lane, turn, page, answer)
            case Refused(reason, retry_after):
                now = self._clock.monotonic()
                lane.refused(reason, retry_after, events, now, self._rng, also_empty=also_empty)
                self._complain(lane, reason, events)
            case Paused(reason):
                lane.gone(reason, self._clock.monotonic())
                self._complain(lane, reason, events)
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
                if not await self._outbox.acknowledge(ids, self._clock.now(), turn.lease):
                    log.warning("turn_lost", tenant_id=lane.tenant_id, events=len(taken))
                    lane.elsewhere(self._clock.monotonic())
                    return
                break
            except StoreUnavailable as error:
                failures += 1
                log.warning("acknowledgement_not_stored", tenant_id=lane.tenant_id, error=str(error))
                await self._clock.sleep(pause_after(failures, self._rng, longest=LONGEST_FOR_STORE))
        lane.acknowledged(answer, taken, refused, self._clock.monotonic(), self._clock.now(), self._rng)
        self._meter.reported(len(taken), ok=True)
        if refused:
            self._meter.reported(len(page.events) - len(taken), ok=False)
        if answer.ignored:
            log.warning("answer_fields_ignored", tenant_id=lane.tenant_id, fields=answer.ignored)
        if page.events:
            log.info("reported", tenant_id=lane.tenant_id, events=len(taken), refused=len(page.events) - len(taken))

    def _complain(self, lane: Lane, reason: str, events: int) -> None:
        self._meter.reported(events, ok=False)
        status = self.status(lane.tenant_id)
        log.warning(
            "report_failed",
            tenant_id=lane.tenant_id,
            reason=reason,
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
