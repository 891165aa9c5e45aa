"""Calls on their way to a thread of the store: they wait in a line, and are answered within a bounded time."""  # G12

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, Generic, TypeVar

from mail_proxy.domain.errors import StoreUnavailable

ANSWER_WITHIN = 4.5
"""Seconds after which a caller is told that the database does not answer: within 5, whatever hangs."""
LOOK_EVERY = 0.1
LINE_WEIGHT = 128_000_000
"""Bytes, about, that may wait, as more would not be written in time; what comes then is refused at once."""  # G11
LINE_CALLS = 50_000
NEVER = math.inf
ALONE: Final = object()
"""The company of those with which nothing else may be taken."""


@dataclass(slots=True, eq=False)
class Call:
    """One call: its caller awaits `future`; a thread leaves `result` or `error`.

    `start_by`: when (monotonic) it is to be taken, also where none has come that does not want to wait.
    `company`: only what has the same one is taken with it. `number`: its place in the line.
    `given_up`: its caller was told that the database does not answer while a thread was at work on it.
    """

    future: asyncio.Future[Any]
    start_by: float = field(default=0.0, kw_only=True)
    weight: int = field(default=1, kw_only=True)
    company: object = field(default=None, kw_only=True)
    number: int = field(default=0, kw_only=True)
    deadline: float = field(default=0.0, kw_only=True)
    given_up: bool = field(default=False, kw_only=True)
    result: Any = field(default=None, kw_only=True)
    error: BaseException | None = field(default=None, kw_only=True)


CallT = TypeVar("CallT", bound=Call)


@dataclass(slots=True)
class _Company(Generic[CallT]):
    """Calls that may be taken together, in the order in which they came, and when the first of them is to be taken."""

    calls: OrderedDict[CallT, None] = field(default_factory=OrderedDict)
    start_by: float = NEVER

    @property
    def first(self) -> CallT:
        return next(iter(self.calls))


class Line(Generic[CallT]):
    """What waits for a thread, in the order in which it came. Several threads may take from it.

    However much waits, taking some looks at nothing else.
    """

    def __init__(self) -> None:
        self._companies: dict[object, _Company[CallT]] = {}
        self._count = self._weight = 0
        self._numbers = count()
        self._news = threading.Condition()
        self._ended = False

    def __len__(self) -> int:
        return self._count

    def add(self, call: CallT) -> None:
        """Put one at the end; raises `StoreUnavailable` where too much waits already."""
        with self._news:
            if self._count and (self._weight + call.weight > LINE_WEIGHT or self._count >= LINE_CALLS):
                raise StoreUnavailable("too much waits for the database already; nothing was stored")
            call.number = next(self._numbers)
            company = self._companies.setdefault(call.company, _Company())
            company.calls[call] = None
            company.start_by = min(company.start_by, call.start_by)
            self._count += 1
            self._weight += call.weight
            self._news.notify()

    def leave(self, call: CallT) -> bool:
        """Take one out again; False when a thread has taken it."""
        with self._news:
            company = self._companies.get(call.company)
            if company is None or call not in company.calls:
                return False
            self._take_out(company, call)
            return True

    def end(self) -> None:
        """Tell the threads that nothing more will come."""
        with self._news:
            self._ended = True
            self._news.notify_all()

    def take(self, most: int = 1, weight: int = 0) -> list[CallT]:
        """Wait until something is to be taken, and take as much as goes together; at the end nothing."""
        with self._news:
            while not self._ended and (pause := self._start_by() - time.monotonic()) > 0:
                self._news.wait(None if pause == NEVER else pause)
            company = self._next()
            taken = [] if company is None else self._take_of(company, most, weight)
            if self._count:
                self._news.notify()
        return taken

    def _start_by(self) -> float:
        """Return when the first of all is to be taken."""
        return min((company.start_by for company in self._companies.values()), default=NEVER)

    def _next(self) -> _Company[CallT] | None:
        """Return the company whose turn it is: of those that are due, at the end of all, the one that came first."""
        now = math.inf if self._ended else time.monotonic()
        due = [company for company in self._companies.values() if company.start_by <= now]
        return min(due, key=lambda company: company.first.number, default=None)

    def _take_of(self, company: _Company[CallT], most: int, weight: int) -> list[CallT]:
        taken: list[CallT] = []
        while company.calls and len(taken) < most:
            first = company.first
            weight -= first.weight
            if taken and (weight < 0 or first.company is ALONE):
                break
            self._take_out(company, first)
            taken.append(first)
        company.start_by = 0.0  # what is left is due
        return taken

    def _take_out(self, company: _Company[CallT], call: CallT) -> None:
        del company.calls[call]
        self._count -= 1
        self._weight -= call.weight
        if not company.calls:
            del self._companies[call.company]


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
