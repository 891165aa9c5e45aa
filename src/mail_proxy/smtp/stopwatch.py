"""How long each phase of an attempt took."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from mail_proxy.domain.attempt import Phase


class Stopwatch:
    """Adds up seconds by phase."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds: dict[Phase, float] = {}

    def add(self, phase: Phase, since: float) -> float:
        """Count what has passed since then (monotonic) to a phase; return the time that it is now."""
        now = monotonic()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - since
        return now

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """Count what a block takes, however it ends."""
        began = monotonic()
        try:
            yield
        finally:
            self.add(phase, began)
