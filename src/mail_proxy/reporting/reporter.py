"""Reports go out: one loop that knows who is due when, and one task for each tenant that is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Protocol

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.domain.sync_lease import Behind, SyncMemory, SyncStanding, Waiting
from mail_proxy.domain.tenant import Tenant
from mail_proxy.ports.clock import Clock
from mail_proxy.ports.directory import Directory
from mail_proxy.ports.observers import Observers
from mail_proxy.ports.outbox import Outbox
from mail_proxy.ports.report_sink import ReportSink
from mail_proxy.reporting.answer import Answer
from mail_proxy.reporting.backoff import LONGEST_FOR_STORE, pause_after
from mail_proxy.reporting.lane import NOW, Lane, SyncStatus
from mail_proxy.reporting.places import Place, Places
from mail_proxy.reporting.settings import ReportingSettings
from mail_proxy.reporting.sync import Syncs
from mail_proxy.reporting.timetable import Timetable
from mail_proxy.reporting.turns import Turns

_LONGEST_SLEEP = 3600.0
_IN_ITS_WAKE = 60.0
"""Seconds after `wake` in which events are told of that come about through it, where nothing else makes them be."""


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
        observers: Observers,
        settings: ReportingSettings,
        rng: Random,
        turns: Turns,
    ) -> None:
        self._outbox = outbox
        self._directory = directory
        self._sink = sink
        self._clock = clock
        self._meter = observers.meter
        self._settings = settings
        self._rng = rng
        self._turns = turns
        self._syncs = Syncs(outbox, directory, sink, clock, observers, rng, turns)
        self._marks: dict[str, str] = {}  # of the endpoints that there are
        self._lanes: dict[str, Lane] = {}
        self._timetable = Timetable()
        self._alarm: anyio.Event | None = None
        self._alarm_at = math.inf
        self._poll_at = -math.inf if settings.automatic else math.inf
        self._poll_failures = 0
        self._roster_version: int | None = None
        self._asked_at = NOW

    def notify(self, tenant_ids: Iterable[str]) -> None:
        """Tell that events were written, one mention for each event."""
        now = self._clock.monotonic()
        for tenant_id, events in Counter(tenant_ids).items():
            lane = self._lane(tenant_id)
            lane.expect(now, events)
            self._schedule(lane, asked=self._in_a_wake(lane, now))

    def wake(self, tenant_id: str | None) -> None:
        """Run now: end what a tenant was waiting for and sync at once, even if there is nothing to report.

        None ends all tenants' waits for events, and leaves do-not-disturb and empty syncs as they are.
        """
        if tenant_id is not None:
            lane = self._lane(tenant_id)
            lane.wake()
            lane.asked_at = self._clock.monotonic()
            self._schedule(lane, asked=True)
            return
        for lane in self._lanes.values():
            lane.hurry()
            self._schedule(lane)
        self.look()

    def look(self) -> None:
        """Look through the outbox at once. Pauses last: who asked for more has ended them where it was asked."""
        self._asked_at = self._clock.monotonic()
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
        self._syncs.begin()
        async with anyio.create_task_group() as tasks:
            places = Places(self._settings, self._clock, tasks)
            started()
            try:
                while True:
                    if self._poll_at <= self._clock.monotonic():
                        await self._poll()
                    for tenant_id in self._timetable.take(self._clock.monotonic()):
                        self._begin(self._lanes[tenant_id], places, tasks)
                    await self._sleep_until(min(self._timetable.next_due(), self._poll_at))
            finally:
                self._syncs.end(self._settings.shutdown_grace)

    async def run_once(self, tenant_id: str) -> Answer | None:
        """Sync one tenant now, whatever its schedule says; None if nothing was sent or one is on its way."""
        lane = self._lane(tenant_id)
        if lane.busy:
            return None
        lane.wake()
        lane.busy = True
        try:
            async with self._turns.taken(lane) as turn:
                return None if turn is None else await self._syncs.sync(lane, turn)
        finally:
            self._done(lane)

    # The loop ----------------------------------------------------------------------------------------------------

    def _begin(self, lane: Lane, places: Places, tasks: TaskGroup) -> None:
        due = lane.due()
        if lane.busy or due is None:
            return
        if due > self._clock.monotonic():
            self._schedule(lane)
            return
        lane.busy = True
        tasks.start_soon(self._work, lane, places, name=f"report to {lane.tenant_id}")

    async def _work(self, lane: Lane, places: Places) -> None:
        """Sync one tenant until nothing more is due now, or its endpoint turns out to be of another kind."""
        try:
            if await self._syncs.leads_nowhere(lane):
                return
            async with places.taken(lane.kind, lane.page_bytes) as place, self._turns.taken(lane) as turn:
                while turn is not None and self._goes_on(lane, place):
                    await anyio.lowlevel.checkpoint()
                    await self._syncs.sync(lane, turn, place, places)
                    if self._goes_on(lane, place):
                        await places.again(place, lane.page_bytes)
        finally:
            self._done(lane)

    def _done(self, lane: Lane) -> None:
        """Put a lane back into the timetable, where what came about while it was busy could not put it."""
        lane.busy = False
        new = lane.expecting and not lane.failing  # what has failed waits to be asked for again
        self._schedule(lane, asked=new and self._in_a_wake(lane, self._clock.monotonic()))

    def _goes_on(self, lane: Lane, place: Place) -> bool:
        """True if a sync is due now, and belongs where it is: what was handed on with the turn may say otherwise."""
        now = self._clock.monotonic()
        due = lane.due()
        return due is not None and due <= now and lane.kind is place.kind and not lane.rests(now)

    async def _poll(self) -> None:
        """Look for what nobody told of: events of other instances, new tenants, endpoints that changed."""
        asked = self._poll_at == -math.inf
        self._poll_at = math.inf
        try:
            version = await self._directory.refresh()
            if version != self._roster_version:
                await self._read_roster()
                self._roster_version = version
            self._look_for_moves()
            waiting = await self._outbox.tenants_with_events()
            self._measure(waiting)
        except StoreUnavailable as error:
            self._poll_failures += 1
            pause = pause_after(self._poll_failures, self._rng, longest=LONGEST_FOR_STORE)
            self._syncs.store_failed("outbox_unavailable", error, retry_in=round(pause, 1))
            self._poll_again_in(pause)
            return
        self._poll_failures = 0
        self._poll_again_in(self._settings.poll_interval if self._settings.automatic else math.inf)
        now = self._clock.monotonic()
        for each in waiting:
            lane = self._lane(each.tenant_id)
            lane.expect(now, at_once=True)
            self._schedule(lane, asked=asked)

    def _poll_again_in(self, seconds: float) -> None:
        self._poll_at = min(self._poll_at, self._clock.monotonic() + seconds)  # not later than `wake` has set

    async def _read_roster(self) -> None:
        """Take note of who is there; newcomers join the round of empty syncs at a random place."""
        tenants = await self._directory.tenants()
        self._marks = {each.id: self._syncs.mark(each) for each in tenants if self._sink.has_endpoint(each)}
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

    def _look_for_moves(self) -> None:
        """Go on at once where an endpoint that fails was replaced by another one."""
        for lane in self._lanes.values():
            mark = self._marks.get(lane.tenant_id)
            if lane.failing and mark is not None and lane.moved(mark):
                self._schedule(lane)

    def _measure(self, waiting: Sequence[Waiting]) -> None:
        """Say how far reports are behind. The database is asked, as another instance may report to a tenant."""
        now = self._clock.now()
        behind = dict.fromkeys(SyncStanding, Behind())
        for each in waiting:
            standing = standing_of(each.memory, self._marks.get(each.tenant_id))
            so_far = behind[standing]
            behind[standing] = Behind(so_far.tenants + 1, max(so_far.lag, now - each.oldest))
        self._meter.behind(behind)

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

    def _in_a_wake(self, lane: Lane, now: float) -> bool:
        """True while what comes about counts as asked for."""
        return now < max(self._asked_at, lane.asked_at) + _IN_ITS_WAKE

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


def standing_of(memory: SyncMemory | None, mark: str | None) -> SyncStanding:
    """Say how reporting goes to a tenant. `mark` is of its endpoint, None where it has none; nothing else counts."""
    if mark is None:
        return SyncStanding.WITHOUT_ENDPOINT
    if memory is None or not memory.failures or memory.place not in (None, mark):
        return SyncStanding.REPORTING
    return SyncStanding.PAUSED if memory.gone else SyncStanding.FAILING
