"""A reader of the feed gets every event once and in order, whatever is written and removed meanwhile."""

from __future__ import annotations

import asyncio
import math

import pytest
from sqlalchemy import select, text

from mail_proxy.domain.account import Account
from mail_proxy.store.schema import events
from mail_proxy.store.settle import EVENTS_LOCK
from mail_proxy.store.store import Store
from tests.conformance.steps import ACCEPTED, NOW, attempt
from tests.support.instance import eventually
from tests.support.stores import a_message, enqueue, open_test_store, with_account


async def sent(store: Store, account: Account, *ids: str, now: float = NOW + 2) -> list[int]:
    """Send messages, and return the ids of their events."""
    before = (await store.feed.ends([account.tenant_id]))[account.tenant_id]
    await enqueue(store, *(a_message(id_, account) for id_ in ids))
    await attempt(store, account, ACCEPTED, limit=len(ids), now=now)
    with store.database.engine.connect() as connection:
        mine = select(events.c.event_id).where(events.c.tenant_id == account.tenant_id, events.c.event_id > before)
        return sorted(connection.execute(mine).scalars())


async def feed(store: Store, after: int | None = None, limit: int = 1000, max_chars: int = 1_000_000) -> list[int]:
    stretch = await store.feed.stretch("acme", after, limit, max_chars)
    return [each.event_id for each in stretch.events]


async def limits(store: Store, tenant_id: str = "acme") -> tuple[int, int]:
    stretch = await store.feed.stretch(tenant_id, None, 1, 1)
    assert (await store.feed.ends([tenant_id])) == {tenant_id: stretch.end}
    return stretch.horizon, stretch.end


async def acknowledge(store: Store, *event_ids: int) -> None:
    await store.outbox.acknowledge(event_ids, NOW + 30)


async def test_events_of_one_tenant_follow_each_other_told_or_not(store: Store) -> None:
    account, other = await with_account(store), await with_account(store, "zzz")
    assert await limits(store) == (0, 0)
    first = await sent(store, account, "M1", "M2", "M3")
    theirs = await sent(store, other, "M1")
    second = await sent(store, account, "M4")
    await acknowledge(store, first[1], *second)
    everything = [*first, *second]
    assert await feed(store) == everything
    assert await feed(store, first[1]) == [first[2], *second]
    assert await feed(store, limit=2) == first[:2]
    assert await feed(store, theirs[0]) == second
    assert await feed(store, second[-1]) == []
    assert await feed(store, second[-1] + 1) == []
    assert await store.feed.ends(["acme", "nobody", "zzz"]) == {"acme": second[0], "nobody": 0, "zzz": theirs[0]}


