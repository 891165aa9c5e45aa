"""What has to be done now and then: due times, expiry, retention, and the messages of dead instances."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from uuid import uuid4

import anyio
import structlog

from mail_proxy.delivery.dispatcher import Dispatcher
from mail_proxy.delivery.fallback import Fallbacks
from mail_proxy.delivery.journal import FlightJournal, Flights
from mail_proxy.delivery.lease import Lease, LeaseWatch
from mail_proxy.delivery.needs import Needs
from mail_proxy.delivery.recorder import Recorder
from mail_proxy.delivery.sender import on_uncertain
from mail_proxy.delivery.settings import DeliverySettings
from mail_proxy.domain.account import OnUncertain
from mail_proxy.domain.attempt import Attempt
from mail_proxy.domain.backlog import MANY, Survey
from mail_proxy.domain.claim import Claimed
from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.domain.poison import after_crash, hold_unjudged, plainly_expired
from mail_proxy.domain.settlement import Policy, Settlement, expire, give_back, recover, settle

CHUNK = 500
REMOVED = 100
"""Messages that are removed in one transaction: some milliseconds, for which those who submit wait."""  # G11
PRUNE_INTERVAL = 60.0
BODIES_INTERVAL = 10.0
SAMPLE_INTERVAL = 5.0
DIVERT_INTERVAL = 1.0
LONGEST_PAUSE = 5.0

log = structlog.get_logger(__name__)


class Maintenance:
    """Runs the chores of delivery, each in a loop of its own."""

    def __init__(
        self,
        needs: Needs,
        recorder: Recorder,
        journal: FlightJournal,
        lease: Lease,
        dispatcher: Dispatcher,
        settings: DeliverySettings,
        rng: Random,
        *,
        alone: bool,
    ) -> None:
        """`alone`: this process owns the database, so whatever was claimed before it started is an orphan."""
        self._needs = needs
        self._recorder = recorder
        self._journal = journal
        self._lease = lease
        self._dispatcher = dispatcher
        self._settings = settings
        self._rng = rng
        self._alone = alone
        self._watch = LeaseWatch(settings.lease)
        self._fallbacks = Fallbacks(needs, dispatcher)
        self._next_due: float | None = None
        self._woken = asyncio.Event()
        self.surveyed: Survey | None = None
        """What was last counted; None before the first time."""

    async def at_start(self) -> int:
        """Take back what earlier runs left in their hands; return how many messages.

        The journal's lock shows that its writer has ended, so that one's messages go on at once, as it tells.
        """  # G4, G6
        flights = self._journal.read()
        count = 0
        if flights.instance_id is not None:
            count += await self._rescue([flights.instance_id], flights)
        if self._alone:
            dead = [instance for instance in await self._needs.queue.instances() if instance != self._needs.instance_id]
            count += await self._rescue(dead, Flights())
        self._journal.begin()
        self._needs.meter.pending(await self._needs.queue.count_pending(), None)
        return count

    async def run(self) -> None:
        """Run until cancelled."""
        chores: list[tuple[str, float, Callable[[], Awaitable[object]]]] = [
            ("beat", self._settings.lease / 12, self.beat),
            ("prune", PRUNE_INTERVAL, self.prune),
            ("remove bodies", BODIES_INTERVAL, self.remove_bodies),
            ("end what waited too long", PRUNE_INTERVAL, self.end_waited_out),
            ("sample", SAMPLE_INTERVAL, self.sample),
            ("count outages", SAMPLE_INTERVAL, self.count_outages),
            ("divert", DIVERT_INTERVAL, self._fallbacks.divert),
        ]
        if not self._alone:
            chores.append(("watch", self._settings.lease / 12, self.watch))
        async with anyio.create_task_group() as group:
            for name, interval, chore in chores:
                group.start_soon(self._every, interval, chore, name=f"maintenance {name}")
            group.start_soon(self._keep_time, name="maintenance due")

    async def _every(self, interval: float, chore: Callable[[], Awaitable[object]]) -> None:
        while True:
            await self._needs.clock.sleep(interval)
            try:
                await chore()
            except StoreUnavailable:
                self._watch.forget()

    def wake(self) -> None:
        """Look at once for what is due or freed, however soon the next look is."""
        self._woken.set()

    async def _keep_time(self) -> None:
        on_demand = self._settings.only_on_demand
        while True:
            if on_demand:
                await self._woken.wait()
            self._woken.clear()
            try:
                await self.look_at_times()
            except StoreUnavailable:
                self._next_due = None
            if on_demand:
                self._dispatcher.run_now()  # it listens to nothing else
                continue
            pause = self._settings.poll_interval
            if self._next_due is not None:
                pause = min(pause, max(self._next_due - self._needs.clock.now(), 0.0))
            await self._pause(pause)

    async def _pause(self, seconds: float) -> None:
        async def sleep() -> None:
            await self._needs.clock.sleep(seconds)
            self._woken.set()

        async with anyio.create_task_group() as group:
            group.start_soon(sleep, name="maintenance pause")
            await self._woken.wait()
            group.cancel_scope.cancel()

    async def look_at_times(self) -> None:
        """Make ready what is due or freed, and end what has expired.

        Chunk by chunk of each in turn, so that a million of one kind do not keep the others waiting.
        """  # G11
        more = True
        while more:
            promotion = await self._needs.queue.promote(self._needs.clock.now(), CHUNK)
            self._next_due = promotion.next_due
            freed = await self._needs.queue.unhold(CHUNK)
            self._dispatcher.notify(promotion.account_pks | freed.account_pks)
            late = await self._needs.queue.claim_expired(self._needs.clock.now(), CHUNK, uuid4().hex)
            await self._end(late)
            more = promotion.more or freed.more or bool(late)

    async def end_waited_out(self) -> None:
        """End what has waited too long on accounts that are on hold."""
        before = self._needs.clock.now() - self._settings.schedule.max_age
        while late := await self._needs.queue.claim_waited_out(before, CHUNK, uuid4().hex):
            await self._end(late)

    async def _end(self, late: Sequence[Claimed]) -> None:
        for claimed in late:
            now = self._needs.clock.now()
            try:
                settlement = expire(claimed, now)
            except Exception:  # G13
                log.exception("decision failed", tenant_id=claimed.tenant_id, id=claimed.identity.mail_id)
                settlement = plainly_expired(claimed, now)
            self._recorder.submit(claimed, settlement)
        if late:
            await self._recorder.drained()

    async def beat(self) -> None:
        """Raise this instance's counter."""
        asked_at = self._needs.clock.monotonic()
        known = await self._needs.queue.beat(self._needs.clock.now())
        self._lease.renewed(asked_at, forgotten=not known)

    async def watch(self) -> None:
        """Take over what instances left that are dead."""
        counters = dict(await self._needs.queue.instances())
        counters.pop(self._needs.instance_id, None)
        dead = self._watch.look(counters, self._needs.clock.monotonic())
        if dead:
            await self._rescue(dead, Flights())
            self._watch.forget()

    async def _rescue(self, dead: Sequence[str], flights: Flights) -> int:
        count = 0
        while dead and (orphans := await self._needs.queue.rescue(dead, CHUNK)):
            for claimed in orphans:
                self._recorder.submit(claimed, await self._judged(claimed, flights))
            await self._recorder.drained()
            self._dispatcher.notify({claimed.account_pk for claimed in orphans})
            count += len(orphans)
        if count:
            log.warning("messages of an instance that ended were taken back", messages=count, instances=len(dead))
        return count

    async def _judged(self, claimed: Claimed, flights: Flights) -> Settlement:
        """Decide on a message, and count the crash where it was being sent. A decision that fails holds it."""  # G13
        schedule, now = self._settings.schedule, self._needs.clock.now()
        try:
            settlement = await self._recovered(claimed, flights)
            return after_crash(claimed, settlement, schedule, now) if flights.was_begun(claimed) else settlement
        except StoreUnavailable:
            raise
        except Exception as error:
            log.exception("recovery failed", tenant_id=claimed.tenant_id, id=claimed.identity.mail_id)
            return hold_unjudged(claimed, error, schedule, now)

    async def _recovered(self, claimed: Claimed, flights: Flights) -> Settlement:
        """Decide by what the journal says: reply, dot without reply, no dot; or nothing that can be relied on."""  # G4
        now = self._needs.clock.now()
        account = await self._needs.directory.account(claimed.account_pk)
        choice = OnUncertain.RESEND if account is None else await on_uncertain(self._needs.directory, account)
        answers = flights.reply_to(claimed) if flights.reliable else None
        if answers is not None:
            policy = Policy(self._settings.schedule, choice)
            return settle(claimed, Attempt(answers=answers), policy, now, self._rng)
        if flights.reliable and not flights.dot_went_out(claimed):
            return give_back(claimed, now)
        return recover(claimed, choice, now)

    async def prune(self) -> None:
        """Remove what is finished, reported and old, in chunks."""
        before = self._needs.clock.now() - self._settings.retention

        silent: Sequence[str] = ()
        known: int | None = None

        async def chunk() -> int:
            nonlocal silent, known
            version = await self._needs.directory.refresh()
            if version != known:  # with its pauses this goes on for long, and a tenant may get an endpoint meanwhile
                tenants = await self._needs.registry.tenants()
                silent = [t.id for t in tenants if not self._needs.sink.has_endpoint(t)]
                known = version
            return await self._needs.queue.prune(before, REMOVED, silent)  # G9

        await self._in_chunks(REMOVED, chunk)

    async def remove_bodies(self) -> None:
        """Remove what finished messages said, where that is not to be kept as long as they are."""
        if self._settings.body_retention is None:
            return
        now = self._needs.clock.now()
        before = now - self._settings.body_retention
        await self._in_chunks(1, lambda: self._needs.queue.remove_bodies(before, now, REMOVED))

    async def _in_chunks(self, least: int, chunk: Callable[[], Awaitable[int]]) -> None:
        """Do chunk after chunk until one comes to less than that, with a pause as long as each took."""  # G11
        while True:
            began = self._needs.clock.monotonic()
            if await chunk() < least:
                return
            await self._needs.clock.sleep(self._needs.clock.monotonic() - began)

    async def count_outages(self) -> None:
        """Count accounts on hold, servers that are left alone, and what this instance has in its hands, for metrics."""
        on_hold = await self._needs.registry.accounts_on_hold()
        left_alone = [lane for lane in self._dispatcher.lanes if lane.breaker.open and lane.account.hold is None]
        meter = self._needs.meter
        meter.outages(len(on_hold), len(left_alone))
        meter.in_hand(self._dispatcher.messages_in_hand, self._needs.transport.session_count(), self._journal.size)

    async def sample(self) -> None:
        """Count what is not finished, for metrics and status; the bigger the queue, the rarer."""
        began = self._needs.clock.monotonic()
        await self.survey()
        await self._needs.clock.sleep(min((self._needs.clock.monotonic() - began) * 50, 60.0))

    async def survey(self) -> None:
        """Count what is not finished, once."""
        self.surveyed = await self._needs.queue.survey(MANY)
        oldest = self.surveyed.oldest_ready_ts
        age = None if oldest is None else max(0.0, self._needs.clock.now() - oldest)
        self._needs.meter.pending(self.surveyed.pending, age)
