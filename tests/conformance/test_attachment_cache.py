"""The cache of attachments, in memory, on disk and in both: what is found, by whom, how long, within which bounds."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from typing_extensions import override

from mail_proxy.attachments.cache import CachedSource
from mail_proxy.attachments.cache_disk import DiskTier
from mail_proxy.attachments.cache_memory import ENTRY_OVERHEAD, Content, MemoryTier, Scope
from mail_proxy.attachments.spool import Spooled
from mail_proxy.domain.attachment import Attachment, FetchMode
from mail_proxy.domain.tenant import Tenant
from mail_proxy.ports.attachments import AttachmentSource, Fetched, FetchFailed, Wanted
from mail_proxy.ports.observers import CacheTier
from mail_proxy.runtime.telemetry import PrometheusMeter
from tests.support.fake_clock import FakeClock, settled
from tests.support.sources import read_all

SMALL, LARGE = b"small" * 80, b"large" * 4000
ACME = Tenant("acme", created_ts=5.0)
MEMORY_MOST, DISK_MOST = 10_000, 50_000


def md5_of(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def spooled(data: bytes) -> Spooled:
    return Spooled(data, len(data), md5_of(data), sha256_of(data))


def wanted(data: bytes, *, tenant: Tenant = ACME, by_tenant: bool = True, digits: int = 32, path: str = "x") -> Wanted:
    named = Attachment("a.bin", FetchMode.ENDPOINT, path, "application/pdf", content_md5=md5_of(data)[:digits])
    return Wanted(named, tenant, by_tenant)


@dataclass
class Source(AttachmentSource):
    """Gives contents by their MD5 when it is let, and counts."""

    contents: dict[str, bytes] = field(default_factory=dict)
    asked: list[Wanted] = field(default_factory=list)
    let: asyncio.Event = field(default_factory=asyncio.Event)
    failing: set[str] = field(default_factory=set)

    @override
    async def fetch(self, wanted: Wanted, grown: Callable[[int], None]) -> Fetched:
        self.asked.append(wanted)
        await self.let.wait()
        if wanted.attachment.storage_path in self.failing:
            raise FetchFailed("it is away", permanent=False)
        named = wanted.attachment.content_md5 or wanted.attachment.content_sha256 or ""
        data = next(
            data for data in self.contents.values() if md5_of(data).startswith(named) or sha256_of(data) == named
        )
        grown(len(data))
        return spooled(data)


class Bench:
    """A cache, a source, and time."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.clock, self.meter, self.source = FakeClock(), PrometheusMeter(process=False), Source()
        self.source.let.set()
        self.folder = folder / "cache"
        self.grown: list[int] = []
        most = 0 if kind == "disk" else MEMORY_MOST
        self.disk = None if kind == "memory" else self.tier()
        self.memory = MemoryTier(most, 300.0, self.clock, self.meter)
        threshold = {"memory": 1_000_000, "disk": 0, "both": 1000}[kind]
        self.cache = CachedSource(
            self.source, self.clock, self.meter, memory=self.memory, disk=self.disk, threshold=threshold
        )

    def tier(self) -> DiskTier:
        return DiskTier(
            self.folder, DISK_MOST, 3600.0, lambda: self.meter.cache_evicted(CacheTier.DISK), self.clock.now
        )

    async def get(self, data: bytes, what: Wanted | None = None) -> bool:
        """Fetch something; True if the source was not asked."""
        self.source.contents[md5_of(data)] = data
        before = len(self.source.asked)
        fetched = await self.cache.fetch(what or wanted(data), self.grown.append)
        assert await read_all(fetched) == data
        assert fetched.size == len(data)
        fetched.close()
        return len(self.source.asked) == before

    def files(self) -> list[Path]:
        return [each for each in self.folder.glob("*/*") if each.is_file()]


