"""Claiming what can be sent and giving it to senders, account by account in turn.

    notify / poll ──▶ wanted accounts ──▶ one claim for many of them ──▶ lanes ──▶ senders, one slot each

Everything here runs on one event loop; nothing is shared with other threads.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any
from uuid import uuid4

import anyio
import structlog
from anyio.abc import TaskGroup
from typing_extensions import assert_never

from mail_proxy.delivery.fetching import FetchEnd, Fetching
from mail_proxy.delivery.in_hand import InHand
from mail_proxy.delivery.in_turn import InTurn
from mail_proxy.delivery.journal import JournalUnwritable
from mail_proxy.delivery.lane import Job, Lane
from mail_proxy.delivery.lease import Lease, LeaseLost
from mail_proxy.delivery.needs import Needs
from mail_proxy.delivery.outages import Outages
from mail_proxy.delivery.recorder import Recorder
from mail_proxy.delivery.sender import Sender, limited, on_uncertain
from mail_proxy.delivery.settings import DeliverySettings
from mail_proxy.delivery.shares import Slots
from mail_proxy.delivery.shut_lanes import ShutLanes
from mail_proxy.domain.account import OnUncertain, Outage
from mail_proxy.domain.claim import HELPING, Claimed, Demand, Taking
from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.domain.settlement import reject

ACCOUNTS_PER_CLAIM = 100
LOOKED_AT = 4 * ACCOUNTS_PER_CLAIM
"""Accounts that are looked at for one claim; some may have no room for more."""
URGENT_PER_CLAIM = 10
MOST_CLAIMED = 2000
"""Messages in this instance's hands that no sender has begun."""  # G11

log = structlog.get_logger(__name__)


