"""Lists and searches among a million messages: a page at the top, and the ten thousandth.

Over HTTP, on SQLite, one client. Every figure is in milliseconds: the best of many requests, and what one of them costs
the server in processor time, which other work on the machine hardly changes.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import aiohttp

from bench.processes import TOKEN, Server, serving
from mail_proxy.api.cursors import cursor_to
from mail_proxy.ports.archive import Place

PAGE = 100
REQUESTS = 30

QUERIES: Mapping[str, Mapping[str, str]] = {
    "no filter": {},
    "by state, most of all": {"state": "sent"},
    "by status, one in a hundred": {"status": "error"},
    "by account, most of all": {"account_id": "main"},
    "by account, one in a thousand": {"account_id": "rare"},
    "by batch, one in a hundred": {"batch_code": "spring"},
    "by time, a tenth": {},
    "by account and state": {"account_id": "main", "state": "failed"},
    "by subject, one in ten": {"subject": "ORDER 7"},
    "by recipient, one in ten": {"recipient": "@EXAMPLE7"},
    "by metadata, one in ten": {"metadata.shop": "7"},
}
NOTHING: Mapping[str, Mapping[str, str]] = {
    "by subject, none": {"subject": "nothing like it"},
    "by recipient, none": {"recipient": "nobody"},
    "by metadata, none": {"metadata.shop": "none"},
    "by priority, none": {"priority": "0"},
}
"""For what is never found: a request ends at ten thousand rows, or at eight million characters."""

_FILL = (
    """
    INSERT INTO messages (tenant_id, id, account_pk, account_id, priority, batch_code, state, attempts, digest, size,
        created_ts, first_attempt_ts, finished_ts, reported_ts)
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)
    SELECT 'bench', 'm' || i, CASE i % 1000 WHEN 3 THEN 2 ELSE 1 END,
        CASE i % 1000 WHEN 3 THEN 'rare' ELSE 'main' END, 2, CASE i % 100 WHEN 7 THEN 'spring' END,
        CASE i % 100 WHEN 5 THEN 'failed' ELSE 'sent' END, 1, 'digest', 1200,
        :now - :count + i, :now, :now, :now
    FROM n
    """,
    """
    INSERT INTO contents (message_pk, fields, message_id, date)
    SELECT pk, json_object('id', id, 'from', 'Acme Shop <shop@acme.example>', 'to', json_array('a@example.net'),
        'subject', 'Your order ' || (pk % 10) || '-' || pk || ' is on its way', 'body', :body,
        'metadata', json_object('shop', pk % 10, 'order', pk)), id || '@acme.example', created_ts
    FROM messages
    """,
    """
    INSERT INTO recipients (message_pk, n, address, kind)
    SELECT pk, 0, 'anna@example' || (pk % 10) || '.net', 'to' FROM messages
    """,
)


def run(messages: int = 1_000_000) -> dict[str, float]:
    """Return figures: milliseconds for the first page, and for one far below."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        settings = {"GMP_DB_PATH": f"{folder}/mail_service.db"}
        with serving(settings) as server:
            asyncio.run(_set_up(server.url))
        began = time.monotonic()
        now = time.time()
        _fill(Path(settings["GMP_DB_PATH"]), messages, now)
        figures = {"seconds to make the messages": time.monotonic() - began}
        with serving(settings) as server:
            return figures | asyncio.run(_measure(server, messages, now))


async def _set_up(url: str) -> None:
    async with aiohttp.ClientSession(url, headers={"X-API-Token": TOKEN}) as session:
        for path, body in (
            ("/tenant", {"id": "bench"}),
            ("/account", {"id": "main", "host": "127.0.0.1", "port": 25}),
            ("/account", {"id": "rare", "host": "127.0.0.1", "port": 25}),
        ):
            async with session.post(path, json=body) as response:
                response.raise_for_status()


def _fill(file: Path, count: int, now: float) -> None:
    connection = sqlite3.connect(file, isolation_level=None)
    try:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -200000"):  # nothing here is to last
            connection.execute(f"PRAGMA {pragma}")
        values = {"count": count, "now": now, "body": ("lorem ipsum dolor sit amet " * 40)[:1000]}
        for statement in _FILL:
            connection.execute(statement, {name: value for name, value in values.items() if f":{name}" in statement})
    finally:
        connection.close()


async def _measure(server: Server, messages: int, now: float) -> dict[str, float]:
    figures: dict[str, float] = {}
    tenth = {"created_from": repr(now - messages * 0.6), "created_to": repr(now - messages * 0.5)}
    async with aiohttp.ClientSession(server.url, headers={"X-API-Token": TOKEN}) as session:
        for name, query in QUERIES.items():
            by_time = name.startswith("by time")
            # the last page of all, or where a tenth of the messages is left, so that a page is full whatever is wanted
            left = PAGE if not query and not by_time else messages // 10
            wanted = {**query, **tenth} if by_time else query
            below = Place(now - (messages * 0.59 if by_time else messages - left - 1), left + 1)
            pages = {"first page": wanted, "far below": {**wanted, "cursor": cursor_to(below)}}
            for page, asked in pages.items():
                await _take_time(session, server, f"{name}: {page}", asked, figures)
        for name, query in NOTHING.items():
            await _take_time(session, server, name, query, figures)
    return figures


async def _take_time(
    session: aiohttp.ClientSession, server: Server, name: str, query: Mapping[str, str], figures: dict[str, float]
) -> None:
    await _asked(session, query)
    used = server.cpu
    figures[name] = min([await _asked(session, query) for _ in range(REQUESTS)])
    figures[f"{name}, processor"] = (server.cpu - used) / REQUESTS * 1000


async def _asked(session: aiohttp.ClientSession, query: Mapping[str, str]) -> float:
    """Return how long one request took, in milliseconds."""
    began = time.perf_counter()
    async with session.get("/messages", params={"limit": str(PAGE), **query}) as response:
        await response.read()
        response.raise_for_status()
    return (time.perf_counter() - began) * 1000


if __name__ == "__main__":
    for name, value in run().items():
        print(f"{name:50s} {value:10.2f}")
