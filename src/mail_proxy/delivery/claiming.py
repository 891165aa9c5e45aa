"""Taking messages up: for which accounts, how many of each and how far ahead, in one claim for many of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from uuid import uuid4

import anyio

from mail_proxy.delivery.lane import Lane
from mail_proxy.delivery.lease import Lease
from mail_proxy.delivery.needs import Needs
from mail_proxy.delivery.outages import Outages
from mail_proxy.delivery.recorder import Recorder
from mail_proxy.delivery.sender import limited, on_uncertain
from mail_proxy.delivery.senders import Senders
from mail_proxy.delivery.settings import DeliverySettings
from mail_proxy.delivery.shut_lanes import ShutLanes
from mail_proxy.delivery.taken_up import TakenUp
from mail_proxy.delivery.wanted import Wanted
from mail_proxy.domain.account import OnUncertain
from mail_proxy.domain.claim import HELPING, Demand, Taking
from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.domain.settlement import reject

ACCOUNTS_PER_CLAIM = 100
LOOKED_AT = 4 * ACCOUNTS_PER_CLAIM
"""Accounts that are looked at for one claim; some may have no room for more."""
URGENT_PER_CLAIM = 10
MOST_CLAIMED = 2000
"""Messages in this instance's hands that no sender has begun."""  # G11


