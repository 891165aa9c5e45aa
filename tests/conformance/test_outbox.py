"""Events wait for their tenants, in order, until they are acknowledged, on every database."""  # G9

from __future__ import annotations

import asyncio

from mail_proxy.domain.message import Details
from mail_proxy.domain.recipient import RecipientKind
from mail_proxy.domain.report import EventType, StoredEvent
from mail_proxy.domain.sync_lease import SyncMemory, Waiting
from mail_proxy.store.store import Store
from tests.conformance.steps import ACCEPTED, LATER, NOW, REFUSED, attempt, claim, settle_all
from tests.support.stores import a_message, enqueue, open_test_store, with_account


def ids(events: list[StoredEvent]) -> list[int]:
    return [event.event_id for event in events]


async def pending(store: Store, tenant_id: str = "acme", limit: int = 100, after: int = 0) -> list[StoredEvent]:
    return list(await store.outbox.pending(tenant_id, limit, after))


async def details(store: Store, id_: str, tenant_id: str = "acme") -> Details:
    found = await store.archive.message(tenant_id, id_)
    assert found is not None
    return found


async def test_events_come_in_the_order_in_which_they_happened(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, *(a_message(f"M{n}", account) for n in range(5)))
    for claimed in reversed(await claim(store, account)):
        await settle_all(store, [claimed], ACCEPTED)
    events = await pending(store)
    assert [event.event.message_pk for event in events] == sorted((e.event.message_pk for e in events), reverse=True)
    assert ids(events) == sorted(ids(events))


async def test_an_event_is_told_as_it_was_written(store: Store) -> None:
    account = await with_account(store)
    people = (("ok@example.net", RecipientKind.TO), ("gone@example.net", RecipientKind.CC))
    fields = '{"id":"M1","metadata":{"order":"№ 7 \\"quoted\\" \\\\ \\u0000"}}'
    await enqueue(store, a_message("M1", account, recipients=people, fields=fields, batch_code="spring"))
    (claimed,) = await claim(store, account)
    await settle_all(store, [claimed], ACCEPTED, REFUSED)
    (stored,) = await pending(store)
    assert stored.event.tenant_id == "acme"
    assert stored.event.message_pk == claimed.pk
    assert (stored.event.type, stored.event.ts) == (EventType.SENT, NOW + 2)
    assert '"metadata":{"order":"№ 7 \\"quoted\\" \\\\ \\u0000"}' in stored.event.entry
    assert '"code":550' in stored.event.entry


async def test_a_tenants_events_are_taken_a_few_at_a_time_from_any_place_on(store: Store) -> None:
    account = await with_account(store)
    others = [await with_account(store, tenant_id) for tenant_id in ("aaa", "acme2", "zzz")]
    await enqueue(store, *(a_message(f"M{n}", each) for n in range(4) for each in (account, *others)))
    for each in (others[0], account, *others[1:]):
        await attempt(store, each, ACCEPTED)
    events = await pending(store)
    assert len(events) == 4
    assert all(event.event.tenant_id == "acme" for event in events)
    assert ids(await pending(store, limit=2)) == ids(events)[:2]
    assert ids(await pending(store, limit=2, after=events[1].event_id)) == ids(events)[2:]
    assert ids(await pending(store, limit=2, after=events[0].event_id)) == ids(events)[1:3]
    assert await pending(store, after=events[3].event_id) == []
    assert await pending(store, "nobody") == []
    assert len(await pending(store, "zzz")) == 4


async def test_what_is_acknowledged_is_not_told_again(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, *(a_message(f"M{n}", account) for n in range(4)))
    await attempt(store, account, ACCEPTED)
    first, second, third, fourth = await pending(store)
    await store.outbox.acknowledge(ids([third, first]), NOW + 3)
    assert ids(await pending(store)) == ids([second, fourth])
    assert (await details(store, "M0")).reported_ts == NOW + 3
    assert (await details(store, "M1")).reported_ts is None


