"""The numbers that delivery works by."""

from __future__ import annotations

from dataclasses import dataclass, field

from mail_proxy.domain.retry import RetrySchedule

MOST_FETCHES = 64
"""Places for fetching attachments, where the process may open files enough for them."""


@dataclass(frozen=True, slots=True)
class DeliverySettings:
    """Durations in seconds."""

    schedule: RetrySchedule = field(default_factory=RetrySchedule)
    batch_size: int = 100
    """Messages of one account that are claimed at a time."""
    max_concurrent_sends: int = 200
    """SMTP transactions of this instance at a time, over all accounts."""
    max_sending: int = 256_000_000
    """Bytes of submissions that this instance has in its hands at a time."""
    max_fetches: int = MOST_FETCHES
    """Messages whose attachments are being fetched or wait, fetched, for their turn."""
    max_fetched: int = 2_000_000_000
    """Bytes of fetched attachments that this instance keeps in files and memory at a time."""
    poll_interval: float = 2.0
    """How often the queue is looked at when nothing was told."""
    grace: float = 30.0
    """How long transactions in progress may go on after the order to stop."""
    lease: float = 60.0
    """How long another instance's counter must stand still before its messages are taken over."""
    retention: float = 7 * 86400.0
    """How long finished and reported messages are kept."""
    body_retention: float | None = None
    """How long finished messages keep their bodies; None: as long as they are there."""
    only_on_demand: bool = False
    """Send only when told to by run-now, for tests of the service's users."""
    public_url: str | None = None
    """Where receivers reach this service, for links to large files."""
    log_each_attempt: bool = False
