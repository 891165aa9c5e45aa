"""The main job end to end: accepted over HTTP, on disk, delivered by SMTP, reported.

One server process, SQLite with `synchronous=FULL`, one account, 1 kB messages, everything on one machine.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Iterator

import aiohttp

from bench.processes import TOKEN, Counter, Server, counting, serving, wait_for

BODY = ("lorem ipsum dolor sit amet " * 40)[:1000]
BATCH = 100


def _message(number: int) -> dict[str, object]:
    return {
        "id": f"m{number}",
        "tenant_id": "bench",
        "account_id": "main",
        "from": "sender@example.com",
        "to": [f"user{number}@example.net"],
        "subject": f"Order {number}",
        "body": BODY,
        "priority": 2,
    }


class _Load:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._next = 0

    def messages(self, count: int) -> list[dict[str, object]]:
        self._next += count
        return [_message(number) for number in range(self._next - count, self._next)]

    async def post(self, path: str, body: object) -> None:
        async with self._session.post(path, data=json.dumps(body), headers={"X-API-Token": TOKEN}) as response:
            answer = await response.json()
            if response.status != 200 or answer.get("rejected"):
                raise RuntimeError(f"{path}: {response.status} {answer}")

    async def submit(self, messages: list[dict[str, object]]) -> None:
        await self.post("/commands/add-messages", {"messages": messages})

    async def singles(self, count: int) -> list[float]:
        """One client, one message a request: what each request took, in milliseconds."""
        took = []
        for message in self.messages(count):
            began = time.perf_counter()
            await self.submit([message])
            took.append((time.perf_counter() - began) * 1000)
        return sorted(took)

    async def many_clients(self, count: int, clients: int) -> float:
        """Return requests a second of one message each."""
        waiting = iter(self.messages(count))
        began = time.perf_counter()
        await asyncio.gather(*(self._client(waiting) for _ in range(clients)))
        return count / (time.perf_counter() - began)

    async def _client(self, waiting: Iterator[dict[str, object]]) -> None:
        for message in waiting:
            await self.submit([message])

    async def batches(self, count: int) -> None:
        """Two clients with batches."""
        batches = [self.messages(BATCH) for _ in range(count // BATCH)]

        async def client(mine: list[list[dict[str, object]]]) -> None:
            for batch in mine:
                await self.submit(batch)

        await asyncio.gather(client(batches[::2]), client(batches[1::2]))


def run(messages: int = 6000, singles: int = 300, rounds: int = 3) -> dict[str, float]:
    """Return figures; rates are messages a second, the best and the median of the rounds."""
    with counting("sink") as sink, counting("callback") as callback, serving({}) as server:
        return asyncio.run(_run(server, sink, callback, messages, singles, rounds))


async def _run(
    server: Server, sink: Counter, callback: Counter, messages: int, singles: int, rounds: int
) -> dict[str, float]:
    figures: dict[str, float] = {}
    async with aiohttp.ClientSession(server.url, connector=aiohttp.TCPConnector(limit=0)) as session:
        load = _Load(session)
        url = f"http://127.0.0.1:{callback.port}"
        await load.post("/tenant", {"id": "bench", "client_base_url": url})
        account = {"id": "main", "tenant_id": "bench", "host": "127.0.0.1", "port": sink.port, "use_tls": False}
        await load.post("/account", account)
        await load.batches(500)  # the first messages warm everything up
        done = 500
        await asyncio.to_thread(wait_for, callback, done)

        took = await load.singles(singles)
        figures["single submission p50 ms"] = statistics.median(took)
        figures["single submission p99 ms"] = took[int(len(took) * 0.99) - 1]
        figures["single submissions, 32 clients /s"] = await load.many_clients(2000, 32)
        done += singles + 2000
        await asyncio.to_thread(wait_for, callback, done)

        delivered, reported, cpu = [], [], []
        for _ in range(rounds):
            began, used = time.monotonic(), server.cpu
            await load.batches(messages)
            accepted = time.monotonic()
            done += messages
            delivered.append(messages / (await asyncio.to_thread(wait_for, sink, done) - began))
            reported.append(messages / (await asyncio.to_thread(wait_for, callback, done) - began))
            cpu.append((server.cpu - used) / messages * 1e6)
            figures["batches of 100, intake /s"] = messages / (accepted - began)
        figures["accepted to delivered /s"] = statistics.median(delivered)
        figures["accepted to delivered and reported /s"] = statistics.median(reported)
        figures["accepted to delivered and reported /s, best"] = max(reported)
        figures["server processor time µs/message"] = statistics.median(cpu)
        figures["server memory MB"] = server.memory
    return figures


if __name__ == "__main__":
    for name, value in run().items():
        print(f"{name:50s} {value:10.2f}")
