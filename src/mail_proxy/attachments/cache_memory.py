"""The part of the cache that is in memory: small contents of this process, the least recently used ones go first."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from mail_proxy.domain.attachment import Attachment
from mail_proxy.ports.clock import Clock
from mail_proxy.ports.observers import CacheMeter, CacheTier

ENTRY_OVERHEAD = 1000
"""Bytes that an entry counts for beside its content, so that very many small ones are bounded too."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose content it is: nobody else's question finds it.

    A tenant that was deleted and made anew is another one. What a message of the operator's has brought is not for
    those that come with the tenant's own token: they may read less.
    """

    tenant_id: str
    created_ts: float
    by_tenant: bool


class Content(NamedTuple):
    """A content in its scope, by both of its digests."""

    scope: Scope
    md5: str
    sha256: str


class MemoryTier:
    """At most `most` bytes, each entry for `ttl` seconds."""

    def __init__(self, most: int, ttl: float, clock: Clock, meter: CacheMeter) -> None:
        self._most = most
        self._ttl = ttl
        self._clock = clock
        self._meter = meter
        self._entries: OrderedDict[Content, tuple[bytes, float]] = OrderedDict()
        self._by_md5: dict[tuple[Scope, str], set[Content]] = {}
        self._by_sha256: dict[tuple[Scope, str], Content] = {}
        self.size = 0
        meter.cache_holds(CacheTier.MEMORY, 0)

    def find(self, scope: Scope, wanted: Attachment) -> tuple[Content, bytes] | None:
        """Return the content that is meant, if it is here."""
        found = self._by_sha256.get((scope, wanted.content_sha256 or ""))
        candidates = {found} if found is not None else self._by_md5.get((scope, (wanted.content_md5 or "")[:8]), set())
        for content in sorted(candidates, key=lambda each: each.sha256):
            if wanted.hash_problem(content.md5, content.sha256) is not None:
                continue
            data, until = self._entries[content]
            if until <= self._clock.monotonic():
                self._drop(content)
                continue
            self._entries.move_to_end(content)
            return content, data
        return None

    def put(self, content: Content, data: bytes) -> None:
        """Keep a content, and let others go for it."""
        cost = len(data) + ENTRY_OVERHEAD
        if cost > self._most:
            return
        if content in self._entries:
            self._drop(content)
        while self.size + cost > self._most:
            self._drop(next(iter(self._entries)))
            self._meter.cache_evicted(CacheTier.MEMORY)
        self._entries[content] = data, self._clock.monotonic() + self._ttl
        self._by_md5.setdefault((content.scope, content.md5[:8]), set()).add(content)
        self._by_sha256[content.scope, content.sha256] = content
        self._grow(cost)

    def sweep(self) -> None:
        """Let go what is too old."""
        now = self._clock.monotonic()
        for content in [content for content, (_, until) in self._entries.items() if until <= now]:
            self._drop(content)

    def forget(self, tenant_id: str) -> None:
        """Let go what a tenant has here."""
        for content in [content for content in self._entries if content.scope.tenant_id == tenant_id]:
            self._drop(content)

    def _drop(self, content: Content) -> None:
        data, _ = self._entries.pop(content)
        place = content.scope, content.md5[:8]
        self._by_md5[place].discard(content)
        if not self._by_md5[place]:
            del self._by_md5[place]
        del self._by_sha256[content.scope, content.sha256]
        self._grow(-len(data) - ENTRY_OVERHEAD)

    def _grow(self, size: int) -> None:
        self.size += size
        self._meter.cache_holds(CacheTier.MEMORY, self.size)
