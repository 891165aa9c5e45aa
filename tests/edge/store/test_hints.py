"""Hints between instances: sent with the commit, only when there is somebody to hear them, and never needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import psycopg
import pytest

from mail_proxy.domain.tenant import Tenant
from mail_proxy.runtime.clock import SystemClock
from mail_proxy.store.hints import CHANNEL, Hint, understood
from mail_proxy.store.listener import Listener
from mail_proxy.store.store import Store
from tests.support import emptied
from tests.support.stores import a_message, enqueue, open_test_store, with_account

shared_database, postgres_url = emptied.shared_database, emptied.postgres_url


class Heard:
    """What a listener has told so far."""

    def __init__(self) -> None:
        self.calls: list[frozenset[Hint]] = []
        self._news = asyncio.Event()

    async def heed(self, hints: frozenset[Hint]) -> None:
        self.calls.append(hints)
        self._news.set()

    async def until(self, hint: Hint, after: int = 0) -> None:
        """Return once a call after the first few has that hint."""
        with anyio.fail_after(30):
            while not any(hint in hints for hints in self.calls[after:]):
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def listening(store: Store) -> AsyncIterator[Heard]:
    heard = Heard()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Listener(store, heard.heed, SystemClock()).run, lambda: None, name="listener")
        await heard.until(Hint.DIRECTORY)  # with which it begins, whatever was said before
        yield heard
        tasks.cancel_scope.cancel()


@pytest.fixture
async def stores(postgres_url: str) -> AsyncIterator[list[Store]]:
    """Two instances on one database."""
    opened = [await open_test_store(postgres_url, instance_id=name) for name in ("one", "two")]
    yield opened
    for store in opened:
        await store.close()


async def test_what_one_instance_writes_the_other_hears_and_itself_does_not(stores: list[Store]) -> None:
    one, two = stores
    account = await with_account(one)
    async with listening(one) as own, listening(two) as heard:
        await own.until(Hint.HERE)
        assert one.hints.others
        told = len(own.calls)
        await enqueue(one, a_message("M1", account))
        await heard.until(Hint.READY, after=1)
        await one.directory.put_tenant(Tenant("globex"), None)
        await heard.until(Hint.DIRECTORY, after=1)
        await one.hints.run_now()
        await heard.until(Hint.RUN_NOW)
        await two.hints.run_now()
        await own.until(Hint.RUN_NOW)
        assert len(own.calls) == told + 1


async def notified(url: str, work: list[Store], messages: int) -> list[str]:
    """What a listener of the channel gets while an instance enqueues so many messages, one by one."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"LISTEN {CHANNEL}")
        account = await with_account(work[0])
        for n in range(messages):
            await enqueue(work[0], a_message(f"N{n}", account))
        return [notify.payload for notify in connection.notifies(timeout=0.5)]


async def test_an_instance_that_is_alone_sends_no_hints(stores: list[Store], postgres_url: str) -> None:
    assert not stores[0].hints.others
    assert await notified(postgres_url, stores, 5) == []


async def test_that_messages_are_ready_is_told_once_in_a_while(stores: list[Store], postgres_url: str) -> None:
    """Its clock stands still, so that is once."""
    stores[0].hints.others = True
    payloads = await notified(postgres_url, stores, 5)
    assert [payload for payload in payloads if "directory" not in payload] == []  # told with the account just before
    assert payloads.count("one directory") == len(payloads) > 0


async def test_messages_of_which_nothing_was_said_are_told_of_a_little_later(
    stores: list[Store], postgres_url: str
) -> None:
    """However slow commits are: somebody who had looked before they were there looks again."""
    one, two = stores
    account = await with_account(one)
    async with listening(one), listening(two):
        one.hints.others = True
        async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            for n in range(5):
                await enqueue(one, a_message(f"M{n}", account))
            told = 0
            async for notify in connection.notifies(timeout=30):
                told += notify.payload == "one ready"
                if told > 1:  # more than the first
                    break
        assert told > 1


async def test_a_message_for_later_is_no_hint(stores: list[Store], postgres_url: str) -> None:
    one, _ = stores
    account = await with_account(one)
    one.hints.others = True
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"LISTEN {CHANNEL}")
        await enqueue(one, a_message("M1", account, due=1_900_000_000.0))
        await enqueue(one, a_message("M2", account))
        assert [notify.payload for notify in connection.notifies(timeout=0.5)] == ["one ready"]


async def test_a_connection_that_ends_is_replaced_and_what_was_missed_is_looked_for(
    stores: list[Store], postgres_url: str
) -> None:
    one, two = stores
    account = await with_account(one)
    async with listening(two) as heard:
        begun = len(heard.calls)
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            ended = connection.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' OR "
                "(query LIKE 'SELECT EXISTS%' AND datname = current_database() AND pid <> pg_backend_pid())"
            ).fetchone()
        assert ended is not None
        assert ended[0] >= 1
        await heard.until(Hint.DIRECTORY, after=begun)
        one.hints.others = True
        begun = len(heard.calls)
        await enqueue(one, a_message("M1", account))
        await heard.until(Hint.READY, after=begun)


def test_words_of_a_later_version_are_left_out() -> None:
    assert understood("two ready something-new", "one") == {Hint.READY}
    assert understood("one ready", "one") == frozenset()
    assert understood("", "one") == frozenset()
