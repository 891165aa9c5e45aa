"""Messages whose events a tenant could not take: they wait on their own, and the others go past them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random

from mail_proxy.domain.report import StoredEvent
from mail_proxy.reporting.backoff import pause_after


@dataclass(slots=True)
class _Refusal:
    failures: int
    retry_at: float
    events: int


class HeldBack:
    """Remembers refused messages of one tenant, each with its own backoff. Times are monotonic seconds.

    It holds messages and not events, so that the events of one message stay in order. G9
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._refusals: dict[int, _Refusal] = {}
        self._next_retry: float | None = None

    @property
    def crowded(self) -> bool:
        """True when so many are held back that the tenant as a whole has to wait: memory is bounded."""  # G11
        return len(self._refusals) >= self._most

    @property
    def next_retry(self) -> float | None:
        """When the first of them is to be sent again; None if none is held back."""
        return self._next_retry

    def refuse(self, events: Mapping[int, int], now: float, rng: Random) -> None:
        """Hold messages back, each longer every time; `events` counts the events of each."""
        for message_pk, count in events.items():
            known = self._refusals.get(message_pk)
            failures = 1 if known is None else known.failures + 1
            self._refusals[message_pk] = _Refusal(failures, now + pause_after(failures, rng), count)
        self._recount()

    def settle(self, message_pks: Iterable[int]) -> None:
        """Forget messages that the tenant took."""
        if self._refusals:
            for message_pk in message_pks:
                self._refusals.pop(message_pk, None)
            self._recount()

    def retry_now(self) -> None:
        """End all waits; how often each failed stays known."""
        for refusal in self._refusals.values():
            refusal.retry_at = -math.inf
        self._recount()

    def waits(self, message_pk: int, now: float) -> bool:
        """Say whether a message is to be passed over now."""
        refusal = self._refusals.get(message_pk)
        return refusal is not None and refusal.retry_at > now

    def waiting_events(self, now: float) -> int:
        """Count the known events that are to be passed over now."""
        return sum(refusal.events for refusal in self._refusals.values() if refusal.retry_at > now)

    def saw(self, rows: Iterable[StoredEvent], *, complete: bool) -> None:
        """Learn from a look at the outbox how many events each has; with `complete`, those without are forgotten."""
        if not self._refusals:
            return
        counts = Counter(row.event.message_pk for row in rows)
        for message_pk, refusal in list(self._refusals.items()):
            if counts[message_pk]:
                refusal.events = counts[message_pk]
            elif complete:
                del self._refusals[message_pk]
        self._recount()

    def _recount(self) -> None:
        self._next_retry = min((refusal.retry_at for refusal in self._refusals.values()), default=None)
