"""Keeping the command log: nothing waits for it that need not, and nothing is written twice or kept for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from typing_extensions import override

from mail_proxy.administration import audit
from mail_proxy.administration.audit import CAPACITY, GATHERING, PRUNE_INTERVAL, PRUNED, AuditLog
from mail_proxy.domain.command_log import Entry, EntryFilter, LogPage
from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.store.command_log import StoreCommandLog
from mail_proxy.store.database import Database
from mail_proxy.store.opening import database_url
from mail_proxy.store.store import Store
from tests.support.fake_clock import FakeClock
from tests.support.stores import an_entry, open_test_store, ready_made


class Log(StoreCommandLog):
    """The real log, which is away, loses its answers, hangs, or refuses an entry, as a test says."""

    away = False
    answers_are_lost = False
    hangs = False
    refused = ""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.emptied = asyncio.Event()
        """Set once there was nothing left to remove."""

    @override
    async def prune(self, before: float, limit: int) -> int:
        count = await super().prune(before, limit)
        if count < limit:
            self.emptied.set()
        return count

    @override
    async def append(self, entries: Sequence[Entry], *, again: bool) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.away:
            raise StoreUnavailable("the database is away")
        if any(entry.key == self.refused for entry in entries):
            raise ValueError("not this one")
        await super().append(entries, again=again)
        if self.answers_are_lost:
            raise StoreUnavailable("the answer was lost")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await open_test_store(ready_made(database_url(str(tmp_path / "mail_service.db"))))
    yield opened
    await opened.close()


@pytest.fixture
def log(store: Store) -> Log:
    return Log(store.database)


async def written(log: Log) -> list[str]:
    page: LogPage = await StoreCommandLog.page(log, EntryFilter(), None, 2 * CAPACITY, oldest_first=True)
    return [each.entry.key for each in page.entries]


async def test_what_is_noted_is_written_together_after_a_while(log: Log) -> None:
    clock = FakeClock()
    keeping = AuditLog(log, clock, 1e9)
    running = asyncio.create_task(keeping.run(lambda: None))
    for n in range(3):
        keeping.note(an_entry(n))
    await clock.advance(GATHERING - 0.01)
    assert await written(log) == []
    await clock.advance(0.02)
    await keeping.written()
    assert await written(log) == ["key-0", "key-1", "key-2"]
    running.cancel()
    await asyncio.wait([running])


async def test_an_entry_whose_answer_was_lost_is_written_once(log: Log) -> None:
    keeping = AuditLog(log, FakeClock(), 1e9)
    log.answers_are_lost = True
    await keeping.record(an_entry(1))
    log.answers_are_lost = False
    await keeping.record(an_entry(2))
    assert await written(log) == ["key-1", "key-2"]


async def test_a_store_that_hangs_holds_no_answer_up_for_long(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "PATIENCE", 0.01)
    keeping = AuditLog(log, FakeClock(), 1e9)
    log.hangs = True
    await keeping.record(an_entry(1))
    with pytest.raises(StoreUnavailable):
        await keeping.page(EntryFilter(), None, 10)
    log.hangs = False
    await keeping.close()
    assert await written(log) == ["key-1"]


async def test_beyond_its_capacity_entries_are_counted_and_the_loss_is_logged(log: Log) -> None:
    keeping = AuditLog(log, FakeClock(), 1e9)
    log.away = True
    with capture_logs() as lines:
        for n in range(CAPACITY + 5):
            keeping.note(an_entry(n))
        log.away = False
        await keeping.written()
    assert [(line["event"], line.get("entries")) for line in lines] == [
        ("the command log is full", None),
        ("entries of the command log are lost", 5),
    ]
    assert len(await written(log)) == CAPACITY


async def test_an_entry_that_the_store_refuses_is_lost_alone(log: Log) -> None:
    keeping = AuditLog(log, FakeClock(), 1e9)
    log.refused = "key-1"
    for n in range(3):
        keeping.note(an_entry(n))
    with capture_logs() as lines:
        await keeping.close()
    assert await written(log) == ["key-0", "key-2"]
    assert [line["event"] for line in lines] == [
        "an entry of the command log is refused by the store",
        "entries of the command log are lost",
    ]


async def test_what_cannot_be_written_at_the_end_is_told(log: Log) -> None:
    keeping = AuditLog(log, FakeClock(), 1e9)
    keeping.note(an_entry(1))
    log.away = True
    with capture_logs() as lines:
        await keeping.close()
    assert [(line["event"], line["entries"]) for line in lines] == [("entries of the command log are lost", 1)]


async def test_what_is_older_than_the_retention_is_removed_in_the_background(log: Log) -> None:
    clock = FakeClock()
    keeping = AuditLog(log, clock, 1000.0)
    now = clock.now()
    await log.append([an_entry(n, ts=now - 990) for n in range(PRUNED + 1)] + [an_entry(-1, ts=now)], again=False)
    running = asyncio.create_task(keeping.run(lambda: None))
    await clock.advance(PRUNE_INTERVAL + 1)
    await log.emptied.wait()
    assert await written(log) == ["key--1"]
    running.cancel()
    await asyncio.wait([running])