class Dispatcher:
    """Keeps every lane supplied and every free slot used, without work for messages that only wait."""

    def __init__(
        self, needs: Needs, sender: Sender, recorder: Recorder, lease: Lease, settings: DeliverySettings
    ) -> None:
        self._needs = needs
        self._sender = sender
        self._recorder = recorder
        self._lease = lease
        self._term = lease.term
        self._settings = settings
        self._outages = Outages(needs, self._start, self._want)
        self._lanes: dict[int, Lane] = {}
        self._news: dict[int, None] = {}  # accounts that may have ready messages, before it is known whose they are
        self._wanted = InTurn()
        self._urgent: set[int] = set()
        self._waiting_for_slot = InTurn()
        self._slots = Slots(settings.max_concurrent_sends)
        self._shut = ShutLanes(needs.clock)
        self._wake = asyncio.Event()
        self._poll_now = True
        self._poll_at = 0.0
        self._stopping = False
        self._group: TaskGroup | None = None
        self._running: dict[int, anyio.CancelScope] = {}
        self._claimed = 0
        self._in_hand = InHand(settings.max_sending)
        self._fetching = Fetching(sender, settings, needs.clock, self._start, self._fetched, self._want)

    # -- what others tell it -----------------------------------------------------------------------------------------

    def notify(self, account_pks: Iterable[int], *, urgent: bool = False) -> None:
        """Say that these accounts have ready messages; `urgent`: one of them has priority `immediate`."""
        if self._settings.only_on_demand:
            return
        for account_pk in account_pks:
            self._news[account_pk] = None
            if urgent:
                self._urgent.add(account_pk)
                self._in_hand.look_again(account_pk)
        if self._news:
            self._wake.set()

    def run_now(self) -> None:
        """Look at the whole queue at once, and anew at what rate limits let through."""
        self._shut.open_all(self._lanes.values())
        self.look()

    def look(self) -> None:
        """Look at the whole queue at once."""
        self._poll_now = True
        self._wake.set()

    @property
    def lanes(self) -> Iterable[Lane]:
        """The lanes that have something in hand, or a server that is left alone."""
        return self._lanes.values()

    def outage_of(self, account_pk: int) -> Outage | None:
        """Say why this instance leaves the account's server alone, or None."""
        lane = self._lanes.get(account_pk)
        return None if lane is None else self._outages.outage_of(lane)

    def server_answers(self, account_pk: int) -> None:
        """Take note that the account's server was seen to answer: an outage of it is over."""
        lane = self._lanes.get(account_pk)
        if lane is not None:
            self._outages.answered(lane)
        self.notify({account_pk})

    @property
    def busy(self) -> bool:
        """True while anything is in this instance's hands."""
        return bool(self._running) or self._claimed > 0

    @property
    def messages_in_hand(self) -> int:
        """How many messages this instance has taken up: those that senders have, and those that none has begun."""
        return self._claimed + len(self._running)

    @property
    def bytes_in_hand(self) -> int:
        """The size of all submissions in this instance's hands."""
        return self._in_hand.bytes

    # -- the loop ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Dispatch until `stop` is called, then finish what was begun within the grace time."""
        async with anyio.create_task_group() as group:
            self._group = group
            self._start_senders()
            while not self._stopping:
                await self._wait()
                if not self._stopping:
                    await self._turn()
            await self._drain()
            group.cancel_scope.cancel()

    def stop(self) -> None:
        """Take nothing new; `run` returns when what was begun has ended."""  # G6
        self._stopping = True
        self._wake.set()

    async def _wait(self) -> None:
        """Return when there is something to do; however much there is, the queue is looked at from time to time."""
        until_poll = self._poll_at - anyio.current_time()
        with anyio.move_on_after(None if self._settings.only_on_demand else max(self._shut.pause(until_poll), 0.0)):
            await self._wake.wait()
        self._wake.clear()
        if not self._settings.only_on_demand and anyio.current_time() >= self._poll_at:
            self._poll_now = True
        self._news.update(dict.fromkeys(self._shut.due(self._lanes)))

    async def _turn(self) -> None:
        try:
            if self._poll_now:
                self._poll_now = False
                self._poll_at = anyio.current_time() + self._settings.poll_interval
                await self._poll()
            while self._recorder.available and self._claimed < MOST_CLAIMED:
                await self._sort_news()
                if not self._wanted or not await self._claim_some():
                    break
        except StoreUnavailable as error:
            log.warning("the queue cannot be read", reason=error.sentence)
            await self._needs.clock.sleep(1.0)
            self.look()  # also where the next look would be long in coming
        self._start_senders()

    async def _poll(self) -> None:
        """Find what nobody told of: messages of other instances, of before the start, of accounts set free."""
        await self._needs.directory.refresh()
        self._news.update(dict.fromkeys(await self._needs.queue.ready_accounts()))

    async def _sort_news(self) -> None:
        """Learn whose the accounts are that were told of, so that tenants can take turns."""
        if self._news:
            news, self._news = self._news, {}
            try:
                owners = await self._needs.directory.owners_of(list(news))
            except StoreUnavailable:
                self._news = news | self._news
                raise
            for account_pk, tenant_id in owners.items():
                self._wanted.add(tenant_id, account_pk)
            for account_pk in news.keys() - owners.keys():  # gone
                self._unwant(account_pk)

    async def _claim_some(self) -> bool:
        """Claim for some of the wanted accounts; False when none of them has room."""
        term, wanted = self._lease.term, len(self._wanted)
        demands, taking = await self._claim()
        if not demands:
            return len(self._wanted) < wanted  # some cannot be used now; those behind them may
        claimed = taking.claimed
        self._meet_limits(taking)
        found: Counter[int] = Counter()
        too_many: list[Claimed] = []
        for message in claimed:
            lane, job = self._lanes[message.account_pk], Job.of(message, term)
            self._in_hand.take(message)
            found[message.account_pk] += 1
            if not job.to_fetch:
                lane.put(job)
            elif not self._fetching.crowded(message.tenant_id):
                self._fetching.put(lane, job)  # it comes to the lane when it can be sent
            else:
                too_many.append(message)
        self._claimed += len(claimed)
        full_helping = sum(len(message.fields) for message in claimed) >= HELPING
        for demand in demands:
            lane = self._lanes[demand.account_pk]
            if found[demand.account_pk]:
                self._waiting_for_slot.add(lane.account.tenant_id, demand.account_pk)
            in_time = lane.just_in_time and found[demand.account_pk]
            behind_parked = demand.account_pk in taking.parked and demand.account_pk not in taking.limited
            took_all = found[demand.account_pk] >= demand.limit
            lane.reach.took(anyio.current_time(), all_=took_all and not demand.urgent_only)
            heavy = demand.account_pk in taking.heavy
            if heavy:
                self._in_hand.left_heavy(demand.account_pk)
            if full_helping or in_time or behind_parked or took_all or heavy:  # there may be more
                self._wanted.add(lane.account.tenant_id, demand.account_pk)
                if demand.urgent_only:
                    self._urgent.add(demand.account_pk)
            self._forget_if_idle(demand.account_pk)
        self._start_senders()
        await self._turn_away(too_many)
        return True

    async def _turn_away(self, messages: Sequence[Claimed]) -> None:
        """Give messages back for which their tenant has no place: for them others' could not be claimed."""  # G11
        for message in messages:
            self._fetching.turn_away(message.tenant_id, message.account_pk)
        if messages:
            await self._release(messages)
        self._claimed -= len(messages)
        for message in messages:
            self._count_out(message)

    def _meet_limits(self, taking: Taking) -> None:
        """Leave accounts alone whose limit is used up; where it rejects, fail what it does not let through."""  # G10
        refused: Counter[int] = Counter()
        for message in taking.refused:
            limit = taking.limited.get(message.account_pk)
            words = "its account lets through" if limit is None else limit.reason
            self._recorder.submit(message, reject(message, self._needs.clock.now(), words))
            refused[message.account_pk] += 1
        for account_pk, limit in taking.limited.items():
            lane = self._lanes[account_pk]
            who = (lane.account.tenant_id, lane.account.id)
            self._needs.meter.rate_limited(*who)
            self._recorder.told_of_limit(*who, events=limit.told)
            if refused[account_pk]:
                self._wanted.add(lane.account.tenant_id, account_pk)  # there may be more to refuse
            else:
                self._shut.shut(lane, limit.seconds)

    async def _claim(self) -> tuple[Sequence[Demand], Taking]:
        demands: list[Demand] = []
        try:
            await self._gather(demands)
            if not demands:
                return (), Taking()
            return demands, await self._needs.queue.claim(demands, uuid4().hex, self._needs.clock.now())
        except StoreUnavailable:
            for demand in demands:
                self._want(demand.account_pk)
            raise
        finally:
            for demand in demands:
                self._lanes[demand.account_pk].claiming = False

    async def _gather(self, demands: list[Demand]) -> None:
        """Ask for wanted accounts with room in their lanes, tenants in turn, and take those off the list."""
        room = MOST_CLAIMED - self._claimed
        for account_pk in self._wanted.some(LOOKED_AT):
            if len(demands) >= ACCOUNTS_PER_CLAIM or room <= 0:
                break
            tenant_id = self._wanted.tenant_of(account_pk)
            if tenant_id is not None and self._fetching.crowded(tenant_id):
                self._fetching.turn_away(tenant_id, account_pk)
                self._wanted.discard(account_pk)
                continue
            heaviest = 0 if tenant_id is None else self._in_hand.heaviest(tenant_id, account_pk)
            if heaviest == 0:
                self._wanted.discard(account_pk)  # it is told of when there is room for it
                continue
            lane = await self._lane(account_pk)
            if lane is None or not lane.open_for_business or lane.shut_until is not None:
                if lane is not None and lane.account.hold is not None:
                    self._outages.take_up(lane)
                self._unwant(account_pk)
                continue
            demand = self._demand(lane, min(await self._most_for(lane), room), heaviest)
            self._wanted.had_its_turn(account_pk)
            if demand is None:
                continue  # stays wanted; asked for when its lane has room
            self._lanes[account_pk] = lane  # which may have been forgotten meanwhile, as there was nothing in it
            lane.claiming = True
            self._urgent.discard(account_pk)
            demands.append(demand)
            room -= demand.limit
            if not demand.urgent_only:
                self._wanted.discard(account_pk)

    def _demand(self, lane: Lane, batch: int, heaviest: int | None) -> Demand | None:
        """Say what to ask for where so many messages are the most; None while the lane has enough."""
        if lane.in_hand <= batch // 2 and batch > 0:
            return Demand(lane.account.pk, batch, heaviest=heaviest)
        if lane.account.pk in self._urgent and not lane.just_in_time:
            return Demand(lane.account.pk, URGENT_PER_CLAIM, urgent_only=True, heaviest=heaviest)
        return None

    async def _most_for(self, lane: Lane) -> int:
        """How many messages may be claimed for a lane.

        None ahead where a copy is worse than a failure (G4), and where a slot of a rate limit must not wait (G10).
        """
        directory = self._needs.directory
        fails = await on_uncertain(directory, lane.account) is OnUncertain.FAIL
        before, lane.just_in_time = lane.just_in_time, fails or await limited(directory, lane.account)
        if lane.just_in_time and not before:  # what was claimed ahead has no place in a window
            await self._give_back(lane)
        if lane.just_in_time:
            return lane.account.max_connections - lane.senders - lane.in_hand
        if lane.in_hand <= self._ahead(lane) // 2:
            lane.reach.half_gone(anyio.current_time(), *self._bounds(lane))
        return self._ahead(lane)

    def _bounds(self, lane: Lane) -> tuple[int, int]:
        """Return how many sessions it may have, and how many messages may be taken up at a time for it."""
        return lane.account.max_connections, lane.account.batch_size or self._settings.batch_size

    def _ahead(self, lane: Lane) -> int:
        return lane.reach.ahead(*self._bounds(lane))

    def _want(self, account_pk: int) -> None:
        self._news[account_pk] = None
        self._wake.set()

    def _start(self, work: Callable[[Lane], Coroutine[Any, Any, None]], lane: Lane, name: str) -> None:
        """Run some work for a lane beside the loop; it ends with the dispatcher."""
        if self._group is not None:
            self._group.start_soon(work, lane, name=f"{name} {lane.account.tenant_id}/{lane.account.id}")

    def _unwant(self, account_pk: int) -> None:
        self._wanted.discard(account_pk)
        self._urgent.discard(account_pk)
        self._in_hand.look_again(account_pk)
        self._forget_if_idle(account_pk)

    async def _lane(self, account_pk: int) -> Lane | None:
        """Return the account's lane with the settings that hold now."""
        account = await self._needs.directory.account(account_pk)
        if account is None:
            return None
        lane = self._lanes.get(account_pk)
        if lane is None:
            lane = self._lanes[account_pk] = Lane(account)
        elif lane.account is not account:
            lane.adopt(account)
        return lane

    def _forget_if_idle(self, account_pk: int) -> None:
        lane = self._lanes.get(account_pk)
        if lane is not None and lane.idle:
            del self._lanes[account_pk]
            self._waiting_for_slot.discard(account_pk)

    # -- senders -----------------------------------------------------------------------------------------------------

    def _start_senders(self) -> None:
        """Give a slot to a lane of each tenant in turn, until the work or the slots are used up."""
        given = True
        while given and not self._stopping and self._slots.any_free:
            given = False
            for tenant_id in self._waiting_for_slot.tenants():
                given = self._start_sender_of(tenant_id) or given

    def _start_sender_of(self, tenant_id: str) -> bool:
        """Give a slot to the next lane of a tenant; False if there is none, or its share is used up."""
        account_pk = self._waiting_for_slot.first_of(tenant_id)
        if account_pk is None:
            return False
        lane = self._lanes.get(account_pk)
        if lane is None or lane.wanted_senders <= 0:
            self._waiting_for_slot.discard(account_pk)
            return True
        if not self._slots.take(tenant_id):
            return False
        lane.senders += 1
        self._start(self._serve, lane, "sender")
        if lane.wanted_senders > 0:
            self._waiting_for_slot.had_its_turn(account_pk)
        else:
            self._waiting_for_slot.discard(account_pk)
        return True

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
                self._waiting_for_slot.add(lane.account.tenant_id, lane.account.pk)
            else:
                self._forget_if_idle(lane.account.pk)
            self._start_senders()
            if not self._running:
                self._wake.set()

    async def _serve_until_done(self, lane: Lane) -> None:
        while not self._stopping and lane.open_for_business:
            if self._term != self._lease.term:  # G5: what was claimed before may be somebody else's by now
                self._term = self._lease.term
                await self._give_all_back()
            job = lane.take()
            if job is None:
                break
            if job.to_fetch:  # it was put back
                self._fetching.put(lane, job)
                continue
            self._claimed -= 1
            self._look_for_more(lane)
            try:
                go_on = await self._send(lane, job)
            finally:  # what was put back counts anew
                job.drop_files()
                self._count_out(job.claimed)
            if not go_on or self._others_wait(lane):
                break
        if len(lane) and not lane.open_for_business:  # put back after the others had been given back
            await self._give_back(lane)
        if not len(lane) and (self._wanted or self._news):
            self._wake.set()

    def _look_for_more(self, lane: Lane) -> None:
        """Have more claimed for a lane that has just come to half of what it may have in hand."""
        if (self._wanted or self._news) and lane.in_hand == self._ahead(lane) // 2:
            self._wake.set()

    async def _fetched(self, lane: Lane, job: Job, end: FetchEnd) -> None:
        """Go on with a message whose attachments were fetched, or that was settled or not touched."""
        match end:
            case FetchEnd.FETCHED if lane.open_for_business and not self._stopping:
                lane.put(job)
                self._waiting_for_slot.add(lane.account.tenant_id, lane.account.pk)
                self._start_senders()
                return
            case FetchEnd.FETCHED | FetchEnd.UNTOUCHED:
                job.drop_files()
                await self._release([job.claimed])
            case FetchEnd.SETTLED:
                pass
            case _:
                assert_never(end)
        self._claimed -= 1
        self._count_out(job.claimed)
        self._look_for_more(lane)
        self._forget_if_idle(lane.account.pk)

    async def _send(self, lane: Lane, job: Job) -> bool:
        """Send one message; False when nothing can be sent for now."""
        tried = lane.account
        try:
            sent = await self._sender.send(tried, job.claimed, job.term, job.files)
        except LeaseLost:
            await self._release([job.claimed])
            return True
        except (StoreUnavailable, JournalUnwritable) as error:
            log.warning("nothing can be sent for now", reason=str(error))
            self._put_back(lane, job)
            await self._needs.clock.sleep(1.0)
            return False
        if sent.untouched:
            self._put_back(lane, job)
        if sent.failure is not None and await self._outages.met(lane, tried, sent.failure):
            await self._give_back(lane)
        return True

    def _put_back(self, lane: Lane, job: Job) -> None:
        lane.put(job.drop_files())
        self._claimed += 1
        self._in_hand.take(job.claimed)

    def _count_out(self, claimed: Claimed) -> None:
        for account_pk in self._in_hand.give_back(claimed):
            self._want(account_pk)

    def _others_wait(self, lane: Lane) -> bool:
        return len(self._waiting_for_slot) > (lane.account.pk in self._waiting_for_slot)

    async def _give_back(self, lane: Lane) -> None:
        back = [*lane.empty(), *self._fetching.take_back(lane)]
        self._claimed -= len(back)
        if back:
            try:
                await self._release(back)
            finally:
                for claimed in back:
                    self._count_out(claimed)

    async def _release(self, claims: Sequence[Claimed]) -> None:
        with anyio.CancelScope(shield=True):  # they are in nobody else's hands
            while True:
                try:
                    await self._needs.queue.release(claims)
                except StoreUnavailable:
                    if self._stopping:  # another instance, or the next start, finds them
                        return
                    await self._needs.clock.sleep(1.0)
                else:
                    return

    # -- the end -----------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Give back what was not begun, let transactions finish, and end those that do not."""  # G6
        await self._give_all_back()
        await self._fetching.stop()
        with anyio.move_on_after(self._settings.grace):
            while self._running:
                self._wake.clear()
                await self._wake.wait()
        for scope in list(self._running.values()):
            scope.cancel()
        while self._running:
            self._wake.clear()
            await self._wake.wait()
        await self._give_all_back()
        await self._recorder.drained()

    async def _give_all_back(self) -> None:
        for lane in list(self._lanes.values()):
            await self._give_back(lane)
