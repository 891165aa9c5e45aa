"""A thousand waiting messages or a million: what a claim costs, how fast the queue drains, how much memory it takes.

On SQLite. The queue is written by the database itself, so that a million takes seconds.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.main_job import set_up
from bench.processes import TOKEN, MailCounter, mail_sink, serving, wait_for
from mail_proxy.cli.counting import counting
from mail_proxy.cli.http_load import clients
from mail_proxy.domain.claim import Demand
from mail_proxy.store.opening import database_url
from tests.support.backlog import fill_file
from tests.support.stores import open_test_store

SIZES = (1_000, 1_000_000)
CLAIMED = 100
CLAIMS = 60
SENT = 3_000


def run(sizes: Sequence[int] = SIZES) -> dict[str, float]:
    """Return figures for each size of the backlog."""
    figures: dict[str, float] = {}
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder, mail_sink() as sink:
            file = Path(folder) / "mail_service.db"
            asyncio.run(_prepare(file, sink))
            fill_file(file, "bench", "main", size)
            figures[f"{size} waiting: a claim of {CLAIMED}, ms"] = asyncio.run(_claims(file))
            if size >= SENT:
                figures |= _drain(file, sink, size)
    return figures


async def _prepare(file: Path, sink: MailCounter) -> None:
    with counting("callback") as callback, serving({"GMP_DB_PATH": str(file)}) as server:
        async with clients(server.url, TOKEN, 1) as (client,):
            await set_up(client, callback, sink.port, ["main"])


async def _claims(file: Path) -> float:
    """Return the median of claims, each given back before the next."""
    store = await open_test_store(database_url(str(file)))
    took = []
    try:
        (account,) = await store.directory.accounts_of("bench")
        for n in range(CLAIMS):
            began = time.perf_counter()
            taking = await store.queue.claim([Demand(account.pk, CLAIMED)], f"token-{n}", time.time())
            took.append((time.perf_counter() - began) * 1000)
            await store.queue.release(taking.claimed)
    finally:
        await store.close()
    return statistics.median(took)


def _drain(file: Path, sink: MailCounter, size: int) -> dict[str, float]:
    """Let a server send some of them."""
    with serving({"GMP_DB_PATH": str(file)}) as server:
        began = time.monotonic()
        done = wait_for(sink, SENT)
        return {
            f"{size} waiting: sent without reports, /s": SENT / (done - began),
            f"{size} waiting: memory of the server, MB": server.memory,
        }


if __name__ == "__main__":
    for name, value in run().items():
        print(f"{name:60s} {value:10.2f}")
