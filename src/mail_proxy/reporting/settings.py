"""How reports are sent."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReportingSettings:
    """Times in seconds. Raises `ValueError` for values that would not work."""

    sync_interval: float = 300.0
    """A tenant is asked at least this often, also when there is nothing to report."""
    group_wait: float = 0.2
    """How long events wait for company, at most 1."""
    max_events: int = 500
    max_bytes: int = 1_000_000
    poll_interval: float = 5.0
    """How often the outbox is looked through for what nobody told of."""
    parallel: int = 64
    """Syncs at a time to endpoints that answer promptly."""
    parallel_slow: int = 192
    """Syncs at a time to endpoints that are slow, and as many again to those that failed last."""
    max_bytes_at_once: int = 64_000_000
    """Of reports that are being made or on their way, for each of the three: what an endpoint holds up is in memory."""
    max_held_back: int = 1000
    """Refused messages of one tenant that are remembered; with more, the tenant waits as a whole."""
    shutdown_grace: float = 10.0
    """How long syncs on their way may take to end when the service stops."""
    automatic: bool = True
    """False: nothing goes out but when woken."""

    def __post_init__(self) -> None:
        if not 0 <= self.group_wait <= 1:
            raise ValueError("group_wait must be 0 to 1 s")
        if min(self.sync_interval, self.poll_interval) <= 0:
            raise ValueError("sync_interval and poll_interval must be more than 0 s")
        counts = (self.max_events, self.max_bytes, self.parallel, self.parallel_slow, self.max_bytes_at_once)
        if min(*counts, self.max_held_back) < 1:
            raise ValueError("max_events, max_bytes, parallel and max_held_back must be at least 1")
