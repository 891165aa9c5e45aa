"""Attachments whose bytes came with the message; they were checked when it was taken."""

from __future__ import annotations

from collections.abc import Callable

from typing_extensions import override

from mail_proxy.domain.byte_source import FromBase64
from mail_proxy.ports import AttachmentSource, Fetched, Wanted


class Inline(FromBase64):
    """The bytes of an inline attachment, decoded piece by piece; the text is the message's own."""

    def close(self) -> None:
        """See `Fetched.close`."""


class InlineSource(AttachmentSource):
    """Reads what the message brought along."""

    @override
    async def fetch(self, wanted: Wanted, grown: Callable[[int], None]) -> Fetched:
        return Inline(wanted.attachment.storage_path)
