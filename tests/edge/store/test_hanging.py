"""A database that does not answer: callers hear of it in time, and nothing that was given up does harm later."""  # G12

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from unittest import mock

import psycopg
import pytest
from sqlalchemy import Connection, event, make_url, text

from mail_proxy.domain.account import Hold
from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.domain.tenant import Tenant
from mail_proxy.store import line, watch
from mail_proxy.store.database import GROUP_WEIGHT, READERS
from mail_proxy.store.operation import Operation, Transaction
from mail_proxy.store.store import Store
from mail_proxy.store.unanswered import TIMES
from tests.conformance.steps import ACCEPTED, NOW, claim, settle_all
from tests.edge.store.notes import notes, noting, writers_held_up
from tests.support.stalling_proxy import StallingProxy
from tests.support.stores import a_message, enqueue, open_test_store, with_account

PATIENCE = 0.3


def test_callers_wait_for_less_than_five_seconds() -> None:
    assert line.ANSWER_WITHIN + line.LOOK_EVERY < 5  # G12


@contextmanager
def impatience() -> Iterator[None]:
    """Callers that wait less, so that the tests do."""
    with mock.patch.object(line, "ANSWER_WITHIN", PATIENCE), mock.patch.object(line, "LOOK_EVERY", 0.02):
        yield


@contextmanager
def commits_that_hang(store: Store) -> Iterator[threading.Event]:
    """Let each commit wait for an event that it is given, as for a disk; it is set at the end of the block."""
    go_on = threading.Event()

    def wait(_connection: Connection) -> None:
        go_on.wait()

    event.listen(store.database.engine, "commit", wait)
    try:
        with impatience():
            yield go_on
    finally:
        go_on.set()  # the listener stays: it may be running at this moment


@asynccontextmanager
async def impatient_while_held_up(store: Store) -> AsyncIterator[None]:
    """Keep the writers busy for longer than anybody waits."""
    with impatience():
        async with writers_held_up(store, answered=False):
            yield


# -- callers ---------------------------------------------------------------------------------------------------------


async def test_who_waits_for_a_commit_that_hangs_is_told_and_so_is_who_comes_after(store: Store) -> None:
    with commits_that_hang(store) as go_on:
        first = [asyncio.create_task(store.database.write(noting(), f"n{n}")) for n in range(3)]
        for write in first:
            with pytest.raises(StoreUnavailable, match="does not answer"):
                await write
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await store.database.write(noting(), "later")
        assert not store.database.available
        assert await store.problems() == ["The last write failed: the database does not answer."]
        go_on.set()
        await store.database.drained()
    assert set(await notes(store)) >= {"n0"}  # it was taken up, and is done all the same
    assert await store.problems() == []
    assert await store.database.write(noting(), "after") == "AFTER"


async def test_what_was_given_up_while_it_waited_is_never_done(store: Store) -> None:
    done: list[str] = []
    async with impatient_while_held_up(store):
        for n in range(3):
            with pytest.raises(StoreUnavailable, match="nothing was stored"):
                await store.database.write(noting(done.append), f"n{n}")
    assert await store.database.write(noting(done.append), "after") == "AFTER"
    assert done == ["after"]
    assert await notes(store) == ["after"]


async def test_a_line_is_as_long_as_its_callers_wait_and_bounded_before(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "LINE_WEIGHT", 1000)
    lengths: list[int] = []
    async with impatient_while_held_up(store):
        for _ in range(3):
            writes = [store.database.write(noting(weight=100), f"n{n}") for n in range(50)]
            refused = await asyncio.gather(*writes, return_exceptions=True)
            assert all(isinstance(each, StoreUnavailable) for each in refused)
            lengths.append(sum("too much waits" in str(each) for each in refused))
            assert len(store.database._writes) == 0  # noqa: SLF001 - what is kept in memory
        with pytest.raises(StoreUnavailable, match="does not answer"):  # the first has room, however heavy
            await store.database.write(noting(weight=5000), "heavy")
    assert lengths == [40, 40, 40]


async def test_who_reads_what_hangs_is_told_and_readers_come_back(store: Store) -> None:
    go_on = threading.Event()
    looked: list[int] = []

    def look(n: int) -> None:
        looked.append(n)
        go_on.wait()

    with impatience():
        hanging = [asyncio.create_task(store.database.read(lambda _c, n=n: look(n))) for n in range(50)]  # type: ignore[misc]
        for read in hanging:
            with pytest.raises(StoreUnavailable, match="does not answer"):
                await read
        assert await store.problems() == ["The store cannot be read: the database does not answer."]
    go_on.set()
    assert await notes(store) == []
    assert sorted(looked) == [0, 1, 2, 3]  # the others had left by then
    assert await store.problems() == []


