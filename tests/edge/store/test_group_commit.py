"""Many writes, few commits: who shares one, who spoils it, and what becomes of those whose answer is lost."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, event, select, text, update
from sqlalchemy.exc import IntegrityError

from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.store.database import GROUP_ITEMS, GROUP_WEIGHT
from mail_proxy.store.group_commit import RUNS
from mail_proxy.store.operation import Company, Operation, Transaction
from mail_proxy.store.schema import settings
from mail_proxy.store.store import Store
from tests.edge.store.notes import notes, noting, told, writers_held_up
from tests.support.postgres import PostgresServer, StopMode
from tests.support.stores import a_message, enqueue, with_account


@contextmanager
def commits_of(store: Store) -> Iterator[list[Connection]]:
    """Collect the commits that are made meanwhile."""
    seen: list[Connection] = []

    def committed(connection: Connection) -> None:
        seen.append(connection)

    event.listen(store.database.engine, "commit", committed)
    yield seen
    event.remove(store.database.engine, "commit", committed)


def raising(*items: str, error: Callable[[str], BaseException] = ValueError) -> Callable[[str], None]:
    def effect(item: str) -> None:
        if item in items:
            raise error(item)

    return effect


async def outcomes(*writes: Any) -> list[Any]:
    """What each write answered or raised."""
    return await asyncio.gather(*writes, return_exceptions=True)


# -- sharing ---------------------------------------------------------------------------------------------------------


async def test_what_waits_together_is_committed_together(store: Store) -> None:
    operation = noting()
    with commits_of(store) as commits:
        async with writers_held_up(store):
            held_up = len(commits)
            writes = asyncio.ensure_future(outcomes(*(store.database.write(operation, f"n{n}") for n in range(500))))
        answers = await writes
    assert answers == [f"N{n}" for n in range(500)]
    assert len(await notes(store)) == 500
    assert len(commits) - held_up <= 2 + 2  # those that held the writers up, and one or two for the five hundred


async def test_different_operations_share_a_commit(store: Store) -> None:
    account = await with_account(store)
    operation = noting()
    with commits_of(store) as commits:
        async with writers_held_up(store):
            writes = asyncio.ensure_future(
                outcomes(
                    store.database.write(operation, "note"),
                    enqueue(store, a_message("M1", account)),
                    store.queue.beat(1.0),
                )
            )
        assert (await writes)[:2] == ["NOTE", ["queued"]]
    assert len(commits) <= 4


async def test_what_keeps_to_itself_shares_a_commit_only_where_there_is_one_writer(store: Store) -> None:
    ran: list[tuple[Company, int]] = []

    def counted(company: Company) -> Operation[str, str]:
        def run(transaction: Transaction, items: Sequence[str]) -> Sequence[str]:
            ran.append((company, len(items)))
            return items

        return Operation(company.value, run, company=company)

    operations = [counted(company) for company in Company] * 3
    async with writers_held_up(store):
        writes = asyncio.create_task(outcomes(*(store.database.write(each, "x") for each in operations)))
        await asyncio.sleep(0)
    assert await writes == ["x"] * 9
    one_writer = store.database.dialect == "sqlite"
    alone = [(Company.NONE, 3)] if one_writer else [(Company.NONE, 1)] * 3
    assert Counter(ran) == Counter([(Company.ANY, 3), (Company.OWN, 3), *alone])


async def test_what_can_wait_does_not_go_before_what_cannot(postgresql_store: Store) -> None:
    order: list[str] = []

    def told(name: str, company: Company, patience: float) -> Operation[str, str]:
        def run(transaction: Transaction, items: Sequence[str]) -> Sequence[str]:
            order.append(name)
            return items

        return Operation(name, run, company=company, patience=patience)

    database = postgresql_store.database
    patient = asyncio.create_task(database.write(told("patient", Company.OWN, 0.2), "x"))
    await asyncio.sleep(0)
    assert await database.write(told("now", Company.ANY, 0.0), "x") == "x"
    assert order == ["now"]
    assert await patient == "x"
    assert order == ["now", "patient"]


async def test_after_a_deadlock_each_operation_of_a_group_has_a_transaction_of_its_own(
    postgresql_store: Store,
) -> None:
    store = postgresql_store
    runs: list[tuple[str, int]] = []

    def deadlocked(name: str) -> Operation[str, str]:
        def run(transaction: Transaction, items: Sequence[str]) -> Sequence[str]:
            connection = transaction.connection
            runs.append((name, connection.exec_driver_sql("SELECT txid_current()").scalar_one()))
            if len(runs) == 2:  # the second of the group
                connection.execute(text("DO $$ BEGIN RAISE EXCEPTION SQLSTATE '40P01'; END $$"))
            return items

        return Operation(name, run)

    async with writers_held_up(store):
        writes = asyncio.create_task(outcomes(*(store.database.write(deadlocked(name), name) for name in "ab")))
        await asyncio.sleep(0)
    assert await writes == ["a", "b"]
    assert [name for name, _ in runs] == ["a", "b", "a", "b"]
    assert len({transaction for _, transaction in runs}) == 3


async def test_what_was_given_up_meanwhile_has_no_transaction_after_a_deadlock(postgresql_store: Store) -> None:
    store = postgresql_store
    ran: list[str] = []
    given_up = threading.Event()

    def run(name: str) -> Callable[[Transaction, Sequence[str]], Sequence[str]]:
        def once_or_more(transaction: Transaction, items: Sequence[str]) -> Sequence[str]:
            ran.append(name)
            if ran == ["first", "second"]:
                transaction.connection.execute(text("DO $$ BEGIN RAISE EXCEPTION SQLSTATE '40P01'; END $$"))
            if ran == ["first", "second", "first"]:
                assert given_up.wait(10)  # as it waits for whom it met in a circle
            return items

        return once_or_more

    first, second = (Operation(name, run(name)) for name in ("first", "second"))
    async with writers_held_up(store):
        writes = [asyncio.create_task(store.database.write(each, "x")) for each in (first, second)]
        await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable, match="repeat the request"):
        await writes[1]
    given_up.set()
    with pytest.raises(StoreUnavailable):
        await writes[0]  # nor did its own caller wait so long
    await store.database.drained()
    assert ran == ["first", "second", "first"]


async def test_a_heavy_item_is_committed_alone(store: Store) -> None:
    sizes: dict[str, int] = {}

    def weighed(transaction: Transaction, items: Sequence[str]) -> Sequence[str]:
        sizes.update((item, len(items)) for item in items)
        return noting().run(transaction, items)

    operation = Operation("note", weighed, lambda item: GROUP_WEIGHT + 1 if item == "heavy" else 1)
    async with writers_held_up(store):
        names = ["light", "lighter", "heavy", "feather"]
        writes = asyncio.ensure_future(outcomes(*(store.database.write(operation, name) for name in names)))
    assert await writes == [name.upper() for name in names]
    assert sizes == {"light": 2, "lighter": 2, "heavy": 1, "feather": 1}


async def test_a_group_is_bounded(store: Store) -> None:
    sizes: list[int] = []

    def count(_transaction: Transaction, items: Sequence[int]) -> Sequence[int]:
        sizes.append(len(items))
        return items

    operation = Operation("count", count, lambda _item: GROUP_WEIGHT // 100)
    async with writers_held_up(store):
        writes = asyncio.ensure_future(outcomes(*(store.database.write(operation, n) for n in range(250))))
    assert await writes == list(range(250))
    assert max(sizes) == 100

    sizes.clear()
    light = Operation("count", count)
    async with writers_held_up(store):
        writes = asyncio.ensure_future(outcomes(*(store.database.write(light, n) for n in range(GROUP_ITEMS + 5))))
    assert await writes == list(range(GROUP_ITEMS + 5))
    assert max(sizes) <= GROUP_ITEMS


# -- spoiling --------------------------------------------------------------------------------------------------------


async def test_an_item_that_fails_spoils_only_itself(store: Store) -> None:
    operation = noting(raising("n3", "n7"))
    async with writers_held_up(store):
        writes = asyncio.ensure_future(outcomes(*(store.database.write(operation, f"n{n}") for n in range(10))))
    answers = await writes
    failed = [n for n, answer in enumerate(answers) if isinstance(answer, ValueError)]
    assert failed == [3, 7]
    expected = [f"n{n}" for n in range(10) if n not in failed]
    assert await notes(store) == expected
    assert await told(store) == expected  # nor are the events of the failed ones written
    assert store.database.available


async def test_an_item_that_the_database_refuses_spoils_only_itself(store: Store) -> None:
    operation = noting()
    await store.database.write(operation, "n1")
    async with writers_held_up(store):
        writes = asyncio.ensure_future(outcomes(*(store.database.write(operation, f"n{n}") for n in range(3))))
    first, second, third = await writes
    assert (first, third) == ("N0", "N2")
    assert isinstance(second, IntegrityError)
    assert await notes(store) == ["n0", "n1", "n2"]
    assert await told(store) == ["n0", "n1", "n2"]


async def test_one_operation_that_fails_does_not_take_the_others_apart(store: Store) -> None:
    runs: list[int] = []

    def count(_transaction: Transaction, items: Sequence[int]) -> Sequence[int]:
        runs.append(len(items))
        return items

    counting = Operation("count", count)
    async with writers_held_up(store):
        writes = asyncio.ensure_future(
            outcomes(
                *(store.database.write(counting, n) for n in range(100)),
                store.database.write(noting(raising("bad")), "bad"),
            )
        )
    *counted, failure = await writes
    assert counted == list(range(100))
    assert isinstance(failure, ValueError)
    assert runs == [100, 100]


async def test_a_single_item_that_fails_leaves_nothing(store: Store) -> None:
    with pytest.raises(ValueError, match="bad"):
        await store.database.write(noting(raising("bad")), "bad")
    assert await notes(store) == []
    assert await store.database.write(noting(), "good") == "GOOD"


class Bang(BaseException):
    """Not one that is usually caught."""


@pytest.mark.parametrize(("error", "raised"), [(Bang, Bang), (StopIteration, RuntimeError), (MemoryError, MemoryError)])
async def test_whatever_is_raised_reaches_its_caller_and_the_writer_goes_on(
    store: Store, error: type[BaseException], raised: type[BaseException]
) -> None:
    for _ in range(4):  # more often than there are writers
        with pytest.raises(raised, match="bad"):
            await store.database.write(noting(raising("bad", error=error)), "bad")
    assert await store.database.write(noting(), "good") == "GOOD"
    assert await notes(store) == ["good"]


async def test_an_operation_that_answers_too_little_fails_and_does_not_hang(store: Store) -> None:
    def forgetful(_transaction: Transaction, items: Sequence[int]) -> Sequence[int]:
        return items[1:]

    with pytest.raises(ValueError, match="shorter"):
        await store.database.write(Operation("forgetful", forgetful), 1)


async def test_what_a_cancelled_caller_asked_for_is_written_and_the_others_are_answered(store: Store) -> None:
    operation = noting()
    async with writers_held_up(store):
        tasks = [asyncio.create_task(store.database.write(operation, f"n{n}")) for n in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
    assert await outcomes(tasks[0], tasks[2]) == ["N0", "N2"]
    assert tasks[1].cancelled()
    assert await notes(store) == ["n0", "n1", "n2"]


async def test_the_failure_of_a_cancelled_caller_is_nobodys(store: Store) -> None:
    operation = noting(raising("n1"))
    async with writers_held_up(store):
        tasks = [asyncio.create_task(store.database.write(operation, f"n{n}")) for n in range(2)]
        await asyncio.sleep(0)
        tasks[1].cancel()
    assert await tasks[0] == "N0"
    assert await notes(store) == ["n0"]


# -- ending ----------------------------------------------------------------------------------------------------------


async def test_closing_finishes_what_was_handed_over_and_takes_nothing_more(store: Store) -> None:
    database = store.database
    writes = [asyncio.create_task(database.write(noting(), f"n{n}")) for n in range(200)]
    await asyncio.sleep(0)
    closing = asyncio.create_task(database.close())
    await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable, match="closed"):
        await database.write(noting(), "late")
    assert await outcomes(*writes) == [f"N{n}" for n in range(200)]
    await closing
    with pytest.raises(StoreUnavailable, match="closed"):
        await database.write(noting(), "later")
    with pytest.raises(StoreUnavailable, match="closed"):
        await notes(store)


# -- a database that comes and goes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_every_write_during_a_restart_is_stored_or_refused(
    postgresql_store: Store, postgres: PostgresServer, mode: StopMode
) -> None:
    store = postgresql_store
    account = await with_account(store)
    stored: set[str] = set()
    refused: set[str] = set()
    under_way, restarted = asyncio.Event(), asyncio.Event()

    async def submit(client: int) -> None:
        for n in range(100_000):
            id_ = f"{client}-{n}"
            try:
                assert await enqueue(store, a_message(id_, account)) in (["queued"], ["duplicate"])
                stored.add(id_)
                if len(stored) > 100:
                    under_way.set()
                if restarted.is_set():
                    return
            except StoreUnavailable:
                refused.add(id_)
                await asyncio.sleep(0.01)

    clients = [asyncio.create_task(submit(client)) for client in range(20)]
    await under_way.wait()
    await asyncio.to_thread(postgres.restart, mode)
    restarted.set()
    await asyncio.gather(*clients)

    assert store.database.available
    again = dict.fromkeys(stored, "stored") | dict.fromkeys(refused, "refused")
    verdicts = await enqueue(store, *(a_message(id_, account) for id_ in again))
    outcome = set(zip(again.values(), verdicts, strict=True))
    assert outcome <= {("stored", "duplicate"), ("refused", "duplicate"), ("refused", "queued")}  # G1, G3
    assert await store.queue.count_pending() == len(again)


async def test_reads_and_writes_say_at_once_that_the_database_is_away_and_go_on_when_it_is_back(
    postgresql_store: Store, postgres: PostgresServer
) -> None:
    store = postgresql_store
    assert await store.database.write(noting(), "before") == "BEFORE"
    assert await notes(store) == ["before"]
    await asyncio.to_thread(postgres.stop)
    loop = asyncio.get_running_loop()
    started = loop.time()
    with pytest.raises(StoreUnavailable, match="cannot be used now"):  # G12
        await store.database.write(noting(), "meanwhile")
    with pytest.raises(StoreUnavailable, match="cannot be used now"):
        await notes(store)
    assert loop.time() - started < 5
    assert not store.database.available
    await asyncio.to_thread(postgres.start)
    assert await notes(store) == ["before"]
    assert await store.database.write(noting(), "after") == "AFTER"
    assert store.database.available


async def test_a_lost_connection_is_not_noticed_by_readers_and_writers(
    postgresql_store: Store, postgres_url: str
) -> None:
    await notes(postgresql_store)
    with psycopg.connect(postgres_url, autocommit=True) as other:
        for n in range(3):
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            assert len(await notes(postgresql_store)) == n
            assert await postgresql_store.database.write(noting(), f"n{n}") == f"N{n}"


# -- running again -----------------------------------------------------------------------------------------------------


async def test_two_writers_in_each_others_way_both_come_through(postgresql_store: Store) -> None:
    store = postgresql_store
    for name in ("a", "b"):
        await store.database.write(noting(), name)
    both_hold_one = threading.Barrier(2)
    runs: list[str] = []

    def crosswise(transaction: Transaction, items: Sequence[tuple[str, str]]) -> Sequence[str]:
        ((first, second),) = items
        runs.append(first)
        transaction.connection.execute(text("SET LOCAL deadlock_timeout = '10ms'"))
        for name in (first, second):
            note = update(settings).where(settings.c.name == name)
            transaction.connection.execute(note.values(value=settings.c.value + first))
            if name == first and runs.count(first) == 1:
                both_hold_one.wait(10)
        return [first]

    operation = Operation("crosswise", crosswise, lambda _item: GROUP_WEIGHT)  # each in a group of its own
    writes = [store.database.write(operation, names) for names in (("a", "b"), ("b", "a"))]
    assert await asyncio.gather(*writes) == ["a", "b"]
    assert len(runs) > 2  # one of them was run again
    value = select(settings.c.value).where(settings.c.name == "a")
    assert await store.database.read(lambda c: c.execute(value).scalar()) in ("notedab", "notedba")


@pytest.mark.parametrize("state", ["40001", "40P01"])
async def test_a_group_is_run_again_when_the_database_asks_for_it(postgresql_store: Store, state: str) -> None:
    runs = 0

    def unlucky(transaction: Transaction, items: Sequence[str]) -> Sequence[str]:
        nonlocal runs
        runs += 1
        answers = noting().run(transaction, items)
        if runs < RUNS:
            transaction.connection.execute(text(f"DO $$ BEGIN RAISE EXCEPTION SQLSTATE '{state}'; END $$"))
        return answers

    assert await postgresql_store.database.write(Operation("unlucky", unlucky), "note") == "NOTE"
    assert runs == RUNS
    assert await told(postgresql_store) == ["note"]


async def test_a_database_that_always_asks_for_it_counts_as_away(postgresql_store: Store) -> None:
    def hopeless(transaction: Transaction, items: Sequence[str]) -> Sequence[str]:
        transaction.connection.execute(text("DO $$ BEGIN RAISE EXCEPTION SQLSTATE '40001'; END $$"))
        return items

    with pytest.raises(StoreUnavailable, match="gives up every transaction"):
        await postgresql_store.database.write(Operation("hopeless", hopeless), "note")
