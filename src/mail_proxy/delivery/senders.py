"""Who sends what was taken up: senders with a slot each, tenants in turn, one message after the other."""

from __future__ import annotations

import anyio
import structlog

from mail_proxy.delivery.journal import JournalUnwritable
from mail_proxy.delivery.lane import Job, Lane
from mail_proxy.delivery.lease import Lease, LeaseLost
from mail_proxy.delivery.needs import Needs
from mail_proxy.delivery.outages import Outages, Start
from mail_proxy.delivery.sender import Sender
from mail_proxy.delivery.settings import DeliverySettings
from mail_proxy.delivery.shares import Slots
from mail_proxy.delivery.taken_up import TakenUp
from mail_proxy.delivery.wanted import Wanted
from mail_proxy.domain.errors import StoreUnavailable

log = structlog.get_logger(__name__)


class Senders:
    """Uses every free slot as long as a lane has something to send. `start` runs a sender beside the caller."""

    def __init__(
        self,
        needs: Needs,
        sender: Sender,
        lease: Lease,
        settings: DeliverySettings,
        wanted: Wanted,
        taken_up: TakenUp,
        outages: Outages,
        start: Start,
    ) -> None:
        self._needs = needs
        self._sender = sender
        self._lease = lease
        self._term = lease.term
        self._wanted = wanted
        self._taken_up = taken_up
        self._outages = outages
        self._start_beside = start
        self._slots = Slots(settings.max_concurrent_sends)
        self._running: dict[int, anyio.CancelScope] = {}

    @property
    def running(self) -> int:
        """How many there are."""
        return len(self._running)

    def start(self) -> None:
        """Give a slot to a lane of each tenant in turn, until the work or the slots are used up."""
        given = True
        while given and not self._taken_up.stopping and self._slots.any_free:
            given = False
            for tenant_id in self._taken_up.waiting_for_slot.tenants():
                given = self._start_one_of(tenant_id) or given

    def _start_one_of(self, tenant_id: str) -> bool:
        """Give a slot to the next lane of a tenant; False if there is none, or its share is used up."""
        waiting = self._taken_up.waiting_for_slot
        account_pk = waiting.first_of(tenant_id)
        if account_pk is None:
            return False
        lane = self._taken_up.lanes.get(account_pk)
        if lane is None or lane.wanted_senders <= 0:
            waiting.discard(account_pk)
            return True
        if not self._slots.take(tenant_id):
            return False
        lane.senders += 1
        self._start_beside(self._serve, lane, "sender")
        if lane.wanted_senders > 0:
            waiting.had_its_turn(account_pk)
        else:
            waiting.discard(account_pk)
        return True

    async def end(self, grace: float) -> None:
        """Let senders finish what they have begun, and end those that do not within the grace time."""  # G6
        with anyio.move_on_after(grace):
            await self._ended()
        for scope in list(self._running.values()):
            scope.cancel()
        await self._ended()

    async def _ended(self) -> None:
        while self._running:
            self._wanted.wake.clear()
            await self._wanted.wake.wait()

    async def _serve(self, lane: Lane) -> None:
        """Send a lane's messages one after the other, until there are none or somebody else waits for the slot."""
        scope = anyio.CancelScope()
        self._running[id(scope)] = scope
        try:
            with scope:
                await self._serve_until_done(lane)
        finally:
            del self._running[id(scope)]
            lane.senders -= 1
            self._slots.give_back(lane.account.tenant_id)
            if len(lane):
                self._taken_up.wait_for_slot(lane)
            else:
                self._taken_up.forget_if_idle(lane.account.pk)
            self.start()
            if not self._running:
                self._wanted.wake.set()

    async def _serve_until_done(self, lane: Lane) -> None:
        while not self._taken_up.stopping and lane.open_for_business:
            if self._term != self._lease.term:  # G5: what was claimed before may be somebody else's by now
                self._term = self._lease.term
                await self._taken_up.give_all_back()
            job = self._taken_up.begin(lane)
            if job is None:
                break
            try:
                go_on = await self._send(lane, job)
            finally:  # what was put back counts anew
                job.drop_files()
                self._taken_up.count_out(job.claimed)
            if not go_on or self._others_wait(lane):
                break
        if len(lane) and not lane.open_for_business:  # put back after the others had been given back
            await self._taken_up.give_back(lane)
        if not len(lane) and self._wanted.any:
            self._wanted.wake.set()

    async def _send(self, lane: Lane, job: Job) -> bool:
        """Send one message; False when nothing can be sent for now."""
        tried = lane.account
        try:
            sent = await self._sender.send(tried, job.claimed, job.term, job.files)
        except LeaseLost:
            await self._taken_up.release([job.claimed])
            return True
        except (StoreUnavailable, JournalUnwritable) as error:
            log.warning("nothing can be sent for now", reason=str(error))
            self._taken_up.put_back(lane, job)
            await self._needs.clock.sleep(1.0)
            return False
        if sent.untouched:
            self._taken_up.put_back(lane, job)
        if sent.failure is not None and await self._outages.met(lane, tried, sent.failure):
            await self._taken_up.give_back(lane)
        return True

    def _others_wait(self, lane: Lane) -> bool:
        waiting = self._taken_up.waiting_for_slot
        return len(waiting) > (lane.account.pk in waiting)
