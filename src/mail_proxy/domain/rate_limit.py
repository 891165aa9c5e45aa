"""How many SMTP transactions a window of time lets through.

A transaction counts from its reservation, made in the claim's own transaction, until it is settled, and from then for a
whole window. What was settled is kept by slots, a 64th of a window each, and counts as used until the end of its slot
has left the window. So no sliding window ever sees more than its limit, and at most a 64th of it is not made use of.
"""  # G10

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate
from typing import NamedTuple

SLOTS = 64
LOOK_AGAIN = 1.0
"""Seconds after which an account is looked at again whose limit is wholly in use by what is being sent."""


class LimitBehavior(str, Enum):
    """What becomes of a message that meets a limit: it waits, or it fails at once."""

    DEFER = "defer"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Windows:
    """How long a minute, an hour and a day last, in seconds; tests make them shorter."""

    minute: float = 60.0
    hour: float = 3600.0
    day: float = 86400.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How many transactions each window lets through; None: any number."""

    per_minute: int | None = None
    per_hour: int | None = None
    per_day: int | None = None

    @property
    def any(self) -> bool:
        """True when something is limited."""
        return bool(self.per_minute or self.per_hour or self.per_day)

    def by_window(self, windows: Windows) -> Sequence[WindowLimit]:
        """Return the limits that there are; 0 means none, as None does."""
        each = (
            ("minute", self.per_minute, windows.minute),
            ("hour", self.per_hour, windows.hour),
            ("day", self.per_day, windows.day),
        )
        return [WindowLimit(name, count, seconds) for name, count, seconds in each if count]


class WindowLimit(NamedTuple):
    """At most `most` transactions in any `seconds`."""

    name: str
    most: int
    seconds: float


class Used(NamedTuple):
    """So many transactions that count until then (seconds, by the clock that the store goes by)."""

    until: float
    times: int


class Room(NamedTuple):
    """How many transactions may begin now; if none, when it is worth looking again."""

    free: int
    next_free: float | None


def counts_until(settled_at: float, seconds: float) -> float:
    """Return until when a transaction counts that was settled at that time: its slot's end leaves the window then."""
    slot = seconds / SLOTS
    return (math.floor(settled_at / slot) + 1) * slot + seconds


def room(limit: WindowLimit, in_flight: int, used: Iterable[Used], now: float) -> Room:
    """Decide how much of a window is left, given what is reserved but not settled, and what was settled."""
    counting = sorted(each for each in used if each.until > now)
    free = limit.most - in_flight - sum(each.times for each in counting)
    if free > 0:
        return Room(free, None)
    freed = accumulate(each.times for each in counting)
    for each, given_back in zip(counting, freed, strict=True):
        if free + given_back > 0:
            return Room(0, each.until)
    return Room(0, now + LOOK_AGAIN)


def tightest(rooms: Iterable[tuple[str, Room]]) -> tuple[Room, str]:
    """Return what all windows, each with its name, leave together, and the name of the one that is shut the longest."""
    least, shut = Room(2**31, None), ""
    for name, each in rooms:
        until = least.next_free
        if each.next_free is not None and (until is None or each.next_free > until):
            until, shut = each.next_free, name
        least = Room(min(least.free, each.free), until)
    return least, shut
