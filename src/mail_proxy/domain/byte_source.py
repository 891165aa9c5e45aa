"""Bytes that are too many to hold in memory, and how they are written in base64 (RFC 2045 section 6.8)."""

from __future__ import annotations

import binascii
from collections.abc import AsyncIterator
from typing import Protocol

LINE = 57
"""Bytes that make one line of base64."""


class ByteSource(Protocol):
    """Bytes that are too many to hold in memory, such as an attachment encoded from disk."""

    @property
    def size(self) -> int:
        """How many bytes `chunks` yields in all."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the bytes from the start, in pieces of bounded size; can be called again."""
        ...


def base64_lines(data: bytes) -> bytes:
    """Encode as base64 in lines of 76 characters, each with its CRLF."""
    encoded = binascii.b2a_base64(data, newline=False)
    return b"".join([encoded[at : at + 76] + b"\r\n" for at in range(0, len(encoded), 76)])


def size_in_lines(size: int) -> int:
    """Return how many bytes `base64_lines` makes of so many."""
    return -(-size // 3) * 4 + -(-size // LINE) * 2
