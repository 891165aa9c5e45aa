"""The whole of delivery: its loops, started and stopped together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from random import Random, SystemRandom

import anyio

from mail_proxy.delivery.dispatcher import Dispatcher
from mail_proxy.delivery.journal import FlightJournal
from mail_proxy.delivery.large_files import LargeFiles
from mail_proxy.delivery.lease import Lease
from mail_proxy.delivery.maintenance import Maintenance
from mail_proxy.delivery.needs import Needs
from mail_proxy.delivery.recorder import Recorder
from mail_proxy.delivery.sender import Sender
from mail_proxy.delivery.settings import DeliverySettings
from mail_proxy.domain.account import Account, Outage
from mail_proxy.domain.explanation import Here


class Delivery:
    """Sends what is queued. `on_events` is told the tenant of each new event."""

    def __init__(
        self,
        needs: Needs,
        settings: DeliverySettings,
        journal: FlightJournal,
        on_events: Callable[[Iterable[str]], None],
        *,
        alone: bool,
        rng: Random | None = None,
    ) -> None:
        """`alone`: this process owns the database, so whatever was claimed before it started is an orphan."""
        rng = rng or SystemRandom()
        self._only_on_demand = settings.only_on_demand
        self.recorder = Recorder(
            needs.queue,
            needs.clock,
            needs.meter,
            on_events,
            journal.settled,
            lambda account_pk: self.dispatcher.notify((account_pk,)),
        )
        lease = Lease(needs.clock, None if alone else settings.lease)
        self.standing = lease.standing
        """The term in which this instance is known to live, or None: see `Lease.standing`."""
        self._large_files = LargeFiles(needs, settings.public_url)
        sender = Sender(needs, self.recorder, journal, lease, settings, rng, self._large_files)
        self.dispatcher = Dispatcher(needs, sender, self.recorder, lease, settings)
        self.maintenance = Maintenance(
            needs, self.recorder, journal, lease, self.dispatcher, settings, rng, alone=alone
        )

    def notify(self, account_pks: Iterable[int], *, urgent: bool = False) -> None:
        """Say that these accounts have ready messages."""
        self.dispatcher.notify(account_pks, urgent=urgent)

    def look(self) -> None:
        """Look at the queue soon, as after a poll: another instance says that there is something."""
        if not self._only_on_demand:
            self.dispatcher.look()

    def outage_of(self, account_pk: int) -> Outage | None:
        """Say why this instance leaves the account's server alone, or None."""
        return self.dispatcher.outage_of(account_pk)

    def left_alone(self) -> Sequence[tuple[Account, Outage]]:
        """Return the accounts whose server this instance leaves alone, those on hold left out."""
        lanes = [lane for lane in self.dispatcher.lanes if lane.account.hold is None]
        return [(lane.account, outage) for lane in lanes if (outage := self.outage_of(lane.account.pk)) is not None]

    def server_answers(self, account_pk: int) -> None:
        """Take note that the account's server was seen to answer: an outage of it is over."""
        self.dispatcher.server_answers(account_pk)

    def freed(self, account_pks: Iterable[int]) -> None:
        """Say that something of these accounts is suspended no longer."""
        self.maintenance.wake()
        self.dispatcher.notify(account_pks)

    def run_now(self) -> None:
        """Look at once for what is due and ready."""
        self.maintenance.wake()
        self.dispatcher.run_now()

    def here(self, account_pk: int) -> Here:
        """What this instance knows, besides the database, of why messages of an account are not sent."""
        outage = self.outage_of(account_pk)
        return Here(outage, test_mode=self._only_on_demand, recording=self.recorder.available)

    async def run(self, started: Callable[[], None]) -> None:
        """Take back what an earlier run left, call `started`, and send until `stop`; then finish what was begun."""
        async with anyio.create_task_group() as group:
            group.start_soon(self.recorder.run, name="recorder")
            await self.maintenance.at_start()
            group.start_soon(self.maintenance.run, name="maintenance")
            group.start_soon(self._large_files.keep_clear, name="large files")
            started()
            await self.dispatcher.run()
            group.cancel_scope.cancel()

    def stop(self) -> None:
        """Begin no new transaction; `run` returns when those in progress have ended."""  # G6
        self.dispatcher.stop()
