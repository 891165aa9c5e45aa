"""Contents that were named by a digest and fetched a short while ago: they are not fetched again.

    fetch ──▶ memory ──▶ disk ──▶ somebody who fetches the same just now ──▶ the sources

Without memory and disk the last step remains: what several ask for at one time is fetched once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import structlog
from typing_extensions import override

from mail_proxy.attachments.cache_disk import DiskTier
from mail_proxy.attachments.cache_memory import Content, MemoryTier, Scope
from mail_proxy.attachments.spool import IN_MEMORY, Spooled
from mail_proxy.domain.attachment import FetchMode
from mail_proxy.ports.attachments import AttachmentSource, Fetched, FetchFailed, Wanted
from mail_proxy.ports.clock import Clock
from mail_proxy.ports.observers import CacheMeter, CacheTier

log = structlog.get_logger(__name__)
T = TypeVar("T")

SWEEP_EVERY = 60.0
_PATIENCE = 10.0
"""Seconds that a disk is waited for; then it is left alone for `_REST`, and everything is fetched."""  # G11
_REST = 60.0
_READERS = 4

_Named = tuple[Scope, "str | None", "str | None"]


@dataclass(slots=True)
class _Flight:
    """A fetch under way, and those who wait for it."""

    wanted: Wanted
    done: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0
    held: Spooled | None = None
    failure: FetchFailed | None = None

    def leave(self) -> None:
        """One waits no longer; the last one gives the bytes up."""
        self.waiting -= 1
        if not self.waiting and self.held is not None:
            self.held.close()
            self.held = None


class CachedSource(AttachmentSource):
    """Keeps what `source` has fetched and verified, up to `threshold` bytes in memory, the rest on disk.

    A content is found by the tenant that has fetched it, and by its digest. Trouble with the disk never fails a
    message: then there is no cache on disk for a while.
    """

    def __init__(
        self,
        source: AttachmentSource,
        clock: Clock,
        meter: CacheMeter,
        *,
        memory: MemoryTier,
        disk: DiskTier | None,
        threshold: int,
    ) -> None:
        self._source = source
        self._clock = clock
        self._meter = meter
        self._memory = memory
        self._disk = disk
        self._threshold = threshold
        self._flights: dict[_Named, _Flight] = {}
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="cache-read")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="cache-write")
        self._disk_again = 0.0

    def close(self) -> None:
        """Let the threads end; one that hangs is not waited for."""
        for threads in (self._readers, self._writer):
            threads.shutdown(wait=False, cancel_futures=True)

    async def run(self) -> None:
        """Clear away what is too old, at the start and then every minute."""
        while True:
            await self.sweep()
            await self._clock.sleep(SWEEP_EVERY)

    async def sweep(self) -> None:
        """Clear away what is too old, too much, or what a process that was killed has left."""
        self._memory.sweep()
        if self._disk is not None:
            self._tell(await self._on(self._writer, self._disk.sweep))

    async def forget(self, tenant_id: str) -> None:
        """Remove what a tenant has here. Other processes find it no more as soon as the tenant is gone."""
        self._memory.forget(tenant_id)
        if self._disk is not None:
            disk = self._disk
            await self._on(self._writer, lambda: disk.forget(tenant_id))

    @override
    async def fetch(self, wanted: Wanted, grown: Callable[[int], None]) -> Fetched:
        named = wanted.attachment
        if named.fetch_mode is FetchMode.BASE64 or (named.content_md5 is None and named.content_sha256 is None):
            return await self._source.fetch(wanted, grown)
        scope = Scope(wanted.tenant.id, wanted.tenant.created_ts, wanted.by_tenant)
        key = (scope, named.content_md5, named.content_sha256)
        while True:
            flight = self._flights.get(key)
            if flight is None:
                # From here to its end nobody else asks for it: neither the disk nor the source.
                return await self._lead(key, wanted, grown)
            followed = await self._follow(flight, wanted)
            if followed is not None:
                self._meter.cache_hit(CacheTier.SHARED, followed.size)
                grown(followed.size)
                return followed

    async def _lead(self, key: _Named, wanted: Wanted, grown: Callable[[int], None]) -> Fetched:
        flight = self._flights[key] = _Flight(wanted)
        try:
            fetched: Fetched | None = await self._find(key[0], wanted)
            if fetched is not None:
                grown(fetched.size)
            else:
                self._meter.cache_missed()
                fetched = await self._source.fetch(wanted, grown)
                try:
                    await self._keep(key[0], fetched)
                except BaseException:
                    fetched.close()
                    raise
            if flight.waiting and isinstance(fetched, Spooled):
                with suppress(OSError):  # no more files can be opened: they fetch it themselves
                    flight.held = fetched.copy()
            return fetched
        except FetchFailed as error:
            flight.failure = error
            raise
        finally:
            del self._flights[key]
            flight.done.set()

    async def _follow(self, flight: _Flight, wanted: Wanted) -> Spooled | None:
        """Wait for somebody else's fetch. None if that came to nothing and this one may fare better."""
        flight.waiting += 1
        try:
            await flight.done.wait()
            if flight.held is not None:
                return flight.held.copy()
            if flight.failure is not None and _same_source(flight.wanted, wanted):
                raise FetchFailed(flight.failure.reason, permanent=flight.failure.permanent)
            return None
        finally:
            flight.leave()

    async def _find(self, scope: Scope, wanted: Wanted) -> Spooled | None:
        held = self._memory.find(scope, wanted.attachment)
        if held is not None:
            content, data = held
            self._meter.cache_hit(CacheTier.MEMORY, len(data))
            return Spooled(data, len(data), content.md5, content.sha256)
        if self._disk is None:
            return None
        disk = self._disk
        found = await self._on(self._readers, lambda: disk.find(scope, wanted.attachment))
        if found is not None:
            self._meter.cache_hit(CacheTier.DISK, found.size)
        return found

    async def _keep(self, scope: Scope, fetched: Fetched) -> None:
        if not isinstance(fetched, Spooled):
            return
        content = Content(scope, fetched.md5, fetched.sha256)
        if fetched.size <= self._threshold:
            data = await self._in_memory(fetched)
            if data is not None:
                self._memory.put(content, data)
        elif self._disk is not None:
            disk, copy = self._disk, fetched.copy()
            self._tell(await self._on(self._writer, lambda: disk.put(content, copy), copy.close))

    async def _in_memory(self, fetched: Spooled) -> bytes | None:
        if fetched.size <= IN_MEMORY:  # it is there already
            return b"".join(fetched.blocks(IN_MEMORY))
        copy = fetched.copy()
        return await self._on(self._readers, lambda: b"".join(copy.blocks(copy.size)), copy.close)

    def _tell(self, total: int | None) -> None:
        if total is not None:
            self._meter.cache_holds(CacheTier.DISK, total)

    async def _on(
        self, threads: ThreadPoolExecutor, work: Callable[[], T], at_the_end: Callable[[], None] | None = None
    ) -> T | None:
        """Do something with the disk; None where it does not work, or not soon enough.

        `at_the_end` is called when the thread has ended, which may be later.
        """
        if self._clock.monotonic() < self._disk_again:
            if at_the_end is not None:
                at_the_end()
            return None
        running = threads.submit(work)
        if at_the_end is not None:
            running.add_done_callback(lambda _running: at_the_end())
        try:
            return await asyncio.wait_for(asyncio.wrap_future(running), _PATIENCE)
        except asyncio.CancelledError:
            running.add_done_callback(_close_late)
            raise
        except (asyncio.TimeoutError, TimeoutError):
            running.add_done_callback(_close_late)
            reason = "it does not answer"
        except OSError as error:
            reason = error.strerror or type(error).__name__
        self._disk_again = self._clock.monotonic() + _REST
        log.warning("attachments are not cached on disk for a while", reason=reason, seconds=_REST)
        return None


def _same_source(one: Wanted, other: Wanted) -> bool:
    a, b = one.attachment, other.attachment
    return (a.fetch_mode, a.storage_path, a.auth) == (b.fetch_mode, b.storage_path, b.auth)


def _close_late(running: Future[T]) -> None:
    """Give up what nobody waits for any longer."""
    with suppress(BaseException):
        found = running.result()
        if isinstance(found, Spooled):
            found.close()
