"""Files that messages carry links to, given to whoever has the link."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from mail_proxy.domain.download_link import is_genuine, link_in
from mail_proxy.domain.errors import Gone, NotFound, StoreUnavailable
from mail_proxy.domain.large_file import LinkedFile, StorageKind, as_it_is_now
from mail_proxy.domain.secret import Secret
from mail_proxy.ports.clock import Clock
from mail_proxy.ports.directory import Directory
from mail_proxy.ports.file_storage import FileLedger, FileStorage, StorageFailed, Storages, StoredRange

REDIRECT_LASTS = 600.0
"""Seconds that the storage's own URL holds: long enough to begin a download, too short to be passed on."""
log = structlog.get_logger(__name__)

_NOBODYS = Secret("00" * 32)


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The storage gives the file itself, at this URL."""

    url: str


class Downloads:
    """Finds what a token leads to. Whoever has a token may have the file; nothing can be listed or guessed."""

    def __init__(self, ledger: FileLedger, storages: Storages, directory: Directory, clock: Clock) -> None:
        self._ledger = ledger
        self._storages = storages
        self._directory = directory
        self._clock = clock

    async def find(self, token: str) -> LinkedFile:
        """Return what a token leads to. Raises `NotFound` for a wrong one and `Gone` for one that has ended."""
        number = link_in(token)
        found = None if number is None else await self._ledger.linked(number)
        if not is_genuine(token, found.link.signing_key if found else _NOBODYS) or found is None:
            raise NotFound("There is no such file; the link may be incomplete, or have ended some time ago.")
        if found.link.until <= self._clock.now():
            raise Gone("The link has ended. Ask the sender for the file.")
        return found

    async def open(self, file: LinkedFile, first: int = 0, length: int | None = None) -> Elsewhere | StoredRange:
        """Return where the file is, or open it at a position. Raises `NotFound` and `StoreUnavailable`."""
        try:
            storage = await self._storage(file)
            if file.place.kind is not StorageKind.FILE:
                seconds = min(REDIRECT_LASTS, max(file.link.until - self._clock.now(), 1.0))
                url = await storage.location(file.key, file.filename, file.mime_type, seconds)
                if url is None:
                    raise NotFound("The storage of this file has no URLs.")
                return Elsewhere(url)
            opened = await storage.read(file.key, first, length)
        except StorageFailed as error:
            # Whoever has a link learns nothing of what is behind it; the operator does.
            log.warning("a large file cannot be given", tenant_id=file.tenant_id, reason=error.reason)
            raise StoreUnavailable("the file cannot be had now; try again later") from None
        if opened is None:
            raise NotFound("The file is not there any more.")
        return opened

    async def begun(self, file: LinkedFile) -> None:
        """Take note of the first download by a link."""
        if not file.downloaded:
            await self._ledger.downloaded(file.link.pk, self._clock.now())

    async def _storage(self, file: LinkedFile) -> FileStorage:
        tenant = await self._directory.tenant(file.tenant_id)
        return await self._storages.at(as_it_is_now(file.place, None if tenant is None else tenant.large_files))
