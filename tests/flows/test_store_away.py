"""While the store is away delivery asks for it now and then, and not in a loop."""  # G12, G13

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from typing_extensions import override

from mail_proxy.domain.claim import Demand, Taking
from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.domain.message import MessageState
from mail_proxy.domain.settlement import Settlement
from tests.flows.test_delivery import SETTINGS, Bench, FlakyQueue, bench
from tests.support.stores import a_message, enqueue, with_account

__all__ = ["bench"]


class AwayQueue(FlakyQueue):
    """A queue that can be neither read nor written while it is away."""

    asked = 0

    def _ask(self) -> None:
        if self.away:
            self.asked += 1
            raise StoreUnavailable("the database does not answer")

    @override
    async def claim(self, demands: Sequence[Demand], token: str, now: float) -> Taking:
        self._ask()
        return await super().claim(demands, token, now)

    @override
    async def ready_accounts(self) -> Sequence[int]:
        self._ask()
        return await super().ready_accounts()

    @override
    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        self._ask()
        return await super().settle(settlements)


async def test_a_minute_without_a_store_costs_a_question_a_second(bench: Bench) -> None:
    bench.queue = queue = AwayQueue(bench.store.database, bench.store.instance_id)
    accounts = [await with_account(bench.store, account_id=f"a{n}") for n in range(20)]
    async with bench.delivering() as delivery:
        queue.away = True
        for n, account in enumerate(accounts):
            await bench.submit(delivery, account, f"M{n}")
        for _ in range(60):
            for account in accounts:  # as if mail kept coming in
                delivery.notify({account.pk})
            await bench.clock.advance(1)
        assert 30 <= queue.asked <= 130
        queue.away = False
        for n in range(20):
            await bench.until_state(f"M{n}", MessageState.SENT, seconds=1)
    assert len(bench.sent_ids) == len(set(bench.sent_ids)) == 20


async def test_what_waits_is_found_when_the_store_is_back_however_rarely_the_queue_is_looked_at(bench: Bench) -> None:
    bench.settings = replace(SETTINGS, poll_interval=3600.0)
    bench.queue = queue = AwayQueue(bench.store.database, bench.store.instance_id)
    account = await with_account(bench.store)
    await enqueue(bench.store, a_message("M1", account))
    queue.away = True
    async with bench.delivering():
        await bench.clock.advance(0.5)
        assert queue.asked == 1
        queue.away = False  # and nobody tells of it
        await bench.until_state("M1", MessageState.SENT, seconds=1)