async def test_a_message_counts_as_reported_once_nothing_of_it_is_left_to_report(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account))
    await attempt(store, account, LATER)
    (deferred,) = await pending(store)
    await store.queue.promote(NOW + 1_000, 10)
    await attempt(store, account, ACCEPTED, now=NOW + 900)
    deferred, sent = await pending(store)
    assert (deferred.event.type, sent.event.type) == (EventType.DEFERRED, EventType.SENT)

    await store.outbox.acknowledge([sent.event_id], NOW + 901)
    assert (await details(store, "M1")).reported_ts is None
    assert await store.queue.prune(NOW + 2_000, 10, ()) == 0
    await store.outbox.acknowledge([deferred.event_id], NOW + 902)
    assert (await details(store, "M1")).reported_ts == NOW + 902
    assert await store.queue.prune(NOW + 2_000, 10, ()) == 1


async def test_an_unfinished_message_is_not_reported_by_the_acknowledgement_of_its_delay(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account))
    await attempt(store, account, LATER)
    await store.outbox.acknowledge(ids(await pending(store)), NOW + 3)
    assert (await details(store, "M1")).reported_ts is None
    await store.queue.promote(NOW + 1_000, 10)
    await attempt(store, account, ACCEPTED, now=NOW + 900)
    (sent,) = await pending(store)
    await store.outbox.acknowledge([sent.event_id], NOW + 901)
    assert (await details(store, "M1")).reported_ts == NOW + 901


async def test_a_second_acknowledgement_changes_nothing(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account))
    await attempt(store, account, ACCEPTED)
    (event,) = await pending(store)
    await store.outbox.acknowledge([event.event_id], NOW + 3)
    await store.outbox.acknowledge([event.event_id, 4711], NOW + 4)
    await store.outbox.acknowledge([], NOW + 5)
    history = await store.archive.history("acme", "M1")
    assert history is not None
    assert [past.reported_ts for past in history] == [None, NOW + 3]
    assert (await details(store, "M1")).reported_ts == NOW + 3


async def test_acknowledgements_handed_over_together_are_all_made(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, *(a_message(f"M{n}", account) for n in range(30)))
    await attempt(store, account, ACCEPTED, limit=30)
    events = await pending(store)
    await asyncio.gather(*(store.outbox.acknowledge([event.event_id], NOW + 3) for event in events[:-1]))
    assert ids(await pending(store)) == ids(events[-1:])


async def test_only_tenants_with_something_to_tell_are_named_with_what_is_known_of_them(store: Store) -> None:
    accounts = [await with_account(store, tenant_id) for tenant_id in ("a", "b", "c")]
    assert list(await store.outbox.tenants_with_events()) == []
    for account in accounts[1:]:
        await enqueue(store, a_message("M1", account))
        await attempt(store, account, ACCEPTED)
    assert sorted(each.tenant_id for each in await store.outbox.tenants_with_events()) == ["b", "c"]
    lease = await store.sync_leases.take("c")
    assert lease is not None
    memory = SyncMemory(failures=2, retry_at=NOW + 8, place="mark", gone=True)
    await store.sync_leases.release(lease, memory)
    by_tenant = {each.tenant_id: each for each in await store.outbox.tenants_with_events()}
    assert by_tenant["c"] == Waiting("c", (await pending(store, "c"))[0].event.ts, memory)
    await store.outbox.acknowledge(ids(await pending(store, "b")), NOW)
    assert [each.tenant_id for each in await store.outbox.tenants_with_events()] == ["c"]


async def test_a_reader_that_goes_on_from_the_last_event_misses_none_of_concurrent_writers(postgres_url: str) -> None:
    ours, theirs = await open_test_store(postgres_url), await open_test_store(postgres_url)
    account = await with_account(ours)
    await enqueue(ours, *(a_message(f"M{n}", account) for n in range(300)))
    claims = await claim(ours, account, 300)
    stores = (ours, theirs)

    async def settle_some(n: int) -> None:
        for claimed in claims[n::12]:
            await settle_all(stores[n % 2], [claimed], ACCEPTED)

    writers = asyncio.gather(*(settle_some(n) for n in range(12)))
    seen: list[int] = []
    while len(seen) < 300:
        finished = writers.done()
        new = await pending(theirs, limit=50, after=seen[-1] if seen else 0)
        assert new or not finished, "an event became visible below one that was read before"
        seen += ids(new)
    await writers
    assert seen == ids(await pending(ours, limit=1_000))
    await theirs.close()
    await ours.close()
