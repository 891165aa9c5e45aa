"""All sources of attachments as one: the fetch mode says which, and what came is what was named."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from typing_extensions import override

from mail_proxy.attachments.spool import Spooled
from mail_proxy.domain.attachment import FetchMode
from mail_proxy.ports.attachments import AttachmentSource, Fetched, FetchFailed, Wanted


class Sources(AttachmentSource):
    """Asks the source that an attachment's fetch mode names, and compares digests."""

    def __init__(self, sources: Mapping[FetchMode, AttachmentSource]) -> None:
        self._sources = sources

    @override
    async def fetch(self, wanted: Wanted, grown: Callable[[int], None]) -> Fetched:
        fetched = await self._sources[wanted.attachment.fetch_mode].fetch(wanted, grown)
        if isinstance(fetched, Spooled):
            problem = wanted.attachment.hash_problem(fetched.md5, fetched.sha256)
            if problem is not None:
                fetched.close()
                raise FetchFailed(f"the content is another one: {problem}", permanent=True)
        return fetched
