"""A mail server that is 50 ms away: one server process beside an aiosmtplib loop, both over four connections.

And instances on one PostgreSQL, where the distance, and not the two cores, is what limits one of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack

from bench import mailers
from bench.distance import far_away
from bench.main_job import BATCH, WARM, set_up
from bench.processes import TOKEN, mail_sink, serving, wait_for
from mail_proxy.cli.counting import counting
from mail_proxy.cli.http_load import SIZE, Messages, clients, submit
from tests.support.postgres import running_postgres
from tests.support.postgres_installation import preferred_installation

SECONDS = 0.05
CONNECTIONS = 4
ACCOUNTS = [f"account{n}" for n in range(10)]


def run(messages: int = 600, rounds: int = 3) -> dict[str, list[float]]:
    """Return messages a second to a server 50 ms away, reports included, and those of the loop."""
    figures: dict[str, list[float]] = {}
    for _ in range(rounds):
        with mail_sink() as sink, far_away(sink.port, SECONDS) as port:
            loop = mailers.aiosmtplib_loop(port, messages // 2, CONNECTIONS)
        (ours,) = end_to_end({}, 1, messages, ["main"])
        figures.setdefault("aiosmtplib, 4 connections /s", []).append(loop)
        figures.setdefault("ours, 4 connections, reported /s", []).append(ours)
        figures.setdefault("ours : aiosmtplib", []).append(ours / loop)
    return figures


def instances(counts: tuple[int, ...] = (1, 2), messages: int = 3000, rounds: int = 3) -> dict[str, list[float]]:
    """Return messages a second by so many instances on one PostgreSQL, the server 50 ms away, reports included."""
    figures: dict[str, list[float]] = {}
    with running_postgres(preferred_installation()) as postgres:
        for _ in range(rounds):
            for count in counts:
                settings = {"GMP_DB_PATH": postgres.create_database(), "GMP_ENCRYPTION_KEY": "00" * 32}
                (rate,) = end_to_end(settings, count, messages, ACCOUNTS)
                figures.setdefault(f"{count} on PostgreSQL, reported /s", []).append(rate)
    one = figures[f"{counts[0]} on PostgreSQL, reported /s"]
    for count in counts[1:]:
        ratios = [a / b for a, b in zip(figures[f"{count} on PostgreSQL, reported /s"], one, strict=True)]
        figures[f"{count} instances : {counts[0]}"] = ratios
    return figures


def end_to_end(
    settings: dict[str, str],
    count: int,
    messages: int,
    accounts: Sequence[str],
    distance: float = SECONDS,
    size: int = SIZE,
    rounds: int = 1,
) -> list[float]:
    """Return messages a second, of each round, that so many instances get to a server that far away, and reported."""
    batch = max(BATCH * SIZE // size, 1)
    with ExitStack() as stack:
        sink = stack.enter_context(mail_sink())
        port = stack.enter_context(far_away(sink.port, distance))
        callback = stack.enter_context(counting("callback"))
        servers = [stack.enter_context(serving({**settings, "GMP_INSTANCE_NAME": f"bench{n}"})) for n in range(count)]

        async def measure() -> list[float]:
            async with clients(servers[0].url, TOKEN, 1) as (one,):
                await set_up(one, callback, port, accounts, CONNECTIONS)
            async with clients(servers[0].url, TOKEN, 2) as two:
                source = Messages(accounts, size=size)
                rates, done = [], 0
                for number in (min(WARM, messages), *[messages] * rounds):
                    began = time.monotonic()
                    await submit(two, [source.take(batch) for _ in range(number // batch)])
                    done += number // batch * batch
                    rates.append(number / (await asyncio.to_thread(wait_for, callback, done) - began))
                return rates[1:]

        return asyncio.run(measure())


if __name__ == "__main__":
    for name, values in (run() | instances()).items():
        print(f"{name:50s} {' '.join(f'{value:8.2f}' for value in values)}")
