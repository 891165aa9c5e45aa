"""Two writers want the same messages, in any order: one waits for the other, and none is undone."""  # G11

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from sqlalchemy import Connection, event, text

from mail_proxy.store.store import Store
from tests.conformance.steps import ACCEPTED, NOW, REFUSED, claim, settle_all
from tests.support.instance import eventually
from tests.support.stores import a_message, enqueue, open_test_store, with_account

MESSAGES, ROUNDS, AT_ONCE = 40, 10, 60


def deadlocks(connection: Connection) -> int:
    """How many transactions of this database were undone because each of two waited for the other."""
    count = text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    return int(connection.execute(count).scalar_one())


async def test_changes_of_the_same_messages_wait_for_one_another(postgresql_store: Store) -> None:
    store, rng = postgresql_store, Random(7)
    account = await with_account(store)
    before = await store.database.read(deadlocks)  # of the tests that had this database before
    ids = [f"M{n}" for n in range(MESSAGES)]
    await enqueue(store, *(a_message(id_, account) for id_ in ids))
    claims = await claim(store, account, MESSAGES)
    await settle_all(store, claims[::2], REFUSED)
    await settle_all(store, claims[1::4], ACCEPTED)

    async def change() -> Any:
        some = rng.sample(ids, 10)
        pks = list((await store.message_changes.find("acme", some)).values())
        match rng.choice(["submit", "submit", "submit", "delete", "retry", "clean up", "tell", "release"]):
            case "submit":
                new = [a_message(id_, account, digest=f"content {rng.randrange(3)}") for id_ in some]
                await enqueue(store, *new)
            case "delete":
                await store.message_changes.delete(pks, NOW + 10, silent=False)
            case "retry":
                await store.message_changes.requeue(pks, NOW + 20)
            case "tell":
                told = [each.event_id for each in await store.outbox.pending("acme", 30)]
                await store.outbox.acknowledge(rng.sample(told, len(told) // 2), NOW + 30)
            case "release":
                await store.queue.release(rng.sample(claims[3::4], 5))
            case _:
                await store.message_changes.clean(pks, NOW + 100, silent=True)

    for _ in range(ROUNDS):
        await asyncio.gather(*(change() for _ in range(AT_ONCE)))
    await asyncio.sleep(1.1)  # a session tells its counts once a second
    await store.queue.beat(NOW)
    assert await store.database.read(deadlocks) == before


async def test_new_messages_in_opposite_orders_wait_for_one_another(postgresql_store: Store, postgres_url: str) -> None:
    store = postgresql_store
    account = await with_account(store)
    before = await store.database.read(deadlocks)
    other = await open_test_store(postgres_url, instance_id="other")
    for round_ in range(ROUNDS):
        new = [a_message(f"M{round_}-{n:03}", account) for n in range(300)]
        verdicts = await asyncio.gather(enqueue(store, *new), enqueue(other, *new[::-1]))
        assert sum(each.count("queued") for each in verdicts) == len(new)
    await other.close()  # with which its sessions tell their counts
    await asyncio.sleep(1.1)  # else they do so once a second
    await store.queue.beat(NOW)
    assert await store.database.read(deadlocks) == before


async def test_what_was_removed_meanwhile_is_inserted_with_nothing_in_hand(postgresql_store: Store) -> None:
    """Whoever has submitted it anew by then may wait for what the first insert holds."""
    engine, account = postgresql_store.database.engine, await with_account(postgresql_store)
    await enqueue(postgresql_store, a_message("M1", account))
    done: list[str] = []
    inserting: list[object] = []

    def note(connection: object, _2: object, statement: str, *_: object) -> None:
        if statement.startswith("INSERT INTO messages"):
            inserting.append(connection)
            done.append("insert")

    def note_end(connection: object) -> None:
        if connection in inserting:
            done.append("rollback")

    with engine.connect() as another:
        another.exec_driver_sql("DELETE FROM messages")
        event.listen(engine, "before_cursor_execute", note)
        event.listen(engine, "rollback", note_end)
        new = (a_message("M1", account, digest="another"), a_message("M2", account))
        submitting = asyncio.create_task(enqueue(postgresql_store, *new))
        await eventually(lambda: done and _somebody_waits(postgresql_store), "it waits for the row")
        another.commit()
    assert await submitting == ["queued", "queued"]
    assert done == ["insert", "rollback", "insert"]


def _somebody_waits(store: Store) -> bool:
    with store.database.engine.connect() as connection:
        return bool(connection.exec_driver_sql("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)").scalar())


async def test_messages_go_out_in_the_order_in_which_they_came(store: Store) -> None:
    account = await with_account(store)
    ids = [f"M{n}" for n in (3, 1, 2, 11, 0)]
    await enqueue(store, *(a_message(id_, account) for id_ in ids))
    assert [claimed.identity.mail_id for claimed in await claim(store, account)] == ids


async def test_a_message_that_is_repeated_does_not_wait_for_what_is_done_with_it(postgresql_store: Store) -> None:
    store = postgresql_store
    account = await with_account(store)
    await enqueue(store, a_message("M1", account))
    with store.database.engine.connect() as another:  # as its settling does
        another.exec_driver_sql("UPDATE messages SET attempts = 1")
        assert await enqueue(store, a_message("M1", account)) == ["duplicate"]
        another.rollback()
