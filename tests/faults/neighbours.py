"""How long one tenant's messages take while others are in trouble, or are many."""  # G11, G13

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

from tests.acceptance.sinks import reserved_port
from tests.acceptance.tenants import Tenant, new_tenant
from tests.faults.sink import Sink, running_sink
from tests.support.instance import Instance, a_message
from tests.support.smtp_servers import Peer, scripted_server

BATCH = 1000
EVERY = 0.02
"""Seconds between two messages of the tenant that is watched."""


@dataclass(frozen=True, slots=True)
class Latency:
    """From the request to the final dot, in milliseconds, over so many messages; all of them came once."""

    beside: str
    messages: int
    p50: float
    p99: float

    def __str__(self) -> str:
        return f"beside {self.beside}: {self.messages} messages, p50 {self.p50:.0f} ms, p99 {self.p99:.0f} ms"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a disturbance takes place."""

    instance: Instance
    tenant: Tenant
    sink: Sink
    size: int


Disturbance = Callable[[Place], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def nothing(_: Place) -> AsyncIterator[None]:
    """Leave the watched tenant alone."""
    yield


@asynccontextmanager
async def hung_host(place: Place) -> AsyncIterator[None]:
    """Have messages for a server that takes connections and says nothing."""

    async def say_nothing(peer: Peer) -> None:
        await peer.hear_end()

    async with scripted_server(say_nothing) as hung:
        await place.tenant.put_account("hung", hung.port, max_connections=10)
        await _submit(place, "hung", 300)
        yield


@asynccontextmanager
async def dead_host(place: Place) -> AsyncIterator[None]:
    """Have messages for a port where nobody listens."""
    with reserved_port() as closed:
        await place.tenant.put_account("dead", closed.getsockname()[1])
        await _submit(place, "dead", 300)
        yield


@asynccontextmanager
async def many_messages(place: Place) -> AsyncIterator[None]:
    """Have a backlog for a server that works."""
    await place.tenant.put_account("busy", place.sink.port)
    await _submit(place, "busy", place.size)
    yield


@asynccontextmanager
async def many_accounts(place: Place) -> AsyncIterator[None]:
    """Have accounts with one message each, which all connect at the same time."""
    await place.tenant.put_account("a0", place.sink.port, max_connections=1)
    assert await place.instance.stop() == 0
    _multiply_account(Path(place.instance.settings["DB_PATH"]), place.size)
    await place.instance.start()
    messages = [a_message(f"x{n}", account_id=f"a{n}") for n in range(place.size)]
    for start in range(0, len(messages), BATCH):
        await place.tenant.client.submit(*messages[start : start + BATCH])
    yield


DISTURBANCES: dict[str, tuple[Disturbance, int]] = {
    "nothing": (nothing, 0),
    "300 messages for a server that hangs": (hung_host, 300),
    "300 messages for a server that is not there": (dead_host, 300),
    "a tenant with 5000 messages": (many_messages, 5000),
    "10 000 accounts with a message each": (many_accounts, 10_000),
}
"""By name, with how many messages each begins with."""


async def watched(instance: Instance, beside: str, messages: int, size: int | None = None) -> Latency:
    """Send messages one by one for a tenant of its own beside a disturbance, and tell how long they took."""
    disturbance, usual = DISTURBANCES[beside]
    await instance.start()
    with running_sink(instance.folder) as sink:
        async with new_tenant(instance, sink.port) as acme, new_tenant(instance) as other:
            begun: dict[str, float] = {}
            async with disturbance(Place(instance, other, sink, size or usual)):
                for number in range(messages):
                    begun[f"w{number}"] = time.monotonic()
                    await acme.client.submit(a_message(f"w{number}"))
                    await asyncio.sleep(EVERY)
                await sink.wait_for(begun, 120)
            took = sorted((sink.first[id_] - at) * 1000 for id_, at in begun.items())
            assert all(sink.copies[id_] == 1 for id_ in begun)
    return Latency(beside, messages, took[len(took) // 2], took[int(len(took) * 0.99) - 1])


async def idle_cpu(instance: Instance, seconds: float) -> float:
    """Return which part of a processor an instance uses that has nothing to do."""
    await instance.start()
    await asyncio.sleep(1)
    before = _cpu(instance.pid)
    await asyncio.sleep(seconds)
    return (_cpu(instance.pid) - before) / seconds


async def _submit(place: Place, account: str, messages: int) -> None:
    numbered = [a_message(f"{account}-{n}", account_id=account) for n in range(messages)]
    for start in range(0, messages, BATCH):
        await place.tenant.client.submit(*numbered[start : start + BATCH])


def _multiply_account(file: Path, count: int) -> None:
    """Make so many accounts like `a0`, past the service, which would take minutes for it."""
    with closing(sqlite3.connect(file)) as database, database:
        names = [row[1] for row in database.execute("PRAGMA table_info(accounts)") if row[1] not in {"pk", "id"}]
        columns = ", ".join(names)
        database.execute(
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ? - 1) "  # noqa: S608 - our own
            f"INSERT INTO accounts (id, {columns}) SELECT 'a' || i, {columns} FROM accounts, n WHERE id = 'a0'",
            (count,),
        )


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
