"""Turns to report to a tenant: one instance at a time, whatever becomes of the others."""  # G9

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mail_proxy.domain.sync_lease import SyncMemory
from mail_proxy.store.store import Store
from tests.conformance.steps import ACCEPTED, NOW, attempt
from tests.support import emptied
from tests.support.stores import a_message, enqueue, open_test_store, with_account

shared_database, postgres_url = emptied.shared_database, emptied.postgres_url

MEMORY = SyncMemory(3, NOW + 8, NOW + 60, NOW - 5)


@pytest.fixture
async def stores(postgres_url: str) -> AsyncIterator[list[Store]]:
    """Two instances on one database."""
    opened = [await open_test_store(postgres_url, instance_id=name) for name in ("one", "two")]
    yield opened
    for store in opened:
        await store.close()


async def test_alone_one_always_has_the_turn(store: Store) -> None:
    for _ in range(2):
        lease = await store.sync_leases.take("acme")
        assert lease is not None
        assert lease.memory is None
        await store.sync_leases.release(lease, MEMORY)


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
