"""Turns to report to a tenant: one instance at a time, whatever becomes of the others."""  # G9

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from mail_proxy.domain.sync_lease import SyncMemory
from mail_proxy.store.store import Store
from tests.conformance.steps import ACCEPTED, NOW, attempt
from tests.support.stores import SetClock, a_message, enqueue, open_test_store, with_account

MEMORY = SyncMemory(3, NOW + 8, NOW + 60, NOW - 5, place="mark", gone=True)


@pytest.fixture
async def stores(postgres_url: str) -> AsyncIterator[list[Store]]:
    """Two instances on one database."""
    opened = [await open_test_store(postgres_url, instance_id=name) for name in ("one", "two")]
    yield opened
    for store in opened:
        await store.close()


@dataclass
class Run:
    """Runs of one process after another on the same SQLite file."""

    url: str
    clock: SetClock = field(default_factory=SetClock)

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Store]:
        store = await open_test_store(self.url, clock=self.clock)
        try:
            await with_account(store)
            yield store
        finally:
            await store.close()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(f"sqlite:///{tmp_path / 'mail.db'}")


def written(store: Store) -> list[tuple[Any, ...]]:
    """What stands in the file."""
    with store.database.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text("SELECT failures, synced_ts FROM sync_leases"))]


async def report(store: Store, memory: SyncMemory, tenant_id: str = "acme") -> SyncMemory | None:
    """Have a turn that ends so, and return what was handed on to it."""
    lease = await store.sync_leases.take(tenant_id)
    assert lease is not None
    await store.sync_leases.release(lease, memory)
    return lease.memory


async def test_alone_what_one_run_knew_is_handed_on_to_the_next(run: Run) -> None:
    last = replace(MEMORY, synced_ts=NOW)
    async with run.one() as store:
        assert [await report(store, memory) for memory in (MEMORY, last)] == [None, None]
    async with run.one() as store:
        assert await report(store, last) == last


async def test_alone_what_matters_is_written_at_once_and_all_else_when_it_is_time(run: Run) -> None:
    async with run.one() as store:
        await report(store, SyncMemory(synced_ts=1.0, place="mark"))
        assert written(store) == []
        await report(store, SyncMemory(failures=1, synced_ts=1.0))
        assert written(store) == [(1, 1.0)]
        await report(store, SyncMemory(synced_ts=2.0))
        await report(store, SyncMemory(synced_ts=3.0, quiet_until=NOW + 300))
        await report(store, SyncMemory(synced_ts=4.0, quiet_until=NOW + 301))
        assert written(store) == [(0, 3.0)]
        run.clock.time += 30
        await report(store, SyncMemory(synced_ts=5.0, quiet_until=NOW + 302))
        assert written(store) == [(0, 5.0)]


async def test_alone_nothing_is_kept_of_a_tenant_that_was_deleted(run: Run) -> None:
    async with run.one() as store:
        await report(store, SyncMemory(synced_ts=1.0))
        await store.directory.delete_tenant("acme", force=True)
        await store.sync_leases.close()
        assert written(store) == []


async def test_one_instance_at_a_time_has_the_turn(stores: list[Store]) -> None:
    one, two = stores
    lease = await one.sync_leases.take("acme")
    assert lease is not None
    assert await two.sync_leases.take("acme") is None
    assert await two.sync_leases.take("globex") is not None
    await one.sync_leases.release(lease, MEMORY)
    handed_on = await two.sync_leases.take("acme")
    assert handed_on is not None
    assert handed_on.memory == MEMORY
    assert await one.sync_leases.take("acme") is None


async def test_of_many_who_want_it_at_once_one_gets_it(stores: list[Store]) -> None:
    tenants = [f"t{n}" for n in range(40)]
    one, two = await asyncio.gather(
        *(
            asyncio.gather(*(store.sync_leases.take(tenant_id) for tenant_id in order))
            for store, order in zip(stores, (tenants, tenants[::-1]), strict=True)
        )
    )
    taken = [lease.tenant_id for lease in (*one, *two) if lease is not None]
    assert sorted(taken) == sorted(tenants)


async def test_what_one_has_learnt_itself_is_not_told_to_it(stores: list[Store]) -> None:
    one, _ = stores
    lease = await one.sync_leases.take("acme")
    assert lease is not None
    await one.sync_leases.release(lease, MEMORY)
    again = await one.sync_leases.take("acme")
    assert again is not None
    assert again.memory is None


async def test_the_turn_of_an_instance_that_is_gone_passes_on_without_what_it_had_learnt(stores: list[Store]) -> None:
    one, two = stores
    assert await one.sync_leases.take("acme") is not None
    await two.queue.rescue(["one"], 10)  # which its watch does once the counter stood still for a whole lease
    lease = await two.sync_leases.take("acme")
    assert lease is not None
    await one.queue.beat(NOW)  # it only slept, and comes back
    assert await one.sync_leases.take("acme") is None


async def test_who_has_lost_the_turn_acknowledges_nothing(stores: list[Store]) -> None:
    one, two = stores
    account = await with_account(one)
    await enqueue(one, a_message("M1", account))
    await attempt(one, account, ACCEPTED)
    (event,) = await one.outbox.pending("acme", 10)
    lost = await one.sync_leases.take("acme")
    await two.queue.rescue(["one"], 10)
    lease = await two.sync_leases.take("acme")
    assert not await one.outbox.acknowledge([event.event_id], NOW, lost)
    assert len(await two.outbox.pending("acme", 10)) == 1
    assert lost is not None
    await one.sync_leases.release(lost, MEMORY)  # which changes nothing any more
    assert await one.sync_leases.take("acme") is None
    assert await two.outbox.acknowledge([event.event_id], NOW, lease)
    assert await two.outbox.pending("acme", 10) == []


async def test_a_turn_counts_only_once_it_is_taken_anew(stores: list[Store]) -> None:
    one, _ = stores
    account = await with_account(one)
    await enqueue(one, a_message("M1", account))
    await attempt(one, account, ACCEPTED)
    (event,) = await one.outbox.pending("acme", 10)
    first = await one.sync_leases.take("acme")
    second = await one.sync_leases.take("acme")
    answers = await asyncio.gather(
        *(one.outbox.acknowledge([event.event_id], NOW, lease) for lease in (first, second, None))
    )
    assert answers == [False, True, True]
