"""The log of what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mail_proxy.domain.command_log import Entry, EntryFilter, LogPage, Position


class CommandLog(Protocol):
    """Who asked for which change, and what came of it. Entries are added and, when they are old, removed."""

    async def append(self, entries: Sequence[Entry], *, again: bool) -> None:
        """Write entries down together. `again`: some may have been written before, and are not written twice."""
        ...

    async def page(
        self, wanted: EntryFilter, beyond: Position | None, limit: int, *, oldest_first: bool = False
    ) -> LogPage:
        """Up to `limit` entries beyond a place; costs the same on the first page and on the last.

        Where methods or routes are looked for it reads a bounded number of entries, and answers what it found.
        """
        ...

    async def prune(self, before: float, limit: int) -> int:
        """Remove up to `limit` entries from before that time; return how many."""
        ...
