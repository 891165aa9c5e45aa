"""The feed: a tenant's events in their order, from any place on, and a wait for what comes next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum

import anyio

from mail_proxy.domain.errors import CursorTooOld, Invalid, Problem, StoreUnavailable
from mail_proxy.ports import outbox
from mail_proxy.ports.clock import Clock
from mail_proxy.reporting.payload import spliced

MAX_BYTES = 1_000_000
"""Of the entries of one page, but for a single one that is bigger."""
LONGEST_WAIT = 30.0
WAITING_OF_TENANT = 16
"""Calls of one tenant that may wait; what comes beyond is answered at once."""
LOOK_EVERY = 1.0
"""Seconds between two looks for events that other instances wrote, while somebody waits."""
_NOWHERE = 2**63 - 1
_BEYOND = (
    "is beyond the last event of this tenant: it comes from another database, or from a time that a backup has undone; "
    "begin without it, or with latest"
)


class Start(Enum):
    """Where to begin without a cursor."""

    OLDEST = "oldest"
    """With the oldest event that is kept."""
    LATEST = "latest"
    """With what comes from now on."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for: events after one of them, and for how long to wait where there is none."""

    tenant_id: str
    after: int | Start
    limit: int
    wait: float = 0.0


@dataclass(frozen=True, slots=True)
class FeedPage:
    """Entries as JSON, each as in a report, and the cursor to go on with."""

    entries: tuple[bytes, ...]
    next_after: int
    more: bool
    """Whether there was more at that moment."""
    too_many_wait: bool = False
    """Whether it was to wait, and did not: so many of the tenant's calls wait already."""


@dataclass(slots=True, eq=False)
class _Waiter:
    """A call that may wait."""

    after: int = _NOWHERE
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    dismissed: bool = False

    def dismiss(self) -> None:
        """Have it answered with what there is."""
        self.dismissed = True
        self.woken.set()


class Feed:
    """Answers who asks for events, at once or when there are some.

    `notify` and `stop` may be called at any time from the event loop's thread. `run` looks for what other instances
    wrote: one statement a second for all that wait, and none where nobody does.
    """

    def __init__(self, events: outbox.Feed, clock: Clock, most_waiting: int = 500) -> None:
        """At most `most_waiting` calls wait. Where one comes beyond, one of the tenant with the most is answered."""
        self._events = events
        self._clock = clock
        self.most_waiting = most_waiting
        self._waiting: dict[str, dict[_Waiter, None]] = {}
        self._count = 0
        self._somebody = asyncio.Event()
        self._stopped = False

    def notify(self, tenant_ids: Iterable[str]) -> None:
        """Tell that events of these were written."""
        for tenant_id in set(tenant_ids).intersection(self._waiting):
            for waiter in self._waiting[tenant_id]:
                waiter.woken.set()

    def stop(self) -> None:
        """Answer everybody who waits, and have nobody wait any more."""  # G6
        self._stopped = True
        for waiters in list(self._waiting.values()):
            for waiter in waiters:
                waiter.dismiss()

    async def run(self) -> None:
        """Look for news until cancelled."""
        while True:
            await self._somebody.wait()
            await self._clock.sleep(LOOK_EVERY)
            if not self._waiting:
                self._somebody.clear()
                continue
            try:
                ends = await self._events.ends(tuple(self._waiting))
            except StoreUnavailable:
                continue
            for tenant_id, end in ends.items():
                for waiter in self._waiting.get(tenant_id, ()):
                    if end > waiter.after:
                        waiter.woken.set()

    async def read(
        self,
        wanted: Wanted,
        turn: Callable[[], AbstractAsyncContextManager[None]],
        gone: Callable[[], Awaitable[object]],
    ) -> FeedPage:
        """Return a page of events; an empty one only after the wait, or when `gone` returns: the client went away.

        Each read is made in a `turn`. Raises `CursorTooOld`, and `Invalid` for a cursor that cannot be the tenant's.
        """
        too_many = len(self._waiting.get(wanted.tenant_id, ())) >= WAITING_OF_TENANT
        if wanted.wait <= 0 or self._stopped or too_many:
            async with turn():
                page = await self._page(wanted, wanted.after)
            return replace(page, too_many_wait=wanted.wait > 0 and too_many)
        deadline = self._clock.monotonic() + min(wanted.wait, LONGEST_WAIT)
        after = wanted.after
        with self._place(wanted.tenant_id) as waiter:  # before the first look, so that nothing is missed after it
            while True:
                waiter.woken.clear()
                async with turn():
                    page = await self._page(wanted, after)
                left = deadline - self._clock.monotonic()
                if page.entries or waiter.dismissed or left <= 0:
                    return page
                after = waiter.after = page.next_after
                if not await self._is_woken(waiter, left, gone):
                    return page

    async def _page(self, wanted: Wanted, after: int | Start) -> FeedPage:
        if after is Start.LATEST:
            ends = await self._events.ends([wanted.tenant_id])
            return FeedPage((), ends[wanted.tenant_id], more=False)
        place = after if isinstance(after, int) else None
        stretch = await self._events.stretch(wanted.tenant_id, place, wanted.limit + 1, MAX_BYTES)
        if place is not None and place < stretch.horizon:
            raise CursorTooOld(stretch.horizon)
        if place is not None and place > stretch.end:
            raise Invalid(Problem("after", _BEYOND), code="cursor_beyond_end")
        entries: list[bytes] = []
        size = 0
        for stored in stretch.events[: wanted.limit]:
            entry = spliced(stored)
            size += len(entry) + 1
            if entries and size > MAX_BYTES:
                break
            entries.append(entry)
        last = stretch.events[len(entries) - 1].event_id if entries else place
        return FeedPage(
            tuple(entries),
            stretch.horizon if last is None else last,
            more=len(entries) < len(stretch.events),
        )

    @contextmanager
    def _place(self, tenant_id: str) -> Iterator[_Waiter]:
        if self._count >= self.most_waiting and self._waiting:
            most = max(self._waiting, key=lambda each: len(self._waiting[each]))
            longest = next(iter(self._waiting[most]))
            longest.dismiss()
            self._leave(most, longest)
        waiter = _Waiter()
        self._waiting.setdefault(tenant_id, {})[waiter] = None
        self._count += 1
        self._somebody.set()
        try:
            yield waiter
        finally:
            self._leave(tenant_id, waiter)

    def _leave(self, tenant_id: str, waiter: _Waiter) -> None:
        waiters = self._waiting.get(tenant_id, {})
        if waiter in waiters:
            del waiters[waiter]
            self._count -= 1
            if not waiters:
                del self._waiting[tenant_id]

    async def _is_woken(self, waiter: _Waiter, seconds: float, gone: Callable[[], Awaitable[object]]) -> bool:
        """Return once it is, or the time is over, or the client has gone."""

        async def until(wait: Callable[[], Awaitable[object]]) -> None:
            await wait()
            group.cancel_scope.cancel()

        async def time() -> None:
            await self._clock.sleep(seconds)

        async with anyio.create_task_group() as group:
            group.start_soon(until, time, name="feed patience")
            group.start_soon(until, gone, name="feed client")
            await waiter.woken.wait()
            group.cancel_scope.cancel()
        return waiter.woken.is_set() and not waiter.dismissed
