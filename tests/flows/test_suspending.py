"""Suspended messages hold up nobody else, and come back by themselves: delivery over a real store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from sqlalchemy import text
from typing_extensions import override

from mail_proxy.administration.pending import Pending
from mail_proxy.administration.scheduling import Scheduling
from mail_proxy.domain.account import Outage
from mail_proxy.domain.attempt import HostFailed
from mail_proxy.domain.backlog import Survey
from mail_proxy.domain.claim import Demand, Taking
from mail_proxy.domain.explanation import Here
from mail_proxy.domain.message import MessageState
from mail_proxy.ports.queue import Promotion
from mail_proxy.smtp.capture import CaptureTransport
from mail_proxy.store.claim import PARKED_AT_A_TIME
from mail_proxy.store.opening import database_url
from tests.flows.test_delivery import Bench, FlakyQueue
from tests.support.backlog import fill
from tests.support.fake_clock import FakeClock
from tests.support.stores import a_message, enqueue, open_test_store, ready_made, with_account


class WatchedQueue(FlakyQueue):
    """Counts what is asked of it; `before_unhold` is called before each chunk is put back."""

    claims = 0
    unholds = 0
    before_unhold: Callable[[int], Awaitable[None]] | None = None

    @override
    async def claim(self, demands: Sequence[Demand], token: str, now: float) -> Taking:
        self.claims += 1
        return await super().claim(demands, token, now)

    @override
    async def unhold(self, limit: int) -> Promotion:
        self.unholds += 1
        if self.before_unhold is not None:
            await self.before_unhold(self.unholds)
        return await super().unhold(limit)


class Suspending(Bench):
    @property
    def watched(self) -> WatchedQueue:
        assert isinstance(self.queue, WatchedQueue)
        return self.queue

    def scheduling(self, freed: Callable[[frozenset[int]], None]) -> Scheduling:
        directory = self.store.directory
        return Scheduling(directory, directory, Pending(self.store.archive, lambda: None), freed)

    async def until_sent(self, count: int) -> None:
        async def sent() -> bool:
            return len(self.transport.messages) >= count

        await self.until(sent)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Suspending]:
    clock = FakeClock(now=1_800_000_000.0)
    store = await open_test_store(ready_made(database_url(str(tmp_path / "mail.db"))), clock=clock)  # type: ignore[arg-type]  # both keep the port
    queue = WatchedQueue(store.database, store.instance_id)
    yield Suspending(store, queue, CaptureTransport(), clock, tmp_path / "flight-0.log")
    await store.close()


def nobody(_account_pks: frozenset[int]) -> None:
    """Hear of nothing."""


async def test_what_is_behind_a_suspended_batch_goes_out_without_waiting_for_the_next_look(bench: Suspending) -> None:
    account = await with_account(bench.store)
    fill(bench.store, account, 5_000, batch_code="spring")
    await bench.scheduling(nobody).suspend("acme", "spring")
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, "M1", "M2")  # time stands still: no look at the queue comes
        await bench.until_state("M2", MessageState.SENT)
        assert bench.sent_ids == ["M1", "M2"]
        assert bench.watched.claims <= 5_000 / PARKED_AT_A_TIME + 5


async def test_a_queue_of_suspended_messages_alone_gives_no_work(bench: Suspending) -> None:
    account = await with_account(bench.store)
    fill(bench.store, account, 2_500, batch_code="spring")
    await bench.scheduling(nobody).suspend("acme", "spring")
    async with bench.delivering() as delivery:
        delivery.notify({account.pk})
        await bench.submit(delivery, account, "M1")
        await bench.until_state("M1", MessageState.SENT)
        before = bench.watched.claims
        await bench.clock.advance(60)
        assert bench.watched.claims == before


async def test_a_freed_batch_is_put_back_at_once_and_holds_up_neither_what_is_urgent_nor_what_is_due(
    bench: Suspending,
) -> None:
    account = await with_account(bench.store)
    fill(bench.store, account, 3_000, batch_code="spring", state="held")
    await bench.scheduling(nobody).suspend("acme", "spring")
    states: list[MessageState] = []
    async with bench.delivering() as delivery:

        async def meanwhile(chunk: int) -> None:
            if chunk == first + 2:
                await bench.submit(delivery, account, "urgent", priority=0)
                await enqueue(bench.store, a_message("due", account, due=bench.clock.now(), priority=0))
            if chunk == first + 3:
                await bench.until_state("urgent", MessageState.SENT)
                await bench.until_state("due", MessageState.SENT)
                states.append((await bench.details("bulk-3000")).state)

        first = bench.watched.unholds
        bench.watched.before_unhold = meanwhile
        await bench.scheduling(delivery.freed).activate("acme", "spring")  # time stands still
        await bench.until_sent(3_002)
    assert states == [MessageState.HELD]
    assert sorted(bench.sent_ids) == sorted(["urgent", "due", *(f"bulk-{n}" for n in range(1, 3_001))])


async def test_a_batch_suspended_again_while_it_is_put_back_stays_and_is_sent_once_in_the_end(
    bench: Suspending,
) -> None:
    account = await with_account(bench.store)
    fill(bench.store, account, 3_000, batch_code="spring", state="held")
    await bench.scheduling(nobody).suspend("acme", "spring")
    async with bench.delivering() as delivery:
        scheduling = bench.scheduling(delivery.freed)

        async def meanwhile(chunk: int) -> None:
            if chunk == first + 3:
                await scheduling.suspend("acme", "spring")

        first = bench.watched.unholds
        bench.watched.before_unhold = meanwhile
        await scheduling.activate("acme", "spring")

        async def at_rest() -> bool:
            return bench.watched.unholds >= first + 3 and not delivery.dispatcher.busy and await ready(bench) == 0

        await bench.until(at_rest)
        assert 2_000 <= await held(bench) <= 3_000
        bench.watched.before_unhold = None
        await scheduling.activate("acme", "spring")
        await bench.until_sent(3_000)
    assert len(bench.sent_ids) == len(set(bench.sent_ids)) == 3_000


async def held(bench: Suspending) -> int:
    return await count(bench, "held")


async def ready(bench: Suspending) -> int:
    return await count(bench, "ready")


async def count(bench: Suspending, state: str) -> int:
    statement = text("SELECT count(*) FROM messages WHERE state = :state")
    return await bench.store.database.read(
        lambda connection: int(connection.execute(statement, {"state": state}).scalar_one())
    )


async def test_running_now_does_not_wait_for_what_is_being_put_back(bench: Suspending) -> None:
    account = await with_account(bench.store)
    fill(bench.store, account, 2_000, batch_code="spring", state="held")
    async with bench.delivering() as delivery:
        await bench.scheduling(nobody).suspend("acme", "spring")
        await bench.scheduling(nobody).activate("acme", "spring")
        delivery.run_now()
        assert bench.transport.messages == []
        await bench.until_sent(2_000)


async def test_what_waits_is_counted_in_the_background(bench: Suspending) -> None:
    account = await with_account(bench.store)
    await bench.scheduling(nobody).suspend("acme", None)
    fill(bench.store, account, 30)
    async with bench.delivering() as delivery:
        maintenance = delivery.maintenance
        assert maintenance.surveyed is None
        await bench.clock.advance(10)

        async def counted() -> bool:
            return maintenance.surveyed is not None

        await bench.until(counted)
        assert maintenance.surveyed == Survey(30, {}, {}, 1_800_000_000.0)


async def test_an_instance_tells_that_it_leaves_a_server_alone(bench: Suspending) -> None:
    account = await with_account(bench.store)
    bench.transport.failure = HostFailed("connection refused")
    async with bench.delivering() as delivery:
        assert delivery.here(account.pk) == Here()
        await bench.submit(delivery, account, "M1")

        async def left_alone() -> bool:
            return delivery.here(account.pk).outage is not None

        await bench.until(left_alone)
        now = bench.clock.now()
        assert delivery.here(account.pk).outage == Outage("connection refused", now, now + 5)
