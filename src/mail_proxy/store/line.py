"""Calls on their way to a thread of the store: they wait in a line, and are answered within a bounded time."""  # G12

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from mail_proxy.domain.errors import StoreUnavailable

ANSWER_WITHIN = 4.5
"""Seconds after which a caller is told that the database does not answer: within 5, whatever hangs."""
LOOK_EVERY = 0.1
LINE_WEIGHT = 128_000_000
"""Bytes, about, that may wait, as more would not be written in time; what comes then is refused at once."""  # G11
LINE_CALLS = 50_000
NEVER = math.inf


@dataclass(slots=True, eq=False)
class Call:
    """One call: its caller awaits `future`; a thread leaves `result` or `error`.

    `start_by`: when (monotonic) it is to be taken, also where none has come that does not want to wait.
    `company`: only what has the same one is taken with it.
    `given_up`: its caller was told that the database does not answer while a thread was at work on it.
    """

    future: asyncio.Future[Any]
    start_by: float = field(default=0.0, kw_only=True)
    weight: int = field(default=1, kw_only=True)
    company: object = field(default=None, kw_only=True)
    deadline: float = field(default=0.0, kw_only=True)
    given_up: bool = field(default=False, kw_only=True)
    result: Any = field(default=None, kw_only=True)
    error: BaseException | None = field(default=None, kw_only=True)


CallT = TypeVar("CallT", bound=Call)


class Line(Generic[CallT]):
    """What waits for a thread, in the order in which it came. Several threads may take from it."""

    def __init__(self) -> None:
        self._calls: OrderedDict[CallT, None] = OrderedDict()
        self._weight = 0
        self._start_by = NEVER
        """When the first of them is to be taken."""
        self._news = threading.Condition()
        self._ended = False

    def add(self, call: CallT) -> None:
        """Put one at the end; raises `StoreUnavailable` where too much waits already."""
        with self._news:
            if self._calls and (self._weight + call.weight > LINE_WEIGHT or len(self._calls) >= LINE_CALLS):
                raise StoreUnavailable("too much waits for the database already; nothing was stored")
            self._calls[call] = None
            self._weight += call.weight
            self._start_by = min(self._start_by, call.start_by)
            self._news.notify()

    def leave(self, call: CallT) -> bool:
        """Take one out again; False when a thread has taken it."""
        with self._news:
            if call not in self._calls:
                return False
            del self._calls[call]
            self._weight -= call.weight
            if not self._calls:
                self._start_by = NEVER
            return True

    def end(self) -> None:
        """Tell the threads that nothing more will come."""
        with self._news:
            self._ended = True
            self._news.notify_all()

    def take(self, most: int = 1, weight: int = 0) -> list[CallT]:
        """Wait until something is to be taken, and take as much as goes together; at the end nothing."""
        with self._news:
            while not self._ended and (pause := self._start_by - time.monotonic()) > 0:
                self._news.wait(None if pause == NEVER else pause)
            taken = self._together(most, weight)
            for call in taken:
                del self._calls[call]
                self._weight -= call.weight
            self._start_by = self._earliest()
            if self._calls:
                self._news.notify()
        return taken

    def _together(self, most: int, weight: int) -> list[CallT]:
        """Return the first that is due, or else the first of all, and what goes with it."""
        now = time.monotonic()
        first = next((call for call in self._calls if call.start_by <= now), next(iter(self._calls), None))
        if first is None:
            return []
        together = [first]
        weight -= first.weight
        for call in self._calls:
            if call is first or call.company is not first.company:
                continue
            weight -= call.weight
            if weight < 0 or len(together) >= most:
                break
            together.append(call)
        return together

    def _earliest(self) -> float:
        """Return when the first of those that are left is to be taken."""
        earliest = NEVER
        for call in self._calls:
            if not call.start_by:
                return 0.0
            earliest = min(earliest, call.start_by)
        return earliest


class Patience:
    """Ends the waiting of callers at their deadlines. Lives on the event loop, and costs nothing while nobody waits.

    `give_up` is told each call whose deadline has passed; `look` is called now and then while any call is on its way.
    """

    def __init__(self, give_up: Callable[[Any], None], look: Callable[[], None]) -> None:
        self._give_up = give_up
        self._look = look
        self._waiting: OrderedDict[Call, None] = OrderedDict()  # the oldest first, and so their deadlines
        self._on_their_way = 0
        self._ticking = False
        self._none_left = asyncio.Event()
        self._none_left.set()

    def watch(self, call: Call) -> None:
        """Take note of a call that was handed over just now."""
        loop = asyncio.get_running_loop()
        call.deadline = loop.time() + ANSWER_WITHIN
        self._waiting[call] = None
        self._on_their_way += 1
        self._none_left.clear()
        if not self._ticking:
            self._ticking = True
            loop.call_later(LOOK_EVERY, self._tick, loop)

    def answered(self, call: Call) -> None:
        """Take note that a call has come back, or will never be made."""
        self._waiting.pop(call, None)
        self._on_their_way -= 1
        if not self._on_their_way:
            self._none_left.set()

    async def none_left(self) -> None:
        """Return when no call is on its way, whether or not somebody waits for it."""
        await self._none_left.wait()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        while self._waiting and (oldest := next(iter(self._waiting))).deadline <= now:
            del self._waiting[oldest]
            self._give_up(oldest)
        self._look()
        self._ticking = self._on_their_way > 0
        if self._ticking:
            loop.call_later(LOOK_EVERY, self._tick, loop)
