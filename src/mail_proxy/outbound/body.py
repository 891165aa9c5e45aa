"""The bytes of an answer, taken in chunk by chunk up to a cap, compressed or not."""

from __future__ import annotations

import zlib

_FRAMING = 65536
"""Bytes that a compressed body may be longer than the cap: empty blocks must not come without end."""


class BodyOverflow(Exception):
    """The body is longer than its cap."""


class BodyCorrupt(Exception):
    """The body is not in the coding that its header names."""


class BodyReader:
    """Collects a body of at most `cap` decoded bytes, and never holds more than one chunk above that.

    `coding` is the `Content-Encoding`: none, `gzip` or `deflate` (RFC 9110, 8.4.1); raises `BodyCorrupt` for others.
    """

    def __init__(self, coding: str, cap: int) -> None:
        word = coding.strip().lower()
        if word not in {"", "identity", "gzip", "x-gzip", "deflate"}:
            raise BodyCorrupt("it comes in a content coding that was not asked for")
        self._cap = cap
        self._collected = bytearray()
        self._received = 0
        self._zlib: zlib._Decompress | None = None if word in {"", "identity"} else zlib.decompressobj(_wbits(word))
        self._may_be_raw = word == "deflate"

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes in; raises `BodyOverflow` or `BodyCorrupt`."""
        self._received += len(chunk)
        if self._zlib is None:
            self._collected += chunk
        else:
            if self._received > self._cap + _FRAMING:
                raise BodyOverflow
            self._inflate(chunk)
        if len(self._collected) > self._cap:
            raise BodyOverflow

    def finish(self) -> bytes:
        """Give the whole body; raises `BodyCorrupt` where a compressed one ends too early."""
        if self._zlib is not None and self._received and not self._zlib.eof:
            raise BodyCorrupt("its compressed body is incomplete")
        return bytes(self._collected)

    def _inflate(self, chunk: bytes) -> None:
        """Decompress up to one byte more than fits: enough to know that it is too much."""
        decoder = self._zlib
        while chunk and decoder is not None:
            if decoder.eof:  # gzip files may be strung together (RFC 1952, 2.2)
                decoder = self._zlib = zlib.decompressobj(_wbits("gzip"))
            try:
                self._collected += decoder.decompress(chunk, self._cap + 1 - len(self._collected))
            except zlib.error:
                if not self._may_be_raw:
                    raise BodyCorrupt("its compressed body is corrupt") from None
                # Some servers send deflate without the zlib header that RFC 9110, 8.4.1.2 asks for.
                self._may_be_raw = False
                decoder = self._zlib = zlib.decompressobj(-zlib.MAX_WBITS)
                continue
            self._may_be_raw = False
            if len(self._collected) > self._cap:
                raise BodyOverflow
            chunk = decoder.unused_data if decoder.eof else decoder.unconsumed_tail


def _wbits(coding: str) -> int:
    return zlib.MAX_WBITS if coding == "deflate" else 16 + zlib.MAX_WBITS