@pytest.fixture(params=["memory", "disk", "both"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path, request.param)
    yield made
    made.cache.close()


@pytest.fixture
def on_disk(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, "disk")
    yield made
    made.cache.close()


async def test_what_was_fetched_is_found_by_any_name_of_its_content(bench: Bench) -> None:
    for data in [SMALL] if bench.disk is None else [SMALL, LARGE]:
        assert not await bench.get(data)
        assert bench.grown.pop() == len(data)
        for digits in (32, 31, 8):
            assert await bench.get(data, wanted(data, digits=digits))
            assert bench.grown.pop() == len(data)  # it counts as lying fetched
        by_sha256 = replace(wanted(data).attachment, content_md5=None, content_sha256=sha256_of(data))
        assert await bench.get(data, Wanted(by_sha256, ACME, by_tenant=True))
        both = replace(wanted(data).attachment, content_sha256="0" * 64)
        assert not await bench.get(data, Wanted(both, ACME, by_tenant=True))  # the source says what is wrong


async def test_nobody_else_finds_it(bench: Bench) -> None:
    await bench.get(SMALL)
    for other in (
        wanted(SMALL, tenant=Tenant("globex", created_ts=5.0)),
        wanted(SMALL, tenant=Tenant("acme", created_ts=6.0)),  # deleted and made anew
        wanted(SMALL, by_tenant=False),
    ):
        assert not await bench.get(SMALL, other)
        assert await bench.get(SMALL, other)


async def test_what_has_no_name_is_fetched_each_time(bench: Bench) -> None:
    bench.source.contents["x"] = SMALL
    unnamed = Wanted(replace(wanted(SMALL).attachment, content_md5=None), ACME, by_tenant=True)
    assert [await bench.get(SMALL, unnamed) for _ in range(2)] == [False, False]


async def test_it_is_kept_for_a_while_and_then_cleared_away(bench: Bench) -> None:
    ttl = 300 if bench.disk is None else 3600
    data = SMALL if bench.disk is None else LARGE
    await bench.get(data)
    await bench.clock.advance(ttl - 1)
    assert await bench.get(data)
    await bench.clock.advance(2)
    assert not await bench.get(data)
    await bench.clock.advance(ttl + 1)
    await bench.cache.sweep()
    assert (bench.memory.size, bench.files()) == (0, [])


async def test_it_never_grows_over_its_limits_and_the_least_used_goes_first(bench: Bench) -> None:
    each = 4000 if bench.disk is None else 12_000
    first, *others = (bytes([n]) * each for n in range(9))
    for data in others:
        await bench.get(first)
        await bench.get(data)
        await bench.clock.advance(1)
        assert bench.memory.size <= MEMORY_MOST
        assert sum(file.stat().st_size for file in bench.files()) <= DISK_MOST
    assert await bench.get(first)
    assert not await bench.get(others[0])
    huge = bytes(DISK_MOST + 1)
    assert [await bench.get(huge) for _ in range(2)] == [False, False]
    assert await bench.get(first)


async def test_a_tenants_contents_go_with_it(bench: Bench) -> None:
    for data in (SMALL, LARGE):
        await bench.get(data)
        await bench.get(data, wanted(data, tenant=Tenant("globex")))
    await bench.cache.forget("acme")
    assert not await bench.get(SMALL)
    assert await bench.get(SMALL, wanted(SMALL, tenant=Tenant("globex")))


async def test_what_several_want_at_a_time_is_fetched_once(bench: Bench) -> None:
    bench.source.let.clear()
    tasks = [asyncio.create_task(bench.get(LARGE)) for _ in range(5)]
    await wait_until(lambda: bench.source.asked)
    tasks[3].cancel()
    bench.source.let.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert len(bench.source.asked) == 1
    assert tasks[3].cancelled()
    assert [task.exception() for n, task in enumerate(tasks) if n != 3] == [None] * 4


async def test_the_next_one_leads_when_the_first_is_cancelled_or_fails_elsewhere(bench: Bench) -> None:
    source = bench.source
    source.let.clear()
    source.failing = {"away"}
    first = asyncio.create_task(bench.get(SMALL))
    await wait_until(lambda: source.asked)
    away = [asyncio.create_task(bench.get(SMALL, wanted(SMALL, path="away"))) for _ in range(3)]
    last = asyncio.create_task(bench.get(SMALL))
    await asyncio.sleep(0)
    first.cancel()
    await wait_until(lambda: len(source.asked) == 2)
    source.let.set()
    results = await asyncio.gather(first, *away, last, return_exceptions=True)
    assert [type(each) for each in results[1:4]] == [FetchFailed] * 3  # one has asked for all that have its source
    assert results[4] in {False, True}
    assert len(source.asked) == 3
    assert await bench.get(SMALL)


async def wait_until(condition: Callable[[], object]) -> None:
    for _ in range(1000):
        if condition():
            await settled()
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it does not come")


# On disk


async def test_what_is_being_sent_stays_readable_when_it_is_cleared_away(on_disk: Bench) -> None:
    await on_disk.get(LARGE)
    held = await on_disk.cache.fetch(wanted(LARGE), on_disk.grown.append)
    await on_disk.cache.forget("acme")
    assert on_disk.files() == []
    assert await read_all(held) == LARGE
    held.close()


@pytest.mark.parametrize("damage", ["cut", "changed", "longer", "empty", "folder", "link", "unreadable name"])
async def test_no_torn_or_changed_file_is_served(on_disk: Bench, damage: str) -> None:
    await on_disk.get(LARGE)
    (file,) = on_disk.files()
    match damage:
        case "cut":
            os.truncate(file, 100)
        case "changed":
            file.write_bytes(b"X" + LARGE[1:])
        case "longer":
            file.write_bytes(LARGE + b"X")
        case "empty":
            file.write_bytes(b"")
        case "folder":
            file.unlink()
            file.mkdir()
        case "link":
            file.rename(file.parent.parent / "elsewhere")
            file.symlink_to(file.parent.parent / "elsewhere")
        case _:
            file.rename(file.with_name("tmp-1"))
    if damage == "folder":
        assert not await on_disk.get(LARGE)
        return
    assert [await on_disk.get(LARGE) for _ in range(2)] == [False, True]


async def test_several_processes_share_a_folder_and_remnants_are_cleared_away(on_disk: Bench, tmp_path: Path) -> None:
    await on_disk.get(LARGE)
    other = on_disk.tier()
    scope = Scope("acme", 5.0, by_tenant=True)
    found = other.find(scope, wanted(LARGE).attachment)
    assert found is not None
    found.close()
    (folder,) = (each for each in on_disk.folder.iterdir() if each.is_dir())
    (folder / "tmp-left").write_bytes(b"half")
    (on_disk.folder / "of-somebody-else.txt").write_text("mine")
    assert other.sweep() == len(LARGE)
    assert not (folder / "tmp-left").exists()
    assert (on_disk.folder / "of-somebody-else.txt").exists()
    with other.locked() as mine, on_disk.tier().locked() as both:
        assert (mine, both) == (True, False)
        assert on_disk.tier().put(Content(scope, md5_of(SMALL), sha256_of(SMALL)), spooled(SMALL)) is None


async def test_a_disk_that_does_not_work_costs_the_cache_and_no_message(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    bench = Bench(tmp_path, "both")
    await bench.cache.sweep()
    assert [await bench.get(LARGE) for _ in range(2)] == [False, False]
    assert [await bench.get(SMALL) for _ in range(2)] == [False, True]
    (tmp_path / "cache").unlink()
    await bench.clock.advance(61)
    assert [await bench.get(LARGE) for _ in range(2)] == [False, True]
    bench.cache.close()


WRITER = """
import hashlib, os, sys, pathlib
from mail_proxy.attachments.cache_disk import DiskTier
from mail_proxy.attachments.cache_memory import Content, Scope
from mail_proxy.attachments.spool import Spooled
tier = DiskTier(pathlib.Path(sys.argv[1]), 20_000_000, 3600, lambda: None)
while True:
    data = os.urandom(3_000_000)
    md5, sha = hashlib.md5(data).hexdigest(), hashlib.sha256(data).hexdigest()
    tier.put(Content(Scope("acme", 5.0, True), md5, sha), Spooled(data, len(data), md5, sha))
    print(flush=True)
"""


def test_a_killed_process_leaves_nothing_half(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, 20_000_000, 3600.0, lambda: None)
    for n in range(3):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            for _ in range(3 + n):
                writer.stdout.readline()
            writer.send_signal(signal.SIGKILL)
    total = tier.sweep()
    files = [each for each in tmp_path.glob("*/*") if each.is_file()]
    assert total == sum(each.stat().st_size for each in files)
    assert 0 < total <= 20_000_000
    for each in files:
        _, md5, sha256, size = each.name.split("-")
        assert sha256_of(each.read_bytes()) == sha256
        assert each.stat().st_size == int(size)
        assert time.time() - each.stat().st_mtime < 60
        named = Attachment("a", FetchMode.ENDPOINT, "x", "application/pdf", content_md5=md5)
        found = tier.find(Scope("acme", 5.0, by_tenant=True), named)
        assert found is not None
        found.close()


async def test_it_is_counted(bench: Bench) -> None:
    await bench.get(SMALL)
    await bench.get(SMALL)
    tier = "disk" if bench.files() else "memory"
    text = bench.meter.render().decode()
    kept = len(SMALL) + (ENTRY_OVERHEAD if tier == "memory" else 0)
    for line in (
        f'gmp_attachment_cache_hits_total{{tier="{tier}"}} 1.0',
        f'gmp_attachment_cache_hit_bytes_total{{tier="{tier}"}} {float(len(SMALL))}',
        f'gmp_attachment_cache_bytes{{tier="{tier}"}} {float(kept)}',
        "gmp_attachment_cache_misses_total 1.0",
        f'gmp_attachment_cache_evictions_total{{tier="{tier}"}} 0.0',
    ):
        assert line in text
