"""Bytes that are too many to hold in memory, and the same in base64."""

from __future__ import annotations

import binascii
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from mail_proxy.domain import attachment

LINE = 57
"""Bytes that make one line of base64."""
_CHUNK = LINE * 1024


class ByteSource(Protocol):
    """Bytes that are too many to hold in memory, such as an attachment encoded from disk."""

    @property
    def size(self) -> int:
        """How many bytes `chunks` yields in all."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the bytes from the start, in pieces of bounded size; can be called again."""
        ...


@dataclass(frozen=True, slots=True)
class InMemory:
    """Bytes that are in memory."""

    data: bytes

    @property
    def size(self) -> int:
        """See `ByteSource.size`."""
        return len(self.data)

    async def chunks(self) -> AsyncIterator[bytes]:
        """See `ByteSource.chunks`."""
        for at in range(0, len(self.data), _CHUNK):
            yield self.data[at : at + _CHUNK]


class FromBase64:
    """The bytes that a checked base64 text stands for."""

    def __init__(self, text: str) -> None:
        self._text = text

    @property
    def size(self) -> int:
        """See `ByteSource.size`."""
        return attachment.decoded_size(self._text)

    async def chunks(self) -> AsyncIterator[bytes]:
        """See `ByteSource.chunks`."""
        for piece in attachment.decoded(self._text):
            yield piece


class InBase64:
    """The bytes of another source in base64, in lines of 76 characters (RFC 2045 section 6.8)."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source

    @property
    def size(self) -> int:
        """See `ByteSource.size`."""
        size = self._source.size
        return -(-size // 3) * 4 + -(-size // LINE) * 2

    async def chunks(self) -> AsyncIterator[bytes]:
        """See `ByteSource.chunks`."""
        held = b""
        async with aclosing(self._source.chunks()) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                held = held + chunk if held else chunk
                whole = len(held) - len(held) % LINE
                for piece in _pieces(held, whole):
                    yield base64_lines(piece)
                held = held[whole:]
        if held:
            yield base64_lines(held)


def _pieces(data: bytes, end: int) -> Iterator[bytes]:
    for at in range(0, end, _CHUNK):
        yield data[at : min(at + _CHUNK, end)]


def base64_lines(data: bytes) -> bytes:
    """Encode as base64 in lines of 76 characters, each with its CRLF (RFC 2045 section 6.8)."""
    encoded = binascii.b2a_base64(data, newline=False)
    return b"".join([encoded[at : at + 76] + b"\r\n" for at in range(0, len(encoded), 76)])