async def test_a_store_closes_although_its_database_hangs(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mail_proxy.store.database.STUCK_AFTER", -4.9)
    store = await open_test_store(sqlite_url)
    with commits_that_hang(store):
        with pytest.raises(StoreUnavailable):
            await store.database.write(noting(), "n")
        writer = next(thread for thread in threading.enumerate() if thread.name == "store-writer-0")
        await store.close()
        assert writer.is_alive()
    await asyncio.to_thread(writer.join)


# -- verb by verb: given up, and then committed ------------------------------------------------------------------------


@contextmanager
def given_up(store: Store) -> Iterator[None]:
    """What is called in the block is given up by its caller, and committed when the block ends."""
    with commits_that_hang(store), pytest.raises(StoreUnavailable, match="does not answer"):
        yield


async def test_a_submission_that_was_given_up_is_found_when_it_is_repeated(store: Store) -> None:
    account = await with_account(store)
    with given_up(store):
        await enqueue(store, a_message("M1", account))
    assert await enqueue(store, a_message("M1", account)) == ["duplicate"]  # G3
    assert await store.queue.count_pending() == 1


async def test_a_claim_that_was_given_up_is_put_back_with_its_attempt(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account))
    with given_up(store):
        await claim(store, account)
    await store.database.drained()
    await store.queue.beat(NOW)
    assert [c.attempts for c in await claim(store, account, token="t2")] == [1]


async def test_a_claim_that_is_committed_only_after_it_was_put_back_is_put_back_again(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account))
    async with writers_held_up(store):
        task = asyncio.create_task(claim(store, account, token="t1"))
        await asyncio.sleep(0)
        task.cancel()
    await store.database.drained()
    with store.database.engine.begin() as connection:  # as if the commit were still on its way
        late = connection.execute(text("SELECT attempts, token, instance_id FROM messages")).one()
        connection.execute(text("UPDATE messages SET state = 'ready', token = NULL, attempts = 0, instance_id = NULL"))
    await store.queue.beat(NOW)
    with store.database.engine.begin() as connection:
        values = dict(zip(("a", "t", "i"), late, strict=True))
        connection.execute(
            text("UPDATE messages SET state = 'sending', attempts = :a, token = :t, instance_id = :i"), values
        )
    await store.queue.beat(NOW)
    assert [c.attempts for c in await claim(store, account, token="t2")] == [1]
    for _ in range(TIMES):  # what was claimed since is left alone, and the token forgotten in the end
        await store.queue.beat(NOW)
    assert await claim(store, account, token="t3") == []


async def test_a_settlement_that_was_given_up_is_written_once(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account), a_message("M2", account))
    claimed = await claim(store, account)
    with given_up(store):
        await settle_all(store, claimed, ACCEPTED)
    await settle_all(store, claimed, ACCEPTED)
    assert len(await store.outbox.pending("acme", 10)) == 2


async def test_a_release_that_was_given_up_gives_one_attempt_back(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account))
    claimed = await claim(store, account)
    with given_up(store):
        await store.queue.release(claimed)
    await store.queue.release(claimed)
    assert [c.attempts for c in await claim(store, account, token="t2")] == [1]


async def test_what_was_taken_as_expired_and_given_up_is_taken_again(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account, expires_ts=NOW))
    with given_up(store):
        await store.queue.claim_expired(NOW, 10, "t1")
    await store.database.drained()
    await store.queue.beat(NOW)
    assert [c.attempts for c in await store.queue.claim_expired(NOW, 10, "t2")] == [0]


async def test_acknowledging_and_promoting_can_be_repeated(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account), a_message("M2", account, due=NOW - 1))
    await settle_all(store, await claim(store, account), ACCEPTED)
    events = [each.event_id for each in await store.outbox.pending("acme", 10)]
    with given_up(store):
        await store.outbox.acknowledge(events, NOW)
    with given_up(store):
        await store.queue.promote(NOW, 10)
    await store.outbox.acknowledge(events, NOW)
    await store.queue.promote(NOW, 10)
    await store.database.drained()
    assert await store.outbox.pending("acme", 10) == []
    assert list(await store.queue.ready_accounts()) == [account.pk]  # found by the next look at the queue


async def test_a_tenants_key_that_nobody_was_told_is_replaced_when_the_request_is_repeated(store: Store) -> None:
    with given_up(store):
        await store.directory.put_tenant(Tenant("acme"), "never told")
    assert await store.directory.put_tenant(Tenant("acme"), "told")
    assert not await store.directory.put_tenant(Tenant("acme", name="Acme"), "another")
    assert await store.directory.tenant_by_key("never told") is None
    keyed = await store.directory.tenant_by_key("told")
    assert keyed is not None
    assert keyed.tenant.name == "Acme"


