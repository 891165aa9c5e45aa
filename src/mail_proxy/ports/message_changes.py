"""What is done with messages because somebody says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from mail_proxy.domain.requeue import Skipped


@dataclass(frozen=True, slots=True)
class RetryFilter:
    """Which failed or expired messages of a tenant are meant; None means any."""

    state: str | None = None
    """`failed` or `expired`."""
    account_id: str | None = None
    batch_code: str | None = None
    created_from: float | None = None
    """Unix seconds."""
    created_to: float | None = None
    """Unix seconds, not included."""


@dataclass(frozen=True, slots=True)
class Found:
    """Messages by number, oldest first, and the number to go on after; None at the end."""

    pks: Sequence[int]
    next_after: int | None


class Deletion(str, Enum):
    """What became of a message that was to be deleted. One that was gone already has none of these."""

    REMOVED = "removed"
    """It was finished, and is gone."""
    CANCELLED = "cancelled"
    """It was waiting; its end is reported."""
    IN_PROGRESS = "in_progress"
    """It is being sent, and was not touched."""


@dataclass(frozen=True, slots=True)
class Requeueing:
    """What became of messages that were to be sent again."""

    queued: int
    skipped: Mapping[Skipped, int]
    account_pks: frozenset[int]
    """Those that have messages to send now."""


class MessageChanges(Protocol):
    """What is done with messages because somebody says so. A tenant is `silent` that has no endpoint to report to.

    What writes does so in one transaction, and is meant for some hundreds of messages at a time (G11).
    """

    async def find(self, tenant_id: str, ids: Sequence[str]) -> Mapping[str, int]:
        """Return the numbers of a tenant's messages by id; those that are not there are left out."""
        ...

    async def failed(self, tenant_id: str, wanted: RetryFilter, after: int) -> Found:
        """Look for failed and expired messages among the next ones of a tenant; reads a bounded number."""
        ...

    async def told(self, tenant_id: str, finished_before: float, after: int, *, silent: bool) -> Found:
        """Look for messages that ended before that time and have nothing left to report, as `failed` does."""
        ...

    async def delete(self, pks: Sequence[int], now: float, *, silent: bool) -> Mapping[int, Deletion]:
        """Cancel what waits, and report that; remove what is finished, and go on reporting what is not yet. G9.

        The id of what is removed is free again at once; its events stay in the feed until retention takes them.
        """
        ...

    async def requeue(self, pks: Sequence[int], now: float) -> Requeueing:
        """Put finished messages back into the queue, for those recipients whom they failed to reach. G7."""
        ...

    async def clean(self, pks: Sequence[int], finished_before: float, *, silent: bool) -> int:
        """Remove those of these that `told` would find, as `delete` does; return how many."""
        ...
