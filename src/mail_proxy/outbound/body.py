"""The bytes of an answer, taken in chunk by chunk up to a cap, compressed or not."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

FRAMING = 65536
"""Bytes that a compressed body may be longer than the cap: empty blocks must not come without end."""

_MEMBERS = 100
"""Gzip files strung together that may be small ones: empty ones in great number only keep the processor busy."""
PIECE = 256 * 1024
"""The most bytes that are decoded at a time."""


class BodyOverflow(Exception):
    """The body is longer than its cap."""


class BodyCorrupt(Exception):
    """The body is not in the coding that its header names."""


class Decoder:
    """Takes a content coding off, piece by piece: at most `cap` decoded bytes, and never more than one piece at a time.

    `coding` is the `Content-Encoding`: none, `gzip` or `deflate` (RFC 9110, 8.4.1); raises `BodyCorrupt` for others,
    and for several of them, one in the other.
    """

    def __init__(self, coding: str, cap: int) -> None:
        word = coding.strip().lower()
        if word not in {"", "identity", "gzip", "x-gzip", "deflate"}:
            raise BodyCorrupt("it comes in a content coding that was not asked for")
        self._cap = cap
        self._received = 0
        self._decoded = 0
        self._members = 1
        self._zlib: zlib._Decompress | None = None if word in {"", "identity"} else zlib.decompressobj(_wbits(word))
        self._may_be_raw = word == "deflate"

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what the next bytes decode to; raises `BodyOverflow` or `BodyCorrupt`."""
        self._received += len(chunk)
        if self._zlib is None:
            if chunk:
                yield self._counted(chunk)
            return
        if self._received > self._cap + FRAMING:
            raise BodyOverflow
        while chunk:
            piece, chunk = self._inflated(chunk)
            if piece:
                yield self._counted(piece)

    def finish(self) -> None:
        """Raise `BodyCorrupt` where a compressed body ends too early."""
        if self._zlib is not None and self._received and not self._zlib.eof:
            raise BodyCorrupt("its compressed body is incomplete")

    def _counted(self, piece: bytes) -> bytes:
        self._decoded += len(piece)
        if self._decoded > self._cap:
            raise BodyOverflow
        return piece

    def _inflated(self, chunk: bytes) -> tuple[bytes, bytes]:
        """Decompress at most one piece, and at most one byte more than fits: enough to know that it is too much."""
        decoder = self._zlib
        if decoder is None or decoder.eof:  # gzip files may be strung together (RFC 1952, 2.2)
            self._members += 1
            if self._members > _MEMBERS + self._decoded // 1024:
                raise BodyOverflow
            decoder = self._zlib = zlib.decompressobj(_wbits("gzip"))
        try:
            piece = decoder.decompress(chunk, min(PIECE, self._cap + 1 - self._decoded))
        except zlib.error:
            if not self._may_be_raw:
                raise BodyCorrupt("its compressed body is corrupt") from None
            # Some servers send deflate without the zlib header that RFC 9110, 8.4.1.2 asks for.
            self._may_be_raw = False
            self._zlib = zlib.decompressobj(-zlib.MAX_WBITS)
            return b"", chunk
        self._may_be_raw = False
        return piece, decoder.unused_data if decoder.eof else decoder.unconsumed_tail


class BodyReader:
    """Collects a body of at most `cap` decoded bytes, and never holds more than one chunk above that."""

    def __init__(self, coding: str, cap: int) -> None:
        self._decoder = Decoder(coding, cap)
        self._collected = bytearray()

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes in; raises `BodyOverflow` or `BodyCorrupt`."""
        for piece in self._decoder.feed(chunk):
            self._collected += piece

    def finish(self) -> bytes:
        """Give the whole body; raises `BodyCorrupt` where a compressed one ends too early."""
        self._decoder.finish()
        return bytes(self._collected)


def _wbits(coding: str) -> int:
    return zlib.MAX_WBITS if coding == "deflate" else 16 + zlib.MAX_WBITS
