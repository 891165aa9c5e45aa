"""The loop of delivery: it sleeps until there is something to do, and has messages taken up and sent.

    notify / poll ──▶ wanted ──▶ claiming ──▶ taken up ──▶ senders
                  (`Wanted`)   (`Claiming`)  (`TakenUp`)  (`Senders`)

Everything here runs on one event loop; nothing is shared with other threads.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import anyio
import structlog
from anyio.abc import TaskGroup

from mail_proxy.delivery.claiming import Claiming
from mail_proxy.delivery.lane import Lane
from mail_proxy.delivery.lease import Lease
from mail_proxy.delivery.needs import Needs
from mail_proxy.delivery.outages import Outages
from mail_proxy.delivery.recorder import Recorder
from mail_proxy.delivery.sender import Sender
from mail_proxy.delivery.senders import Senders
from mail_proxy.delivery.settings import DeliverySettings
from mail_proxy.delivery.taken_up import TakenUp
from mail_proxy.delivery.wanted import Wanted
from mail_proxy.domain.account import Outage
from mail_proxy.domain.errors import StoreUnavailable

log = structlog.get_logger(__name__)


class Dispatcher:
    """Keeps every lane supplied and every free slot used, without work for messages that only wait."""

    def __init__(
        self, needs: Needs, sender: Sender, recorder: Recorder, lease: Lease, settings: DeliverySettings
    ) -> None:
        self._needs = needs
        self._recorder = recorder
        self._settings = settings
        wanted = self._wanted = Wanted()
        outages = self._outages = Outages(needs, self._start, wanted.want)
        taken_up = self._taken_up = TakenUp(needs, sender, settings, wanted, self._start, self._send)
        self._senders = Senders(needs, sender, lease, settings, wanted, taken_up, outages, self._start)
        self._claiming = Claiming(needs, recorder, lease, settings, wanted, taken_up, self._senders, outages)
        self._poll_now = True
        self._poll_at = 0.0
        self._group: TaskGroup | None = None

    # -- what others tell it -----------------------------------------------------------------------------------------

    def notify(self, account_pks: Iterable[int], *, urgent: bool = False) -> None:
        """Say that these accounts have ready messages; `urgent`: one of them has priority `immediate`."""
        if self._settings.only_on_demand:
            return
        told = list(account_pks)
        if urgent:
            self._wanted.urgent.update(told)
            for account_pk in told:
                self._taken_up.in_hand.look_again(account_pk)
        self._wanted.tell(told)

    def run_now(self) -> None:
        """Look at the whole queue at once, and anew at what rate limits let through."""
        self._claiming.shut.open_all(self.lanes)
        self.look()

    def look(self) -> None:
        """Look at the whole queue at once."""
        self._poll_now = True
        self._wanted.wake.set()

    @property
    def lanes(self) -> Iterable[Lane]:
        """The lanes that have something in hand, or a server that is left alone."""
        return self._taken_up.lanes.values()

    def outage_of(self, account_pk: int) -> Outage | None:
        """Say why this instance leaves the account's server alone, or None."""
        lane = self._taken_up.lanes.get(account_pk)
        return None if lane is None else self._outages.outage_of(lane)

    def server_answers(self, account_pk: int) -> None:
        """Take note that the account's server was seen to answer: an outage of it is over."""
        lane = self._taken_up.lanes.get(account_pk)
        if lane is not None:
            self._outages.answered(lane)
        self.notify({account_pk})

    @property
    def busy(self) -> bool:
        """True while anything is in this instance's hands."""
        return self._senders.running > 0 or self._taken_up.count > 0

    @property
    def messages_in_hand(self) -> int:
        """How many messages this instance has taken up: those that senders have, and those that none has begun."""
        return self._taken_up.count + self._senders.running

    @property
    def bytes_in_hand(self) -> int:
        """The size of all submissions in this instance's hands."""
        return self._taken_up.in_hand.bytes

    # -- the loop ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Dispatch until `stop` is called, then finish what was begun within the grace time."""
        async with anyio.create_task_group() as group:
            self._group = group
            self._send()
            while not self._taken_up.stopping:
                await self._wait()
                if not self._taken_up.stopping:
                    await self._turn()
            await self._drain()
            group.cancel_scope.cancel()

    def stop(self) -> None:
        """Take nothing new; `run` returns when what was begun has ended."""  # G6
        self._taken_up.stopping = True
        self._wanted.wake.set()

    async def _wait(self) -> None:
        """Return when there is something to do; however much there is, the queue is looked at from time to time."""
        until_poll = self._poll_at - anyio.current_time()
        with anyio.move_on_after(
            None if self._settings.only_on_demand else max(self._claiming.shut.pause(until_poll), 0.0)
        ):
            await self._wanted.wake.wait()
        self._wanted.wake.clear()
        if not self._settings.only_on_demand and anyio.current_time() >= self._poll_at:
            self._poll_now = True
        self._wanted.note(self._claiming.shut.due(self._taken_up.lanes))

    async def _turn(self) -> None:
        try:
            if self._poll_now:
                self._poll_now = False
                self._poll_at = anyio.current_time() + self._settings.poll_interval
                await self._poll()
            await self._claiming.supply()
        except StoreUnavailable as error:
            log.warning("the queue cannot be read", reason=error.sentence)
            await self._needs.clock.sleep(1.0)
            self.look()  # also where the next look would be long in coming
        self._send()

    async def _poll(self) -> None:
        """Find what nobody told of: messages of other instances, of before the start, of accounts set free."""
        await self._needs.directory.refresh()
        self._wanted.note(await self._needs.queue.ready_accounts())

    def _send(self) -> None:
        """Have sent what is taken up."""
        self._senders.start()

    def _start(self, work: Callable[[Lane], Coroutine[Any, Any, None]], lane: Lane, name: str) -> None:
        """Run some work for a lane beside the loop; it ends with the dispatcher."""
        if self._group is not None:
            self._group.start_soon(work, lane, name=f"{name} {lane.account.tenant_id}/{lane.account.id}")

    # -- the end -----------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Give back what was not begun, let transactions finish, and end those that do not."""  # G6
        await self._taken_up.give_all_back()
        await self._taken_up.fetching.stop()
        await self._senders.end(self._settings.grace)
        await self._taken_up.give_all_back()
        await self._recorder.drained()
