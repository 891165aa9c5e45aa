"""The main job end to end: accepted over HTTP, on disk, delivered by SMTP, reported.

One server process, 1 kB messages, everything on one machine.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from bench.processes import TOKEN, MailCounter, Server, mail_sink, serving, wait_for
from mail_proxy.cli.counting import Counter, counting
from mail_proxy.cli.http_load import Client, Messages, clients, submit

BATCH = 100
WARM = 500


@dataclass(slots=True)
class Party:
    """Everything that a measurement of the main job takes, and how many messages it has got through."""

    server: Server
    sink: MailCounter
    callback: Counter
    messages: Messages
    client: Client
    done: int = 0

    async def delivered(self) -> float:
        """Return when (monotonic) the sink has all that was submitted."""
        return await asyncio.to_thread(wait_for, self.sink, self.done)

    async def reported(self) -> float:
        """Return when (monotonic) the endpoint has all that was submitted."""
        return await asyncio.to_thread(wait_for, self.callback, self.done)

    async def singles(self, count: int, at: Sequence[Client]) -> tuple[list[float], float]:
        """Submit messages by themselves; return what each took (ms, sorted), and how many a second were taken."""
        batches = [[each] for each in self.messages.take(count)]
        began = time.monotonic()
        took = await submit(at, batches)
        self.done += count
        return took, count / (time.monotonic() - began)

    async def batches(self, count: int, at: Sequence[Client]) -> None:
        """Submit messages a hundred at a time."""
        await submit(at, [self.messages.take(BATCH) for _ in range(count // BATCH)])
        self.done += count


@contextmanager
def place(settings: Mapping[str, str]) -> Iterator[tuple[Server, MailCounter, Counter]]:
    """Run what the main job takes."""
    with ExitStack() as stack:
        sink = stack.enter_context(mail_sink())
        callback = stack.enter_context(counting("callback"))
        yield stack.enter_context(serving(settings)), sink, callback


async def set_up(
    client: Client, callback: Counter, smtp_port: int, accounts: Sequence[str], connections: int = 4
) -> None:
    """Make a tenant with an endpoint, and its accounts."""
    await client.post("/tenant", {"id": "bench", "client_base_url": f"http://127.0.0.1:{callback.port}"})
    for name in accounts:
        host = {"host": "127.0.0.1", "port": smtp_port, "use_tls": False, "max_connections": connections}
        await client.post("/account", {"id": name, "tenant_id": "bench", **host})


def run(messages: int = 6000, singles: int = 400, rounds: int = 3) -> dict[str, list[float]]:
    """Return figures, a value for each round."""
    with place({}) as (server, sink, callback):
        return asyncio.run(_run(server, sink, callback, messages, singles, rounds))


async def _run(
    server: Server, sink: MailCounter, callback: Counter, messages: int, singles: int, rounds: int
) -> dict[str, list[float]]:
    figures: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        figures.setdefault(name, []).append(value)

    async with clients(server.url, TOKEN, 32) as many:
        await set_up(many[0], callback, sink.port, ["main"])
        party = Party(server, sink, callback, Messages(["main"]), many[0])
        await party.batches(WARM, many[:2])  # the first messages warm everything up
        await party.reported()
        for _ in range(rounds):
            took, _rate = await party.singles(singles, many[:1])
            note("single submission p50 ms", statistics.median(took))
            note("single submission p99 ms", took[int(len(took) * 0.99) - 1])
            await party.reported()
            _took, rate = await party.singles(messages // 2, many)
            note("single submissions, 32 clients /s", rate)
            await party.reported()
            began, used = time.monotonic(), server.cpu
            await party.batches(messages, many[:2])
            note("batches of 100, intake /s", messages / (time.monotonic() - began))
            note("accepted to delivered /s", messages / (await party.delivered() - began))
            note("accepted to delivered and reported /s", messages / (await party.reported() - began))
            note("server processor time µs/message", (server.cpu - used) / messages * 1e6)
            note("server memory MB", server.memory)
    return figures


if __name__ == "__main__":
    for name, values in run().items():
        print(f"{name:50s} {statistics.median(values):10.2f}   {min(values):10.2f} - {max(values):.2f}")