async def test_a_change_of_the_directory_that_was_given_up_is_seen(store: Store) -> None:
    account = await with_account(store)
    with given_up(store):
        await store.directory.set_hold(account.pk, Hold("refused", NOW))
    await store.database.drained()
    await store.directory.refresh()
    held = await store.directory.account(account.pk)
    assert held is not None
    assert held.hold is not None
    assert await enqueue(store, a_message("M1", account)) == ["queued"]  # and not Stale for ever


# -- a line to PostgreSQL that swallows everything ---------------------------------------------------------------------


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[StallingProxy]:
    with StallingProxy(make_url(postgres_url).port or 0).running() as proxy:
        yield proxy


async def all_at_work(store: Store) -> None:
    """Return once every writer and every reader has had a connection at the same time."""
    met = threading.Barrier(READERS)
    async with writers_held_up(store):
        await asyncio.gather(*(store.database.read(lambda _connection: met.wait()) for _ in range(READERS)))


@pytest.fixture
async def behind_proxy(
    proxy: StallingProxy, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Store]:
    """A store that reaches PostgreSQL through the proxy, and soon cuts what hangs."""
    url = make_url(postgres_url).set(port=proxy.port).render_as_string(hide_password=False)
    store = await open_test_store(url)
    await all_at_work(store)
    monkeypatch.setattr(line, "ANSWER_WITHIN", 1.0)
    monkeypatch.setattr(watch, "STUCK_AFTER", 1.5)
    yield store
    proxy.resume()
    await store.close()


async def test_writers_and_readers_come_back_from_connections_that_stay_silent(
    behind_proxy: Store, proxy: StallingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = behind_proxy
    proxy.stall()
    calls = [
        *(store.database.write(noting(weight=GROUP_WEIGHT), f"n{n}") for n in range(4)),
        *(notes(store) for _ in range(8)),
    ]
    assert {type(each) for each in await asyncio.gather(*calls, return_exceptions=True)} == {StoreUnavailable}
    assert await store.problems()
    proxy.silence_for_good()  # those connections never say a word again; new ones are served
    while await store.problems():
        with suppress(StoreUnavailable):
            await store.queue.beat(NOW)
    found = None
    while found is None:
        with suppress(StoreUnavailable):
            found = await notes(store)
    assert found == []  # what was given up was never begun
    monkeypatch.undo()
    await all_at_work(store)


async def test_a_commit_without_an_answer_is_not_made_a_second_time(behind_proxy: Store, proxy: StallingProxy) -> None:
    store = behind_proxy
    runs: list[str] = []

    def run(item: str) -> None:
        runs.append(item)
        proxy.keep_answers_from(b"COMMIT")

    with pytest.raises(StoreUnavailable, match="repeat the request"):
        await store.database.write(noting(run), "n0")
    proxy.silence_for_good()
    await store.database.drained()
    assert runs == ["n0"]
    assert await notes(store) == ["n0"]  # it had gone through
    assert await store.database.write(noting(), "after") == "AFTER"


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_connections_that_were_cut_leave_no_descriptors(postgres_url: str, proxy: StallingProxy) -> None:
    url = make_url(postgres_url).set(port=proxy.port).render_as_string(hide_password=False)

    async def opened_cut_and_closed() -> int:
        store = await open_test_store(url)
        proxy.cut()
        await store.queue.beat(NOW)
        await store.close()
        await asyncio.to_thread(proxy.wait_until_left)
        return open_descriptors()

    before = await opened_cut_and_closed()
    assert [await opened_cut_and_closed() for _ in range(3)] == [before] * 3


async def test_a_session_that_was_cut_off_gives_its_locks_up(postgresql_store: Store) -> None:
    timeout = await postgresql_store.database.read(
        lambda c: c.execute(text("SHOW idle_in_transaction_session_timeout")).scalar()
    )
    assert timeout == "10s"

    def asleep(transaction: Transaction, items: Sequence[str]) -> Sequence[str]:
        transaction.connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = '1ms'"))
        with psycopg.connect(postgresql_store.database.url.render_as_string(hide_password=False)) as other:
            while (
                not items[0].isupper()
                and other.execute(  # until the server has ended the session
                    "SELECT 1 FROM pg_stat_activity WHERE state = 'idle in transaction' AND pid <> pg_backend_pid()"
                ).fetchone()
            ):
                pass
        transaction.connection.execute(text("SELECT 1"))
        return items

    with pytest.raises(StoreUnavailable):
        await postgresql_store.database.write(Operation("asleep", asleep), "x")
    assert await postgresql_store.database.write(noting(), "after") == "AFTER"
