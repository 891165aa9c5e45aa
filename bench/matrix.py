"""The main job in all its forms: both databases, one account and many, small and large messages, near and far servers.

Each figure includes what the others do: what is taken is written down, sent and reported meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench.far import end_to_end
from bench.main_job import BATCH, WARM, Party, place, set_up
from bench.processes import TOKEN, MailCounter, Server
from mail_proxy.cli.counting import Counter
from mail_proxy.cli.http_load import SIZE, Messages, clients
from tests.support.postgres import running_postgres
from tests.support.postgres_installation import preferred_installation

DATABASES = ("SQLite", "PostgreSQL")
ACCOUNTS = (1, 10, 1000)
SIZES = (SIZE, 100_000)
DISTANCES = (0.0, 0.05)
CLIENTS = (1, 8, 32, 128)
ROUNDS = 3

_PER_SESSION = 12
"""Messages that each of an account's four sessions takes in a round where the server is far: a second or so."""


@dataclass(frozen=True, slots=True)
class Case:
    """One field of the matrix. `distance` is in seconds, there and back; `size` in bytes of a message's body."""

    database: str
    accounts: int
    size: int
    distance: float

    @property
    def name(self) -> str:
        """What stands before its figures."""
        accounts = "1 account" if self.accounts == 1 else f"{self.accounts} accounts"
        where = f"{self.distance * 1000:.0f} ms away" if self.distance else "near"
        return f"{self.database}, {accounts}, {self.size // 1000} kB, server {where}: reported /s"

    @property
    def messages(self) -> int:
        """How many a round has."""
        near = 3000 if self.size == SIZE else 400
        return max(BATCH, min(near, _PER_SESSION * 4 * self.accounts)) if self.distance else near


def cases() -> Iterator[Case]:
    """Return all fields."""
    for values in itertools.product(DATABASES, ACCOUNTS, SIZES, DISTANCES):
        yield Case(*values)


def run() -> dict[str, list[float]]:
    """Return messages a second, from the first request to the last report, for each field."""
    figures: dict[str, list[float]] = {}
    for case in cases():
        print(".", end="", file=sys.stderr, flush=True)
        accounts = [f"account{n}" for n in range(case.accounts)]
        with _settings(case.database) as settings:
            figures[case.name] = end_to_end(
                settings, 1, case.messages, accounts, case.distance, case.size, rounds=ROUNDS
            )
    return figures


def submissions(messages: int = 1000) -> dict[str, list[float]]:
    """Return how fast single messages are taken from so many clients at once, while they are sent and reported."""
    figures: dict[str, list[float]] = {}
    for database in DATABASES:
        with _settings(database) as settings, place(settings) as (server, sink, callback):
            found = asyncio.run(_submissions(server, sink, callback, messages))
        figures |= {f"{database}, {name}": values for name, values in found.items()}
    return figures


async def _submissions(server: Server, sink: MailCounter, callback: Counter, messages: int) -> dict[str, list[float]]:
    figures: dict[str, list[float]] = {}
    async with clients(server.url, TOKEN, 2) as two:
        await set_up(two[0], callback, sink.port, ["main"])
        party = Party(server, sink, callback, Messages(["main"]), two[0])
        await party.batches(WARM, two)
        await party.reported()
    for _ in range(ROUNDS):
        for count in CLIENTS:
            async with clients(server.url, TOKEN, count) as many:
                took, rate = await party.singles(messages, many)
            await party.reported()
            who = f"{count} client{'s' if count > 1 else ''}"
            figures.setdefault(f"{who}: /s", []).append(rate)
            figures.setdefault(f"{who}: p50 ms", []).append(statistics.median(took))
            figures.setdefault(f"{who}: p99 ms", []).append(took[int(len(took) * 0.99) - 1])
    return figures


@contextmanager
def _settings(database: str) -> Iterator[dict[str, str]]:
    """Give what a server needs to run on a database of its own."""
    if database == "SQLite":
        yield {}
        return
    with running_postgres(preferred_installation()) as postgres:
        yield {"GMP_DB_PATH": postgres.create_database(), "GMP_ENCRYPTION_KEY": "00" * 32}


if __name__ == "__main__":
    for name, values in (submissions() | run()).items():
        print(f"{name:70s} {' '.join(f'{value:9.2f}' for value in values)}", flush=True)
