"""How much waits in the queue, as people are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MANY = 10_000
"""Fewer messages than this are counted when somebody asks; more only in the background."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What the whole queue holds, as it was counted in the background."""

    pending: int
    """Messages that are not finished."""
    by_tenant: Mapping[str, int]
    """The same for each tenant that has many."""
    by_batch: Mapping[tuple[str, str], int]
    """The same for each batch, by tenant and code, that has many."""
    oldest_ready_ts: float | None
    """When the oldest message was accepted that waits for nothing but its turn, its account or its tenant."""
