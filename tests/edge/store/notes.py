"""A kind of write for tests: notes in the settings table, with a way to hold the writers up meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from sqlalchemy import insert, select

from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.domain.report import Event, EventType
from mail_proxy.store.database import POSTGRESQL_WRITERS
from mail_proxy.store.operation import Operation, Transaction
from mail_proxy.store.schema import settings
from mail_proxy.store.store import Store

Effect = Callable[[str], None]


def noting(effect: Effect | None = None, *, weight: int = 1) -> Operation[str, str]:
    """Write each item as a note with an event, then have its effect; answers the item in capitals."""

    def run(transaction: Transaction, items: Sequence[str]) -> Sequence[str]:
        for item in items:
            transaction.connection.execute(insert(settings).values(name=item, value="noted"))
            transaction.emit([Event("acme", 1, EventType.SENT, 1.0, f'{{"note":"{item}"}}')])
            if effect is not None:
                effect(item)
        return [item.upper() for item in items]

    return Operation("note", run, lambda _item: weight)


async def on_the_writers_connection(store: Store, statement: str) -> None:
    """Execute something on the connection that writes, which SQLite's writer keeps."""

    def run(transaction: Transaction, items: Sequence[str]) -> Sequence[None]:
        for item in items:
            transaction.connection.exec_driver_sql(item)
        return [None] * len(items)

    await store.database.write(Operation("execute", run), statement)


async def notes(store: Store) -> list[str]:
    """The notes that are stored."""
    statement = select(settings.c.name).where(settings.c.value == "noted").order_by(settings.c.name)
    return await store.database.read(lambda connection: list(connection.execute(statement).scalars()))


async def told(store: Store) -> list[str]:
    """The notes whose events are stored."""
    events = await store.outbox.pending("acme", 10_000)
    return sorted(event.event.entry.split('"')[3] for event in events)


@asynccontextmanager
async def writers_held_up(store: Store, *, answered: bool = True) -> AsyncIterator[None]:
    """Keep every writer busy until the end of the block, so that what is handed over meanwhile waits together.

    `answered`: whether that is short enough for those who keep them busy to be answered.
    """
    writers = 1 if store.database.dialect == "sqlite" else POSTGRESQL_WRITERS
    begun = threading.Semaphore(0)
    go_on = threading.Event()

    def wait(_transaction: Transaction, items: Sequence[None]) -> Sequence[None]:
        begun.release()
        go_on.wait()
        return items

    held = []
    for _ in range(writers):
        held.append(asyncio.ensure_future(store.database.write(Operation("wait", wait), None)))
        await asyncio.to_thread(begun.acquire)
    try:
        yield
        for _ in range(3):  # what the block has started begins, its tasks begin, and hand their items over
            await asyncio.sleep(0)
    finally:
        go_on.set()
    outcomes = await asyncio.gather(*held, return_exceptions=True)
    assert [isinstance(each, StoreUnavailable) for each in outcomes] == [not answered] * writers
