"""Whose page of messages is read now: a tenant that asks for many at a time holds up itself alone."""  # G11

from __future__ import annotations

from asyncio import Semaphore
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from mail_proxy.domain.errors import TooMany

AT_ONCE = 2
"""Pages of one tenant that are read at a time: half of the store's readers."""
MOST_WAITING = 30
"""Further ones that wait for their turn; what comes beyond is asked to come back."""


@dataclass(slots=True)
class _Line:
    turns: Semaphore = field(default_factory=lambda: Semaphore(AT_ONCE))
    requests: int = 0


class PageTurns:
    """Gives turns to requests of each tenant."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}

    @asynccontextmanager
    async def turn(self, tenant_id: str) -> AsyncIterator[None]:
        """Wait for a turn, and have it as long as the block lasts; raises `TooMany`."""
        line = self._lines.setdefault(tenant_id, _Line())
        if line.requests >= AT_ONCE + MOST_WAITING:
            raise TooMany("Too many pages are asked for at a time.", code="too_many_pages", retry_after=1)
        line.requests += 1
        try:
            async with line.turns:
                yield
        finally:
            line.requests -= 1
            if not line.requests:
                del self._lines[tenant_id]
