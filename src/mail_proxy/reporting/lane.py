"""What is known of one tenant's reports, and when the next one is due. Decides; does no I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from mail_proxy.domain.reply import printable
from mail_proxy.domain.sync_lease import SyncMemory
from mail_proxy.reporting.answer import Acknowledged
from mail_proxy.reporting.backoff import LONGEST_FOR_STORE, pause_after
from mail_proxy.reporting.complaints import Complaints
from mail_proxy.reporting.held_back import HeldBack
from mail_proxy.reporting.payload import Posted
from mail_proxy.reporting.places import PROMPT, Kind
from mail_proxy.reporting.settings import ReportingSettings

NOW = -math.inf
"""A time that has always come."""

_SHORTEST_GAP = 1.0
"""Seconds between the starts of syncs that follow each other because the tenant has more to submit."""
_SLOW = 5.0
"""Seconds; an endpoint that takes longer does not get longer reports."""

_LOOK_AGAIN, _LOOK_AGAIN_LATER = 1.0, 8.0
"""Seconds after which a tenant is tried again that another instance has in hand: at first, and at last."""
_FARTHEST = 86400.0
"""Seconds; what another instance hands on is not believed beyond, as its clock may be wrong."""  # G14


@dataclass(frozen=True, slots=True)
class SyncStatus:
    """How reporting to one tenant goes. Times in Unix seconds."""

    last_sync_ts: float | None = None
    """When a report was last acknowledged, empty ones included."""
    next_sync_due: float | None = None
    """When the next one is due as far as is known; None if nothing is, or if the endpoint is gone."""
    in_dnd: bool = False
    """The tenant wants no empty sync for now: do not disturb."""
    consecutive_failures: int = 0
    last_error: str | None = None
    """Why the last sync failed, if it did; printable, and without secrets."""


class Lane:
    """One tenant's schedule: grouping, backoff, do-not-disturb. Times are monotonic seconds."""  # G14

    def __init__(self, tenant_id: str, settings: ReportingSettings) -> None:
        self.tenant_id = tenant_id
        self.busy = False
        """A sync of this tenant is on its way; there is never a second one."""
        self.held_back = HeldBack(settings.max_held_back)
        self.complaints = Complaints()
        self.oddities = Complaints()
        self.asked_at = NOW
        """When somebody asked for a sync."""
        self.page_events = settings.max_events
        """How many events the next report takes: fewer after a failure, since a report can be too much to digest."""
        self._settings = settings
        self._events_since: float | None = None
        self._told_of = 0
        self._woken = False
        self._hurried = False
        self._elsewhere_until = NOW
        self._turned_away = 0
        self._blocked_until = NOW
        self._quiet_until = NOW
        self._empty_at: float | None = None
        self._gone = False
        self._look_at: float = NOW
        self._place: str | None = None
        self._slow = False
        self._broken_off = False
        self._failures = 0
        self._store_failures = 0
        self._last_error: str | None = None
        self._last_sync_ts: float | None = None
        self._started_at = NOW
        self._queued_before = 0

    @property
    def failures(self) -> int:
        """How many syncs have failed since the last one that did not."""
        return self._failures

    @property
    def failing(self) -> bool:
        """True when the last sync failed."""
        return self._failures > 0

    @property
    def expecting(self) -> bool:
        """True when it was told of events since the last sync began."""
        return self._events_since is not None

    @property
    def kind(self) -> Kind:
        """What is to be expected of the endpoint."""
        if self.failing or self._broken_off:
            return Kind.DOUBTFUL
        return Kind.SLOW if self._slow else Kind.PROMPT

    @property
    def page_bytes(self) -> int:
        """How many bytes the next report takes, in proportion to its events."""
        return max(1, self._settings.max_bytes * self.page_events // self._settings.max_events)

    @property
    def in_round(self) -> bool:
        """True when the tenant is in the round of empty syncs."""
        return self._empty_at is not None

    def due(self) -> float | None:
        """Return when the tenant's next turn is due; `NOW` for at once, None if there is nothing to do."""
        if self._woken:
            return self._elsewhere_until
        if self._gone:
            return max(self._look_at, self._elsewhere_until)
        times = [time for time in (self._events_due(), self._empty_due()) if time is not None]
        return max(min(times), self._blocked_until, self._elsewhere_until) if times else None

    def status(self, now: float, wall: float) -> SyncStatus:
        """Tell how it goes; `now` and `wall` are the same instant on both clocks."""
        due = None if self._gone and not self._woken else self.due()
        return SyncStatus(
            last_sync_ts=self._last_sync_ts,
            next_sync_due=None if due is None else wall + max(0.0, due - now),
            in_dnd=self._quiet_until > now,
            consecutive_failures=self._failures,
            last_error=self._last_error,
        )

    def expect(self, now: float, events: int = 1, *, at_once: bool = False) -> None:
        """Take note of events in the outbox; they wait for company unless there are enough or it is to be at once."""
        if self._events_since is None:
            self._events_since = now
        self._told_of += self._settings.max_events if at_once else events

    def hurry(self) -> None:
        """Send events at once, whatever they were waiting for."""
        self._hurried = True
        self._blocked_until = NOW
        self._gone = False
        self.held_back.retry_now()
        if self._events_since is not None:
            self._told_of += self._settings.max_events

    def wake(self) -> None:
        """Sync at once, events or not; ends do-not-disturb as well."""
        self.hurry()
        self._quiet_until = NOW
        self._woken = True

    def join_round(self, first: float) -> None:
        """Plan empty syncs, the first one at that time."""
        self._empty_at = first

    def leave_round(self) -> None:
        """Plan no empty syncs any more."""
        self._empty_at = None

    def moved(self, place: str) -> bool:
        """Start afresh if the tenant's endpoint is no longer the one that failed; True if it is not."""
        moved = self._place not in (None, place) and not self.busy
        if moved:
            self._place = None
            self._failures = 0
            self._last_error = None
            self.hurry()
        return moved

    def rests(self, now: float) -> bool:
        """True while the endpoint is gone and nobody asks for a sync; another instance's word is heard now and then."""
        resting = self._gone and not self._woken
        if resting:
            self._look_at = now + self._settings.sync_interval
        return resting

    def begin(self, now: float) -> bool:
        """Start a sync; True if it is to go out even without events. What comes up from here on is for the next one."""
        empty_due = self._empty_due()
        also_empty = self._woken or (empty_due is not None and empty_due <= now)
        self._woken = self._hurried = False
        self._turned_away = 0
        self._events_since = None
        self._told_of = 0
        self._started_at = now
        return also_empty

    def aim(self, place: str) -> None:
        """Take note of where the sync goes."""
        self._place = place

    def more(self, now: float) -> None:
        """Take note that the outbox holds more than what was read."""
        self.expect(now, at_once=True)

    def without_endpoint(self) -> None:
        """There is nowhere to report to: the events stay where they are."""
        self._woken = False
        self._events_since = None
        self._told_of = 0
        self._empty_at = None
        self.held_back = HeldBack(self._settings.max_held_back)

    def elsewhere(self, now: float) -> None:
        """Another instance has the tenant in hand: look again soon whether it has left something."""
        self._elsewhere_until = now + min(_LOOK_AGAIN * 2**self._turned_away, _LOOK_AGAIN_LATER)
        self._turned_away = min(self._turned_away + 1, 10)
        self.expect(now, at_once=True)

    def memory(self, now: float, wall: float) -> SyncMemory:
        """Return what the next instance should know; `now` and `wall` are the same instant on both clocks."""
        return SyncMemory(
            failures=self._failures,
            retry_at=wall + self._blocked_until - now if self._blocked_until > now else None,
            quiet_until=wall + self._quiet_until - now if self._quiet_until > now else None,
            synced_ts=self._last_sync_ts,
            due=self.status(now, wall).next_sync_due,
            last_error=self._last_error,
            place=self._place,
            gone=self._gone,
        )

    def adopt(self, memory: SyncMemory, now: float, wall: float) -> None:
        """Go on where another instance has left off, unless somebody asked for a sync meanwhile.

        Of another endpoint than today's it counts only when the last sync was.
        """
        self._last_sync_ts = memory.synced_ts
        if self._hurried:
            return
        if memory.place not in (None, self._place):
            memory = SyncMemory(synced_ts=memory.synced_ts, quiet_until=memory.quiet_until)
        self._gone = memory.gone
        self._failures = memory.failures
        self._last_error = memory.last_error
        self._blocked_until, self._quiet_until = (
            NOW if time is None else now + min(time - wall, _FARTHEST) for time in (memory.retry_at, memory.quiet_until)
        )
        if self._empty_at is not None and memory.synced_ts is not None:
            passed = max(0.0, wall - memory.synced_ts)
            self._empty_at = max(self._empty_at, now + self._settings.sync_interval - passed)

    def took(self, seconds: float) -> None:
        """Take note of how long the endpoint took to answer."""
        self._slow = seconds > PROMPT
        self._broken_off = False

    def broken_off(self, events: int, now: float, *, also_empty: bool) -> None:
        """Take note that the report took so long that others got its place: it goes out again when there is another."""
        self._broken_off = True
        self._retry(now, also_empty=also_empty and not events)

    def store_answered(self) -> None:
        """The outbox could be read."""
        self._store_failures = 0

    def store_away(self, now: float, rng: Random, *, also_empty: bool) -> None:
        """Put the sync off, because the outbox cannot be read."""
        self._store_failures += 1
        self._blocked_until = now + pause_after(self._store_failures, rng, longest=LONGEST_FOR_STORE)
        self._retry(now, also_empty=also_empty)

    def acknowledged(
        self,
        answer: Acknowledged,
        taken: Sequence[Posted],
        refused: set[int],
        now: float,
        wall: float,
        rng: Random,
    ) -> None:
        """Take note of a positive answer: it covers `taken`, and not the messages in `refused`."""
        self._failures = 0
        self._last_error = _not_taken(len(refused)) if refused else None
        self._last_sync_ts = wall
        self.held_back.settle(posted.message_pk for posted in taken)
        self.held_back.refuse(refused, now, rng)
        if now - self._started_at < _SLOW:
            self.page_events = min(self._settings.max_events, self.page_events * 2)
        if answer.next_sync_after is not None:
            self._quiet_until = now + max(0.0, answer.next_sync_after - wall)
        if self._empty_at is not None:
            # Never later than the interval, and a little spread, so that tenants do not fall into step.
            self._empty_at = now + self._settings.sync_interval * rng.uniform(0.9, 1.0)
            # It makes progress as long as reports go out or fewer messages are left than the time before.
            if answer.queued and (taken or not self._queued_before or answer.queued < self._queued_before):
                self._empty_at = min(self._empty_at, max(now, self._started_at + _SHORTEST_GAP))
        self._queued_before = answer.queued

    def refused(
        self, reason: str, asked: float | None, events: int, now: float, rng: Random, *, also_empty: bool
    ) -> None:
        """Take note of a failure: the whole tenant waits, and then the same events go out again."""
        self._failures += 1
        self._last_error = printable(reason)
        self._blocked_until = now + pause_after(self._failures, rng, asked)
        self.page_events = max(1, self.page_events // 2)
        self._retry(now, also_empty=also_empty and not events)

    def gone(self, reason: str, now: float) -> None:
        """Send nothing more until woken, or until the tenant's endpoint is another one."""
        self._failures += 1
        self._last_error = printable(reason)
        self._gone = True
        self._retry(now, also_empty=False)
        self.rests(now)

    def _retry(self, now: float, *, also_empty: bool) -> None:
        if also_empty and self._empty_at is not None:
            self._empty_at = now
        self.expect(now, at_once=True)

    def _events_due(self) -> float | None:
        """Return when events are to go out, do-not-disturb or not."""
        retry = self.held_back.next_retry
        if self._events_since is None or self.held_back.crowded:
            return retry
        full = self._told_of >= self._settings.max_events
        own = NOW if full else self._events_since + self._settings.group_wait
        return own if retry is None else min(own, retry)

    def _empty_due(self) -> float | None:
        return None if self._empty_at is None else max(self._empty_at, self._quiet_until)


def _not_taken(messages: int) -> str:
    if messages == 1:
        return "the endpoint answered that it could not take a message (error): its events come again"
    return f"the endpoint answered that it could not take {messages} messages (error): their events come again"