class Claiming:
    """Keeps the lanes of wanted accounts supplied, tenants in turn."""

    def __init__(
        self,
        needs: Needs,
        recorder: Recorder,
        lease: Lease,
        settings: DeliverySettings,
        wanted: Wanted,
        taken_up: TakenUp,
        senders: Senders,
        outages: Outages,
    ) -> None:
        self._needs = needs
        self._recorder = recorder
        self._lease = lease
        self._settings = settings
        self._wanted = wanted
        self._taken_up = taken_up
        self._senders = senders
        self._outages = outages
        self.shut = ShutLanes(needs.clock)
        """Lanes that a rate limit has shut."""  # G10

    async def supply(self) -> None:
        """Claim until no wanted account has room for more, or there is enough in hand. Raises `StoreUnavailable`."""
        while self._recorder.available and self._taken_up.count < MOST_CLAIMED:
            for account_pk in await self._wanted.sort(self._needs.directory):
                self._unwant(account_pk)
            if not self._wanted.in_turn or not await self._claim_some():
                break

    async def _claim_some(self) -> bool:
        """Claim for some of the wanted accounts; False when none of them has room."""
        term, wanted = self._lease.term, len(self._wanted.in_turn)
        demands, taking = await self._claim()
        if not demands:
            return len(self._wanted.in_turn) < wanted  # some cannot be used now; those behind them may
        self._meet_limits(taking)
        too_many = self._taken_up.take(taking.claimed, term)
        self._look_behind(demands, taking)
        self._senders.start()
        await self._taken_up.turn_away(too_many)
        return True

    def _look_behind(self, demands: Sequence[Demand], taking: Taking) -> None:
        """Have those sent for that something was found for, and want those again that there may be more of."""
        found = Counter(message.account_pk for message in taking.claimed)
        full_helping = sum(len(message.fields) for message in taking.claimed) >= HELPING
        for demand in demands:
            lane = self._taken_up.lanes[demand.account_pk]
            if found[demand.account_pk]:
                self._taken_up.wait_for_slot(lane)
            in_time = lane.just_in_time and found[demand.account_pk]
            behind_parked = demand.account_pk in taking.parked and demand.account_pk not in taking.limited
            took_all = found[demand.account_pk] >= demand.limit
            lane.reach.took(anyio.current_time(), all_=took_all and not demand.urgent_only)
            heavy = demand.account_pk in taking.heavy
            if heavy:
                self._taken_up.in_hand.left_heavy(demand.account_pk)
            if full_helping or in_time or behind_parked or took_all or heavy:  # there may be more
                self._wanted.in_turn.add(lane.account.tenant_id, demand.account_pk)
                if demand.urgent_only:
                    self._wanted.urgent.add(demand.account_pk)
            self._taken_up.forget_if_idle(demand.account_pk)

    def _meet_limits(self, taking: Taking) -> None:
        """Leave accounts alone whose limit is used up; where it rejects, fail what it does not let through."""  # G10
        refused: Counter[int] = Counter()
        for message in taking.refused:
            limit = taking.limited.get(message.account_pk)
            words = "its account lets through" if limit is None else limit.reason
            self._recorder.submit(message, reject(message, self._needs.clock.now(), words))
            refused[message.account_pk] += 1
        for account_pk, limit in taking.limited.items():
            lane = self._taken_up.lanes[account_pk]
            who = (lane.account.tenant_id, lane.account.id)
            self._needs.meter.rate_limited(*who)
            self._recorder.told_of_limit(*who, events=limit.told)
            if refused[account_pk]:
                self._wanted.in_turn.add(lane.account.tenant_id, account_pk)  # there may be more to refuse
            else:
                self.shut.shut(lane, limit.seconds)

    async def _claim(self) -> tuple[Sequence[Demand], Taking]:
        demands: list[Demand] = []
        try:
            await self._gather(demands)
            if not demands:
                return (), Taking()
            return demands, await self._needs.queue.claim(demands, uuid4().hex, self._needs.clock.now())
        except StoreUnavailable:
            for demand in demands:
                self._wanted.want(demand.account_pk)
            raise
        finally:
            for demand in demands:
                self._taken_up.lanes[demand.account_pk].claiming = False

    async def _gather(self, demands: list[Demand]) -> None:
        """Ask for wanted accounts with room in their lanes, tenants in turn, and take those off the list."""
        wanted, taken_up = self._wanted.in_turn, self._taken_up
        room = MOST_CLAIMED - taken_up.count
        for account_pk in wanted.some(LOOKED_AT):
            if len(demands) >= ACCOUNTS_PER_CLAIM or room <= 0:
                break
            tenant_id = wanted.tenant_of(account_pk)
            if tenant_id is not None and taken_up.fetching.crowded(tenant_id):
                taken_up.fetching.turn_away(tenant_id, account_pk)
                wanted.discard(account_pk)
                continue
            heaviest = 0 if tenant_id is None else taken_up.in_hand.heaviest(tenant_id, account_pk)
            if heaviest == 0:
                wanted.discard(account_pk)  # it is told of when there is room for it
                continue
            lane = await taken_up.lane(account_pk)
            if lane is None or not lane.open_for_business or lane.shut_until is not None:
                if lane is not None and lane.account.hold is not None:
                    self._outages.take_up(lane)
                self._unwant(account_pk)
                continue
            await self._learn_how_far_ahead(lane)
            demand = self._demand(lane, min(self._most_for(lane), room), heaviest)
            wanted.had_its_turn(account_pk)
            if demand is None:
                continue  # stays wanted; asked for when its lane has room
            taken_up.keep(lane)  # which may have been forgotten meanwhile, as there was nothing in it
            lane.claiming = True
            self._wanted.urgent.discard(account_pk)
            demands.append(demand)
            room -= demand.limit
            if not demand.urgent_only:
                wanted.discard(account_pk)

    def _demand(self, lane: Lane, batch: int, heaviest: int | None) -> Demand | None:
        """Say what to ask for where so many messages are the most; None while the lane has enough."""
        if lane.in_hand <= batch // 2 and batch > 0:
            return Demand(lane.account.pk, batch, heaviest=heaviest)
        if lane.account.pk in self._wanted.urgent and not lane.just_in_time:
            return Demand(lane.account.pk, URGENT_PER_CLAIM, urgent_only=True, heaviest=heaviest)
        return None

    def _most_for(self, lane: Lane) -> int:
        """Return how many messages may be claimed for a lane, those counted that it has."""
        if lane.just_in_time:
            return lane.account.max_connections - lane.senders - lane.in_hand
        return lane.ahead(self._settings.batch_size)

    async def _learn_how_far_ahead(self, lane: Lane) -> None:
        """Take note of what says now how far ahead messages may be claimed for a lane.

        None ahead where a copy is worse than a failure (G4), and where a slot of a rate limit must not wait (G10); else
        as many as its server has shown to take.
        """
        directory = self._needs.directory
        fails = await on_uncertain(directory, lane.account) is OnUncertain.FAIL
        before, lane.just_in_time = lane.just_in_time, fails or await limited(directory, lane.account)
        if lane.just_in_time:
            if not before:  # what was claimed ahead has no place in a window
                await self._taken_up.give_back(lane)
        elif lane.in_hand <= lane.ahead(self._settings.batch_size) // 2:
            lane.half_gone(anyio.current_time(), self._settings.batch_size)

    def _unwant(self, account_pk: int) -> None:
        self._wanted.forget(account_pk)
        self._taken_up.in_hand.look_again(account_pk)
        self._taken_up.forget_if_idle(account_pk)
