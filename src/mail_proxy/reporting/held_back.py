"""Messages whose events a tenant could not take: they wait on their own, and the others go past them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from mail_proxy.reporting.backoff import pause_after


@dataclass(slots=True)
class _Refusal:
    failures: int
    retry_from: float
    """From here on it goes along with what is sent anyway, so that many refusals do not make as many reports."""
    retry_at: float
    """Now it goes out even alone."""


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

    def refuse(self, message_pks: Iterable[int], now: float, rng: Random) -> None:
        """Hold messages back, each longer every time."""
        for message_pk in message_pks:
            known = self._refusals.get(message_pk)
            failures = 1 if known is None else known.failures + 1
            pause = pause_after(failures, rng)
            self._refusals[message_pk] = _Refusal(failures, now + pause * 0.75, now + pause)
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
            refusal.retry_from = refusal.retry_at = -math.inf
        self._recount()

    def admits(self, message_pk: int, now: float) -> bool:
        """Say whether a message's events may go out now. When crowded, only messages that are held back already may."""
        refusal = self._refusals.get(message_pk)
        return not self.crowded if refusal is None else refusal.retry_from <= now

    def nothing_beyond(self, message_pks: set[int]) -> bool:
        """Say whether it is pointless to look further than these messages: there is room for those held back only."""
        return self.crowded and self._refusals.keys() <= message_pks

    def keep_only(self, message_pks: set[int]) -> None:
        """Forget messages that have no unreported events any more, whoever reported them."""
        for message_pk in self._refusals.keys() - message_pks:
            del self._refusals[message_pk]
        self._recount()

    def _recount(self) -> None:
        self._next_retry = min((refusal.retry_at for refusal in self._refusals.values()), default=None)
