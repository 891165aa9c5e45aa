"""What this instance has taken up and no sender has begun, account by account, and its way back into the queue.

claimed ──▶ lane ◀──▶ attachments are fetched
             └──▶ a sender begins it, or it is given back
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio
from typing_extensions import assert_never

from mail_proxy.delivery.fetching import FetchEnd, Fetching
from mail_proxy.delivery.in_hand import InHand
from mail_proxy.delivery.in_turn import InTurn
from mail_proxy.delivery.lane import Job, Lane
from mail_proxy.delivery.needs import Needs
from mail_proxy.delivery.outages import Start
from mail_proxy.delivery.sender import Sender
from mail_proxy.delivery.settings import DeliverySettings
from mail_proxy.delivery.wanted import Wanted
from mail_proxy.domain.claim import Claimed
from mail_proxy.domain.errors import StoreUnavailable


class TakenUp:
    """Keeps the lanes, and counts what is in them.

    `start` runs some work for a lane beside the caller; `ready` is told when lanes have got something to send.
    """

    def __init__(
        self,
        needs: Needs,
        sender: Sender,
        settings: DeliverySettings,
        wanted: Wanted,
        start: Start,
        ready: Callable[[], None],
    ) -> None:
        self._needs = needs
        self._settings = settings
        self._wanted = wanted
        self._ready = ready
        self.lanes: dict[int, Lane] = {}
        self.waiting_for_slot = InTurn()
        self.count = 0
        """Messages that no sender has begun."""
        self.in_hand = InHand(settings.max_sending)
        """Bytes: of these, and of those that are being sent."""
        self.fetching = Fetching(sender, settings, needs.clock, start, self._fetched, wanted.want)
        self.stopping = False
        """True once nothing new is begun."""

    async def lane(self, account_pk: int) -> Lane | None:
        """Return the account's lane with the settings that hold now; None where there is no such account."""
        account = await self._needs.directory.account(account_pk)
        if account is None:
            return None
        lane = self.lanes.get(account_pk)
        if lane is None:
            lane = self.lanes[account_pk] = Lane(account)
        elif lane.account is not account:
            lane.adopt(account)
        return lane

    def keep(self, lane: Lane) -> None:
        """Have a lane among those that there are."""
        self.lanes[lane.account.pk] = lane

    def forget_if_idle(self, account_pk: int) -> None:
        """Give up an account's lane if nothing of it is in hand."""
        lane = self.lanes.get(account_pk)
        if lane is not None and lane.idle:
            del self.lanes[account_pk]
            self.waiting_for_slot.discard(account_pk)

    def wait_for_slot(self, lane: Lane) -> None:
        """Have a lane sent from when its turn comes."""
        self.waiting_for_slot.add(lane.account.tenant_id, lane.account.pk)

    # -- into the lanes ----------------------------------------------------------------------------------------------

    def take(self, claimed: Sequence[Claimed], term: int) -> Sequence[Claimed]:
        """Put what was asked for in that term into its lanes; return what has no place, to be turned away."""
        too_many: list[Claimed] = []
        for message in claimed:
            lane, job = self.lanes[message.account_pk], Job.of(message, term)
            self.in_hand.take(message)
            if not job.to_fetch:
                lane.put(job)
            elif not self.fetching.crowded(message.tenant_id):
                self.fetching.put(lane, job)  # it comes to the lane when it can be sent
            else:
                too_many.append(message)
        self.count += len(claimed)
        return too_many

    async def turn_away(self, messages: Sequence[Claimed]) -> None:
        """Give messages back for which their tenant has no place: for them others' could not be claimed."""  # G11
        for message in messages:
            self.fetching.turn_away(message.tenant_id, message.account_pk)
        if messages:
            await self.release(messages)
        self.count -= len(messages)
        for message in messages:
            self.count_out(message)

    async def _fetched(self, lane: Lane, job: Job, end: FetchEnd) -> None:
        """Go on with a message whose attachments were fetched, or that was settled or not touched."""
        match end:
            case FetchEnd.FETCHED if lane.open_for_business and not self.stopping:
                lane.put(job)
                self.wait_for_slot(lane)
                self._ready()
                return
            case FetchEnd.FETCHED | FetchEnd.UNTOUCHED:
                job.drop_files()
                await self.release([job.claimed])
            case FetchEnd.SETTLED:
                pass
            case _:
                assert_never(end)
        self.count -= 1
        self.count_out(job.claimed)
        self._look_for_more(lane)
        self.forget_if_idle(lane.account.pk)

    # -- out of the lanes --------------------------------------------------------------------------------------------

    def begin(self, lane: Lane) -> Job | None:
        """Take out the next message of a lane that can be sent, or None; `count_out` is due when it has ended."""
        while (job := lane.take()) is not None and job.to_fetch:  # it was put back
            self.fetching.put(lane, job)
        if job is not None:
            self.count -= 1
            self._look_for_more(lane)
        return job

    def put_back(self, lane: Lane, job: Job) -> None:
        """Put a message back that was not tried; it counts anew."""
        lane.put(job.drop_files())
        self.count += 1
        self.in_hand.take(job.claimed)

    def count_out(self, claimed: Claimed) -> None:
        """Take note that a message has left this instance's hands; what waited for its room may be claimed."""
        for account_pk in self.in_hand.give_back(claimed):
            self._wanted.want(account_pk)

    def _look_for_more(self, lane: Lane) -> None:
        """Have more claimed for a lane that has just come to half of what it may have in hand."""
        if self._wanted.any and lane.in_hand == lane.ahead(self._settings.batch_size) // 2:
            self._wanted.wake.set()

    # -- back into the queue -----------------------------------------------------------------------------------------

    async def give_back(self, lane: Lane) -> None:
        """Give back what no sender has begun of a lane."""
        back = [*lane.empty(), *self.fetching.take_back(lane)]
        self.count -= len(back)
        if back:
            try:
                await self.release(back)
            finally:
                for claimed in back:
                    self.count_out(claimed)

    async def give_all_back(self) -> None:
        """Give back what no sender has begun."""
        for lane in list(self.lanes.values()):
            await self.give_back(lane)

    async def release(self, claims: Sequence[Claimed]) -> None:
        """Put messages back into the queue, however long the store is away; while stopping, only if it is there."""
        with anyio.CancelScope(shield=True):  # they are in nobody else's hands
            while True:
                try:
                    await self._needs.queue.release(claims)
                except StoreUnavailable:
                    if self.stopping:  # another instance, or the next start, finds them
                        return
                    await self._needs.clock.sleep(1.0)
                else:
                    return
