"""Attachments whose bytes came with the message; they were checked when it was taken."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from typing_extensions import override

from mail_proxy.domain import attachment
from mail_proxy.ports.attachments import AttachmentSource, Fetched, Wanted


class Inline:
    """The bytes of an inline attachment, decoded piece by piece; the text is the message's own. Keeps `Fetched`."""

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

    def close(self) -> None:
        """See `Fetched.close`."""


class InlineSource(AttachmentSource):
    """Reads what the message brought along."""

    @override
    async def fetch(self, wanted: Wanted, grown: Callable[[int], None]) -> Fetched:
        return Inline(wanted.attachment.storage_path)
