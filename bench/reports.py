"""How soon tenants hear of what became of their messages: `python -m bench.reports`.

A real server on SQLite, a mail server that only counts, endpoints in a child, all on one machine. Times are from when
the outcome was known, which an entry says itself, until the entry arrived.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

import aiohttp

from bench.processes import TOKEN, Server, serving
from mail_proxy.cli.counting import counting

KINDS = ("hang", "refuse", "fail", "drip")
PATIENCE = 120.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """An entry of a report, or an empty report: then it has no tenant."""

    tenant_id: str
    told: float
    arrived: float


@dataclass(slots=True)
class Endpoints:
    """The endpoints, and what has arrived at those that answer."""

    good: str
    dead: Mapping[str, str]
    """By kind."""
    file: Path
    arrivals: list[Arrival] = field(default_factory=list)
    _read: int = 0

    def look(self) -> list[Arrival]:
        """Return all that has arrived."""
        with self.file.open("rb") as file:
            file.seek(self._read)
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.decode("ascii").splitlines():
            _, tenant_id, told, arrived = line.split(" ")
            self.arrivals.append(Arrival(tenant_id, float(told), float(arrived)))
        return self.arrivals


@contextmanager
def endpoints() -> Iterator[Endpoints]:
    """Run them; a port where nobody listens is one of the dead ones."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        file = Path(folder) / "arrived"
        file.touch()
        command = [sys.executable, "-m", "bench.endpoints", str(file)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                ports = [int(process.stdout.readline()) for _ in range(4)]
                good, hang, fail, drip = (f"http://127.0.0.1:{port}" for port in ports)
                refuse = f"http://127.0.0.1:{nobody.getsockname()[1]}"
                yield Endpoints(good, dict(zip(KINDS, (hang, refuse, fail, drip), strict=True)), file)
            finally:
                process.kill()


class Proxy:
    """The API of the server, and messages of one recipient each."""

    def __init__(self, session: aiohttp.ClientSession, sink_port: int) -> None:
        self._session = session
        self._sink_port = sink_port
        self._numbers = itertools.count(1)

    async def post(self, path: str, body: object = None) -> None:
        """POST as the admin; raises for what is refused."""
        headers = {"X-API-Token": TOKEN, "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body)
        async with self._session.post(path, data=data, headers=headers) as response:
            answer = await response.json()
            if response.status != 200 or answer.get("rejected"):
                raise RuntimeError(f"{path}: {response.status} {answer}")

    async def put_tenant(self, tenant_id: str, url: str) -> None:
        """Create or change a tenant's endpoint."""
        await self.post("/tenant", {"id": tenant_id, "client_base_url": url})

    async def put_account(self, tenant_id: str) -> None:
        """Give a tenant an account at the mail server that counts."""
        host = {"host": "127.0.0.1", "port": self._sink_port, "use_tls": False}
        await self.post("/account", {"id": "main", "tenant_id": tenant_id, **host})

    async def submit(self, tenant_ids: Sequence[str]) -> None:
        """Submit a message of each tenant."""
        fields = {
            "account_id": "main",
            "from": "a@example.com",
            "to": "b@example.net",
            "subject": "Hello",
            "body": "Hello.",
        }
        for begin in range(0, len(tenant_ids), 500):
            messages = [
                {"id": f"m{next(self._numbers)}", "tenant_id": tenant_id, **fields}
                for tenant_id in tenant_ids[begin : begin + 500]
            ]
            await self.post("/commands/add-messages", {"messages": messages})


async def _arrived(at: Endpoints, since: int, count: int, of: Collection[str] = ()) -> list[Arrival]:
    """Return what has arrived since then, of these tenants or of all, once it is so much."""
    end = time.monotonic() + PATIENCE
    while True:
        found = [each for each in at.look()[since:] if not of or each.tenant_id in of]
        if len(found) >= count:
            return found
        if time.monotonic() > end:
            raise TimeoutError(f"{len(found)} of {count} arrived")
        await asyncio.sleep(0.005)


def _delays(name: str, arrivals: Sequence[Arrival]) -> dict[str, float]:
    delays = sorted((each.arrived - each.told) * 1000 for each in arrivals)
    return {f"{name}, p50 ms": statistics.median(delays), f"{name}, p99 ms": delays[int(len(delays) * 0.99) - 1]}


async def _independence(
    proxy: Proxy, at: Endpoints, tenants: int, dead: int, seconds: float, kinds: Sequence[str]
) -> dict[str, float]:
    """Load all tenants alike before and after some of their endpoints die; count those that live throughout."""
    names = [f"t{n}" for n in range(tenants)]
    for name in names:
        await proxy.put_tenant(name, at.good)
        await proxy.put_account(name)
    await proxy.submit(names)  # the first messages open the sessions
    await _arrived(at, 0, tenants)
    dying = random.Random(1).sample(names, dead)
    living = set(names) - set(dying)
    figures: dict[str, float] = {}

    async def burst(title: str) -> None:
        since = len(at.look())
        await proxy.submit(names)
        figures.update(_delays(f"{title}, all tenants at once", await _arrived(at, since, len(living), living)))

    async def steadily(title: str) -> None:
        since, chosen, rng = len(at.look()), [], random.Random(2)
        began = time.monotonic()
        for tick in range(int(seconds * 10)):
            some = rng.sample(names, max(1, tenants // 100))
            chosen += [name for name in some if name in living]
            await proxy.submit(some)
            await asyncio.sleep(max(0.0, began + (tick + 1) / 10 - time.monotonic()))
        figures.update(_delays(f"{title}, steadily", await _arrived(at, since, len(chosen), living)))

    await burst("none dead")
    await steadily("none dead")
    for name, url in zip(dying, itertools.cycle(at.dead[kind] for kind in kinds), strict=False):
        await proxy.put_tenant(name, url)
    await burst(f"{dead} dead")  # which is when it turns out
    await steadily(f"{dead} dead")
    return figures


async def _backlog(proxy: Proxy, at: Endpoints, events: int) -> dict[str, float]:
    """Let events pile up for a tenant whose endpoint refuses the connection, and count them once it takes them."""
    refuse = at.dead["refuse"]
    await proxy.put_tenant("full", refuse)
    await proxy.put_account("full")
    since = len(at.look())
    for _ in range(events // 500):
        await proxy.submit(["full"] * 500)
    await proxy.put_tenant("probe", at.good)
    await proxy.put_account("probe")
    await proxy.submit(["probe"])
    await _arrived(at, since, 1)
    await asyncio.sleep(events / 1000)  # until all are sent
    since = len(at.look())
    await proxy.put_tenant("full", at.good)
    arrivals = await _arrived(at, since, events)
    first, last = arrivals[0].arrived, arrivals[-1].arrived
    page = sum(each.arrived == first for each in arrivals)
    return {f"a backlog of {events} events of one tenant, events/s": (events - page) / (last - first)}


async def _one_by_one(proxy: Proxy, at: Endpoints, count: int) -> dict[str, float]:
    """Measure a tenant that has the server to itself."""
    await proxy.put_tenant("alone", at.good)
    await proxy.put_account("alone")
    since = len(at.look())
    for n in range(count):
        await proxy.submit(["alone"])
        await _arrived(at, since, n + 1, {"alone"})
    figures = _delays("one message, nothing else to do", at.look()[since:])
    asked: list[float] = []
    for _ in range(count):
        since, now = len(at.look()), time.time()
        await proxy.post("/commands/run-now?tenant_id=alone")
        asked.append((await _arrived(at, since, 1))[0].arrived - now)
        await asyncio.sleep(0.02)
    figures["from run-now to the report, p50 ms"] = statistics.median(asked) * 1000
    return figures


async def _measured(
    measure: Callable[[Proxy, Endpoints], Awaitable[dict[str, float]]], server: Server, sink_port: int, at: Endpoints
) -> dict[str, float]:
    async with aiohttp.ClientSession(server.url, connector=aiohttp.TCPConnector(limit=0)) as session:
        return await measure(Proxy(session, sink_port), at)


def run(
    tenants: int = 1000, dead: int = 100, seconds: float = 15.0, events: int = 10_000, kinds: Sequence[str] = KINDS
) -> dict[str, float]:
    """Return all figures; `kinds` of dead endpoints are there in equal numbers."""

    async def one_by_one(proxy: Proxy, at: Endpoints) -> dict[str, float]:
        return await _one_by_one(proxy, at, 50)

    async def backlog(proxy: Proxy, at: Endpoints) -> dict[str, float]:
        return await _backlog(proxy, at, events)

    async def independence(proxy: Proxy, at: Endpoints) -> dict[str, float]:
        return await _independence(proxy, at, tenants, dead, seconds, kinds)

    figures: dict[str, float] = {}
    for measure in (one_by_one, backlog, independence):
        with counting("sink") as sink, endpoints() as at, serving({}) as server:
            log = server.process.stdout
            assert log is not None
            Thread(target=log.read, daemon=True).start()  # else the server waits for somebody to read its log
            figures |= asyncio.run(_measured(measure, server, sink.port, at))
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tenants", type=int, default=1000)
    parser.add_argument("--dead", type=int, default=100, help="endpoints that die")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="how they die (default: each way)")
    parser.add_argument("--seconds", type=float, default=15.0, help="of steady load, before and after")
    parser.add_argument("--events", type=int, default=10_000, help="in the backlog of one tenant")
    options = parser.parse_args()
    given = (options.tenants, options.dead, options.seconds, options.events, options.kinds)
    for name, value in run(*given).items():
        print(f"{name:60s} {value:10.1f}")


if __name__ == "__main__":
    main()
