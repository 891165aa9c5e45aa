"""A commit goes through, and its answer reaches nobody: nothing happens twice, and nothing is left lying."""  # G4, G5

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from sqlalchemy import Connection, event

from mail_proxy.domain.account import Account
from mail_proxy.domain.claim import Demand
from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.domain.tenant import Tenant
from mail_proxy.store.operation import Transaction
from mail_proxy.store.store import Store
from mail_proxy.store.unanswered import PutBack, Unanswered
from tests.conformance.steps import ACCEPTED, NOW, claim, settle_all
from tests.edge.store.notes import writers_held_up
from tests.support.postgres import PostgresServer
from tests.support.stores import SetClock, a_message, enqueue, open_test_store, with_account


@contextmanager
def answer_lost(store: Store, server: PostgresServer | None = None) -> Iterator[None]:
    """Let the next commit reach the server and cut the connection before its answer; also stop the server, if given."""
    done = False

    def commit_and_cut(connection: Connection) -> None:
        nonlocal done
        if done:
            return
        done = True
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        driver.commit()
        driver.execute("SELECT 1")  # begins anew, so that SQLAlchemy's own commit asks the server
        with socket.socket(fileno=os.dup(driver.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)
        if server is not None:
            server.stop("immediate")

    event.listen(store.database.engine, "commit", commit_and_cut)
    yield
    event.remove(store.database.engine, "commit", commit_and_cut)
    assert done


async def with_messages(store: Store, count: int = 3) -> Account:
    account = await with_account(store)
    await enqueue(store, *(a_message(f"M{n}", account) for n in range(count)))
    return account


async def test_a_claim_is_answered_all_the_same_and_made_once(postgresql_store: Store) -> None:
    store = postgresql_store
    account = await with_messages(store, 5)
    with answer_lost(store):
        claimed = await claim(store, account, 3)
    assert [(c.identity.mail_id, c.attempts) for c in claimed] == [("M0", 1), ("M1", 1), ("M2", 1)]
    rest = await claim(store, account, token="t2")
    assert [c.identity.mail_id for c in rest] == ["M3", "M4"]
    await settle_all(store, claimed, ACCEPTED)


async def test_a_settlement_is_written_once(postgresql_store: Store) -> None:
    store = postgresql_store
    account = await with_messages(store)
    claimed = await claim(store, account)
    with answer_lost(store):
        await settle_all(store, claimed, ACCEPTED)
    assert len(await store.outbox.pending("acme", 10)) == 3
    await settle_all(store, claimed, ACCEPTED)  # the same once more is written already
    assert len(await store.outbox.pending("acme", 10)) == 3


async def test_a_submission_is_stored_once(postgresql_store: Store) -> None:
    store = postgresql_store
    account = await with_account(store)
    with answer_lost(store):
        verdicts = await enqueue(store, a_message("M1", account), a_message("M2", account))
    assert verdicts == ["duplicate", "duplicate"]  # G3
    assert len(await claim(store, account)) == 2


async def test_a_tenant_is_told_to_be_new_so_that_its_key_is_shown(postgres_url: str) -> None:
    clock = SetClock()
    store = await open_test_store(postgres_url, clock=clock)
    with answer_lost(store):
        assert await store.directory.put_tenant(Tenant("acme"), "hash")
    clock.time += 1
    with answer_lost(store):
        assert not await store.directory.put_tenant(Tenant("acme", name="other"), "another hash")
    assert await store.directory.tenant_by_key("hash") is not None
    await store.close()


async def test_what_a_call_claimed_that_failed_is_put_back(postgresql_store: Store, postgres: PostgresServer) -> None:
    store = postgresql_store
    account = await with_messages(store)
    with answer_lost(store, postgres), pytest.raises(StoreUnavailable):
        await claim(store, account)
    with pytest.raises(StoreUnavailable):
        await store.queue.beat(NOW)  # cannot put back yet, and does not forget it
    postgres.start()
    assert await claim(store, account, token="t2") == []
    await store.queue.beat(NOW)
    assert [c.attempts for c in await claim(store, account, token="t3")] == [1, 1, 1]


async def test_a_settlement_that_failed_after_all_counts_when_it_is_tried_again(
    postgresql_store: Store, postgres: PostgresServer
) -> None:
    store = postgresql_store
    claimed = await claim(store, await with_messages(store))
    with answer_lost(store, postgres), pytest.raises(StoreUnavailable):
        await settle_all(store, claimed, ACCEPTED)
    postgres.start()
    await settle_all(store, claimed, ACCEPTED)
    assert len(await store.outbox.pending("acme", 10)) == 3


async def test_what_was_claimed_for_a_cancelled_caller_is_put_back(store: Store) -> None:
    account = await with_messages(store)
    async with writers_held_up(store):
        task = asyncio.create_task(store.queue.claim([Demand(account.pk, 2)], "t1", NOW))
        await asyncio.sleep(0)
        task.cancel()
    await store.database.drained()
    assert task.cancelled()
    assert [c.identity.mail_id for c in await claim(store, account, token="t2")] == ["M2"]
    await store.queue.beat(NOW)
    back = await claim(store, account, token="t3")
    assert [(c.identity.mail_id, c.attempts) for c in back] == [("M0", 1), ("M1", 1)]


async def test_what_was_claimed_for_a_cancelled_caller_is_put_back_when_the_store_is_closed(store_url: str) -> None:
    store = await open_test_store(store_url)
    account = await with_messages(store, 1)
    async with writers_held_up(store):
        task = asyncio.create_task(store.queue.claim([Demand(account.pk, 1)], "t1", NOW))
        await asyncio.sleep(0)
        task.cancel()
    await store.close()
    store = await open_test_store(store_url)
    assert [c.attempts for c in await claim(store, account, token="t2")] == [1]
    await store.close()


async def test_what_was_rescued_for_a_cancelled_caller_can_be_rescued_again(store: Store) -> None:
    account = await with_messages(store)
    claimed = await claim(store, account, 2)
    async with writers_held_up(store):
        task = asyncio.create_task(store.queue.rescue([store.instance_id], 10))
        await asyncio.sleep(0)
        task.cancel()
    await store.database.drained()
    await store.queue.beat(NOW)
    counters = dict(await store.queue.instances())
    assert counters.pop(store.instance_id) == 1
    ((nobody, counter),) = counters.items()
    assert counter == -1  # no instance raises it, so that it counts as dead
    assert list(await store.queue.rescue([nobody], 10)) == claimed


async def test_what_was_taken_as_expired_goes_back_without_touching_its_attempts(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account, expires_ts=NOW))
    (late,) = await store.queue.claim_expired(NOW, 10, "t1")
    with store.database.engine.begin() as connection:
        transaction = Transaction(connection, store.database.dialect)
        PutBack(transaction.dialect).run(transaction, [(store.instance_id, Unanswered(expiries={"t1"}))])
    assert late.attempts == 0
    assert [c.attempts for c in await claim(store, account)] == [1]


async def test_what_was_taken_as_expired_without_an_answer_is_taken_again(postgresql_store: Store) -> None:
    store = postgresql_store
    account = await with_account(store)
    await enqueue(store, a_message("M1", account, expires_ts=NOW))
    with answer_lost(store), pytest.raises(StoreUnavailable):  # run again, it would find nothing and lose it
        await store.queue.claim_expired(NOW, 10, "t1")
    assert await store.queue.claim_expired(NOW, 10, "t2") == ()
    await store.queue.beat(NOW)
    assert [c.attempts for c in await store.queue.claim_expired(NOW, 10, "t3")] == [0]


async def test_what_was_taken_over_without_an_answer_is_taken_over_again(postgresql_store: Store) -> None:
    store = postgresql_store
    claimed = await claim(store, await with_messages(store), 2)
    with answer_lost(store), pytest.raises(StoreUnavailable):
        await store.queue.rescue([store.instance_id], 10)
    await store.queue.beat(NOW)
    (nobody,) = [instance for instance, counter in (await store.queue.instances()).items() if counter == -1]
    assert list(await store.queue.rescue([nobody], 10)) == claimed
