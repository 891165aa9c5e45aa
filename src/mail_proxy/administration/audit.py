"""Keeping the command log: entries are written in groups, soon, and without anybody's message waiting for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from itertools import islice
from math import inf, nextafter

import anyio
import structlog

from mail_proxy.domain.command_log import Entry, EntryFilter, Logged, LogPage, Position
from mail_proxy.domain.errors import StoreBroken, StoreUnavailable
from mail_proxy.ports.clock import Clock
from mail_proxy.ports.command_log import CommandLog

CAPACITY = 10_000
"""Entries that wait in memory while the database is away; of what comes then only the number is known."""  # G11
TOGETHER = 1000
"""Entries that are written, read or removed at a time."""
PRUNED = 500
MOST_CHUNKS = 40
"""Chunks that one call removes: a second or so, in which others take their turns."""
GATHERING = 0.5
"""Seconds that entries wait for company: a process that is killed loses what nobody waited for in that time."""
PATIENCE = 2.0
"""Seconds that an answer waits for its entry. What was done is done, and its caller is to hear of it within 5."""
AWAY = 5.0
PRUNE_INTERVAL = 60.0

log = structlog.get_logger(__name__)


class AuditLog:
    """Takes entries down, shows them, and removes what is older than `retention` seconds.

    An entry stays in memory until it is written. It is written once, also where the answer to that was lost.
    """

    def __init__(self, command_log: CommandLog, clock: Clock, retention: float) -> None:
        self._log = command_log
        self._clock = clock
        self._retention = retention
        self._waiting: deque[Entry] = deque()
        self._unsure = False
        self._lost = 0
        self._news = asyncio.Event()
        self._writing = asyncio.Lock()

    # -- taking down -------------------------------------------------------------------------------------------------

    def note(self, entry: Entry) -> None:
        """Take an entry down without waiting: it is written within a second, if nothing happens to the process."""
        if len(self._waiting) >= CAPACITY:
            if not self._lost:
                log.error("the command log is full", waiting=CAPACITY)
            self._lost += 1
            return
        self._waiting.append(entry)
        self._news.set()

    async def record(self, entry: Entry) -> None:
        """Take an entry down and return when it is written, or after `PATIENCE` seconds; it is written later then."""
        self.note(entry)
        try:
            with anyio.fail_after(PATIENCE):
                await self.written()
        except (StoreUnavailable, StoreBroken, TimeoutError) as error:
            _say_that_it_waits(error)

    async def written(self) -> None:
        """Return when all that was taken down before is written. Raises `StoreUnavailable`, `StoreBroken`."""
        behind = len(self._waiting)
        async with self._writing:
            while self._waiting and behind > 0:
                entries = tuple(islice(self._waiting, TOGETHER))
                again, self._unsure = self._unsure, True
                await self._write(entries, again=again)
                self._unsure = False
                for _ in entries:
                    self._waiting.popleft()
                behind -= len(entries)
            if self._lost:
                log.error("entries of the command log are lost", entries=self._lost)
                self._lost = 0

    async def _write(self, entries: Sequence[Entry], *, again: bool) -> None:
        try:
            await self._log.append(entries, again=again)
        except (StoreUnavailable, StoreBroken):
            raise
        except Exception:
            if len(entries) == 1:  # nothing foresees it; it must not keep the others waiting  # G13
                log.exception("an entry of the command log is refused by the store", route=entries[0].route)
                self._lost += 1
                return
            for entry in entries:
                await self._write([entry], again=True)

    async def run(self, started: Callable[[], None]) -> None:
        """Write what is noted, and remove what is old, until cancelled."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._keep_writing, name="command log writing")
            group.start_soon(self._keep_pruning, name="command log pruning")
            started()

    async def close(self) -> None:
        """Write what is left, once everybody else has ended; says so where that cannot be done."""
        try:
            await self.written()
        except (StoreUnavailable, StoreBroken):
            log.error("entries of the command log are lost", entries=len(self._waiting) + self._lost)  # noqa: TRY400

    async def _keep_writing(self) -> None:
        while True:
            await self._news.wait()
            await self._clock.sleep(GATHERING)
            self._news.clear()
            try:
                await self.written()
            except StoreUnavailable:
                self._news.set()
                await self._clock.sleep(AWAY)

    async def _keep_pruning(self) -> None:
        while True:
            await self._clock.sleep(PRUNE_INTERVAL)
            try:
                await self.prune()
            except StoreUnavailable:
                continue

    async def prune(self) -> None:
        """Remove what is old, in chunks."""
        before = self._clock.now() - self._retention
        while await self._log.prune(before, PRUNED) >= PRUNED:
            pass

    async def remove(self, until: float) -> tuple[int, bool]:
        """Remove entries from before a time, the oldest first; say how many, and whether there may be more."""  # G11
        removed = 0
        for _ in range(MOST_CHUNKS):
            chunk = await self._log.prune(until, PRUNED)
            removed += chunk
            if chunk < PRUNED:
                return removed, False
        return removed, True

    # -- showing -----------------------------------------------------------------------------------------------------

    async def page(self, wanted: EntryFilter, before: Position | None, limit: int) -> LogPage:
        """Return entries before a place, newest first, what was noted here just now among them."""
        await self._catch_up()
        return await self._log.page(wanted, before, limit)

    async def all(self, wanted: EntryFilter) -> AsyncGenerator[Sequence[Logged], None]:
        """Return every entry up to now, oldest first, in at least one chunk: each is a short read of its own."""
        await self._catch_up()
        end = nextafter(self._clock.now(), inf)
        until = end if wanted.until is None else min(wanted.until, end)
        after: Position | None = None
        while True:
            page = await self._log.page(replace(wanted, until=until), after, TOGETHER, oldest_first=True)
            yield page.entries
            after = page.next_position
            if after is None:
                return

    async def _catch_up(self) -> None:
        """Have written what was noted, so that it is read as well; what can only be read is read without it."""
        try:
            with anyio.fail_after(PATIENCE):
                await self.written()
        except (StoreUnavailable, StoreBroken) as error:
            _say_that_it_waits(error)
        except TimeoutError:
            raise StoreUnavailable("the database does not answer") from None


def _say_that_it_waits(error: Exception) -> None:
    log.warning("the command log cannot be written now", reason=str(error) or "the database does not answer")
