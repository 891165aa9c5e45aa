"""Bytes for tests of what streams them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from mail_proxy.domain.byte_source import ByteSource


@dataclass(frozen=True)
class Held:
    """Bytes in memory that come in pieces of these lengths, and then all at once."""

    data: bytes
    cuts: Sequence[int] = ()

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self.data)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield them."""
        at = 0
        for length in self.cuts:
            yield self.data[at : at + length]
            at += length
        yield self.data[at:]

    def close(self) -> None:
        """Nothing is open."""


async def read_all(source: ByteSource) -> bytes:
    """Return all bytes of a source."""
    return b"".join([chunk async for chunk in source.chunks()])