async def test_a_stretch_ends_early_where_entries_are_big(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:  # G11
    monkeypatch.setattr("mail_proxy.store.feed._AT_ONCE", 2)
    account = await with_account(store)
    ids = await sent(store, account, *(f"M{n}" for n in range(7)))
    assert await feed(store, max_chars=1) == ids[:2]
    assert await feed(store, limit=5) == ids[:5]
    assert await feed(store) == ids


async def test_retention_cuts_the_feed_off_and_says_where_it_begins(store: Store) -> None:
    account, other = await with_account(store), await with_account(store, "zzz")
    told = await sent(store, account, "M1", "M2", "M3")
    late = await sent(store, account, "M4", now=NOW + 100)
    theirs = await sent(store, other, "M1")
    await acknowledge(store, told[0], told[2])  # one that is untold stands between two that go
    assert await store.queue.prune(NOW + 50, 100, ()) == 2
    assert await limits(store) == (told[2], late[0])
    assert await feed(store) == late
    assert await feed(store, told[0]) == []  # below the horizon, as its owner is told
    assert [each.event_id for each in await store.outbox.pending("acme", 10)] == [told[1], *late]  # G9
    assert await limits(store, "zzz") == (0, theirs[0])
    await acknowledge(store, told[1], *late)
    assert await store.queue.prune(math.inf, 100, ()) == 2
    assert await limits(store) == (late[0], late[0])  # a cursor at the end is as good as before
    assert await feed(store, late[0]) == []
    assert await feed(store, late[0]) + await sent(store, account, "M5") == await feed(store)


async def test_what_is_removed_by_hand_stays_in_the_feed_until_it_is_old(store: Store) -> None:
    account = await with_account(store)
    ids = await sent(store, account, "M1", "M2", "M3", "M4")
    await acknowledge(store, *ids[:3])
    pks = await store.message_changes.find("acme", ["M1", "M2", "M3", "M4"])
    await store.message_changes.delete([pks["M1"], pks["M4"]], NOW + 3, silent=False)
    assert await store.message_changes.clean([pks["M2"]], math.inf, silent=False) == 1
    assert await feed(store) == ids
    assert await store.queue.prune(NOW + 2, 100, ()) == 0
    assert await store.queue.prune(NOW + 3, 2, ()) == 2  # in chunks: the message and one of what others have left
    assert await store.queue.prune(NOW + 3, 2, ()) == 1
    assert [each.event_id for each in await store.outbox.pending("acme", 10)] == ids[3:]  # G9
    assert await store.queue.prune(NOW + 3, 2, ("acme",)) == 1
    assert await limits(store) == (ids[3], ids[3])


async def test_a_tenant_of_the_same_name_begins_anew(store: Store) -> None:
    account = await with_account(store)
    ids = await sent(store, account, "M1")
    await acknowledge(store, *ids)
    await store.queue.prune(math.inf, 10, ())
    await store.directory.delete_tenant("acme", force=True)
    assert await limits(store) == (0, 0)


async def read(
    store: Store, limit: int, done: asyncio.Event, pause: asyncio.Event | None = None
) -> tuple[list[int], list[range]]:
    """What a reader gets, so many at a time, and which ids it is told to be without.

    After its first page it waits for the end of a pause.
    """
    seen: list[int] = []
    cut: list[range] = []
    after = 0
    while True:
        finished = done.is_set()
        stretch = await store.feed.stretch("acme", after, limit, 1_000_000)
        if after < stretch.horizon:
            cut.append(range(after + 1, stretch.horizon + 1))
            after = stretch.horizon
        elif stretch.events:
            seen += [each.event_id for each in stretch.events]
            after = seen[-1]
            if pause is not None:
                await pause.wait()
        elif finished:
            return seen, cut


async def test_a_reader_sees_each_event_once_or_is_told_while_all_is_going_on(store: Store) -> None:
    account = await with_account(store)
    written: list[int] = []
    done, pause = asyncio.Event(), asyncio.Event()

    async def write() -> None:
        for n in range(30):
            written.extend(await sent(store, account, *(f"M{n}-{k}" for k in range(3)), now=NOW + n))
            await acknowledge(store, *written[-3:-1])
        done.set()

    async def remove() -> None:
        n = removed = 0
        while not (done.is_set() and pause.is_set()):
            if n < len(written) // 3:  # what waits would be cancelled
                pks = await store.message_changes.find("acme", [f"M{n}-0", f"M{n}-1"])
                await store.message_changes.delete(list(pks.values()), NOW + n, silent=False)
                n += 1
            removed += await store.queue.prune(NOW + n - 20, 2, ())
            if removed > 9:
                pause.set()

    readers = asyncio.gather(read(store, 50, done), read(store, 1, done), read(store, 1, done, pause))
    await asyncio.gather(write(), remove(), readers)
    for seen, cut in await readers:
        assert seen == sorted(set(seen))
        missed = {each for told in cut for each in told}
        assert set(seen) == set(written) - missed
    assert cut, "the last one has missed nothing"


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
async def test_an_id_that_was_drawn_early_and_committed_late_is_waited_for(store: Store, store_url: str) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account), a_message("M2", account))
    another = await open_test_store(store_url)
    try:
        with store.database.engine.connect() as slow:
            slow.execute(select(text(f"pg_advisory_xact_lock({EVENTS_LOCK})")))
            drawn = slow.execute(
                text(
                    "INSERT INTO events (tenant_id, message_pk, type, ts, entry) "
                    "VALUES ('acme', 0, 'sent', 0, '{}') RETURNING event_id"
                )
            ).scalar_one()
            quick = asyncio.create_task(attempt(another, account, ACCEPTED, limit=2))
            with store.database.engine.connect() as watching:
                waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                await eventually(lambda: watching.exec_driver_sql(waiting).scalar(), "the other one waits")
            assert await feed(another) == []
            slow.commit()
        await quick
        first, *others = await feed(another)
        assert first == drawn
        assert len(others) == 2
        assert await feed(store, drawn) == others
    finally:
        await another.close()
