"""Time that passes only when a test says so."""

from __future__ import annotations

import asyncio
import heapq
import itertools

from typing_extensions import override

from mail_proxy.ports.clock import Clock

_PATIENCE = 200_000


async def settled() -> None:
    """Return once every other task waits for something that no task can bring about: time, the network, the test.

    Raises `AssertionError` if that never happens, which means that a task spins.
    """
    this = asyncio.current_task()
    for _ in range(_PATIENCE):
        await asyncio.sleep(0)
        waiters = [getattr(task, "_fut_waiter", None) for task in asyncio.all_tasks() if task is not this]
        if all(waiter is not None and not waiter.done() for waiter in waiters):
            return
    raise AssertionError("some task never comes to rest")


class FakeClock(Clock):
    """A clock that stands still between calls of `advance`. Sleepers wake in order, each at its own time."""

    def __init__(self, now: float = 1_760_000_000.0, monotonic: float = 1000.0) -> None:
        self._now = now
        self._monotonic = monotonic
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []
        self._order = itertools.count()
        self.sleeps = 0
        """How often somebody went to sleep."""

    @override
    def now(self) -> float:
        return self._now

    @override
    def monotonic(self) -> float:
        return self._monotonic

    @override
    async def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.Event()
        heapq.heappush(self._sleepers, (self._monotonic + seconds, next(self._order), woken))
        await woken.wait()

    async def advance(self, seconds: float) -> None:
        """Let time pass; everything that is to happen meanwhile has happened at its time when this returns."""
        end = self._monotonic + seconds
        await settled()
        while self._sleepers and self._sleepers[0][0] <= end:
            time, _, woken = heapq.heappop(self._sleepers)
            self._set(time)
            woken.set()
            await settled()
        self._set(end)
        await settled()

    def skip(self, seconds: float) -> None:
        """Let time pass in which nothing happens, as while the process is stopped; sleepers are late then."""
        self._set(self._monotonic + seconds)

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an operator or a time server does."""
        self._now += seconds

    def _set(self, monotonic: float) -> None:
        passed = max(0.0, monotonic - self._monotonic)
        self._monotonic += passed
        self._now += passed
