"""Attachments on their way out: encoded piece by piece, however large they are."""  # G11

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from mail_proxy.domain.byte_source import LINE, ByteSource, base64_lines, size_in_lines

_PIECE = LINE * 1024


class InBase64:
    """The bytes of another source in base64, in lines of 76 characters."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source

    @property
    def size(self) -> int:
        """See `ByteSource.size`."""
        return size_in_lines(self._source.size)

    async def chunks(self) -> AsyncIterator[bytes]:
        """See `ByteSource.chunks`."""
        held = b""
        chunks = self._source.chunks()
        try:
            async for chunk in chunks:
                held = held + chunk if held else chunk
                whole = len(held) - len(held) % LINE
                for at in range(0, whole, _PIECE):
                    yield base64_lines(held[at : min(at + _PIECE, whole)])
                held = held[whole:]
        finally:
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()
        if held:
            yield base64_lines(held)
