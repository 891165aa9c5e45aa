"""What becomes of attachments that are larger than their tenant wants to send.

fetched ──▶ large? ──no──▶ sent as it is
│yes
├─ warn ───▶ sent, and logged
├─ reject ─▶ the message fails
└─ rewrite ▶ an entry, stored, a link ──▶ the link is sent
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from weakref import WeakValueDictionary

import structlog

from mail_proxy.delivery.files import Files
from mail_proxy.delivery.needs import Needs
from mail_proxy.domain.attachment import Attachment, FetchMode, decoded_size
from mail_proxy.domain.attempt import NotFetched
from mail_proxy.domain.byte_source import ByteSource
from mail_proxy.domain.claim import LARGE_INLINE, Claimed
from mail_proxy.domain.download_link import PATH, DownloadLink, end_of_day, shown_size, token_of
from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.domain.large_file import (
    LONGEST_PRESIGNED,
    KeptFile,
    LargeFileAction,
    LargeFileConfig,
    LinkWanted,
    StoragePlace,
    as_it_is_now,
)
from mail_proxy.domain.reply import printable
from mail_proxy.domain.tenant import TenantSecret
from mail_proxy.ports.attachments import FetchFailed, Wanted
from mail_proxy.ports.file_storage import FileStorage, StorageFailed

DOOMED_AT_ONCE = 20
INTERVAL = 60.0
"""Seconds between looks for files that no link leads to any more."""

log = structlog.get_logger(__name__)


class LargeFiles:
    """Puts links in the place of large files, and clears away what no link leads to any more."""

    def __init__(self, needs: Needs, public_url: str | None) -> None:
        self._needs = needs
        self._public_url = public_url
        self._turns: WeakValueDictionary[tuple[str, str, str], asyncio.Lock] = WeakValueDictionary()

    async def treat(self, claimed: Claimed, attachments: Sequence[Attachment], files: Files) -> Files | NotFetched:
        """Do with the large ones of a message's attachments what its tenant wants.

        What is not to be sent any more is given up; all of it where the message cannot be sent. Raises
        `StoreUnavailable`.
        """
        try:
            treated = await self._treat(claimed, attachments, files)
        except (FetchFailed, StorageFailed) as error:  # a wrong setting of the tenant's is mended, and mail waits
            treated = NotFetched(error.reason, permanent=False)
        except BaseException:
            files.close()
            raise
        if isinstance(treated, NotFetched):
            files.close()
        return treated

    async def _treat(self, claimed: Claimed, attachments: Sequence[Attachment], files: Files) -> Files | NotFetched:
        tenant = await self._needs.directory.tenant(claimed.tenant_id)
        config = None if tenant is None else tenant.large_files
        sizes = [_size(each, held) for each, held in zip(attachments, files.contents, strict=True)]
        if (
            tenant is not None
            and TenantSecret.LARGE_FILES in tenant.unreadable
            and max(sizes, default=0) > LARGE_INLINE
        ):
            return NotFetched(TenantSecret.LARGE_FILES.lost, permanent=False)  # whether it is too large nobody knows
        if config is None or not config.enabled:
            return files
        large = [n for n, size in enumerate(sizes) if size > config.max_size]
        links: dict[int, DownloadLink] = {}
        for n in large:
            attachment = attachments[n]
            told = f"{attachment.filename}: has {shown_size(sizes[n])}, more than {shown_size(config.max_size)}"
            if config.action is LargeFileAction.REJECT:
                self._count(config.action)
                return NotFetched(printable(f"{told} that large_file_config allows"), permanent=True)
            if config.action is LargeFileAction.WARN or config.storage is None or attachment.content_id is not None:
                self._count(LargeFileAction.WARN)
                log.warning(
                    "large attachment", tenant_id=claimed.tenant_id, id=claimed.identity.mail_id, what=printable(told)
                )
                continue
            links[n] = await self._stored(claimed, n, attachment, files, config, config.storage)
            self._count(config.action)
        return replace(files, links=links)

    async def _stored(
        self,
        claimed: Claimed,
        n: int,
        attachment: Attachment,
        files: Files,
        config: LargeFileConfig,
        place: StoragePlace,
    ) -> DownloadLink:
        """Store one, unless its tenant has it there, and return the link to it."""
        held = files.contents[n]
        if held is None:
            tenant = await self._needs.directory.tenant(claimed.tenant_id)
            if tenant is None:
                raise StorageFailed("the tenant is gone", permanent=False)
            held = await self._needs.attachments.fetch(
                Wanted(attachment, tenant, claimed.by_tenant), lambda _size: None
            )
        storage = await self._needs.storages.at(place)
        sha256 = await _digest_of(held)
        base = config.public_base_url or self._public_url
        now = self._needs.clock.now()
        ttl = config.ttl if base is not None else min(config.ttl, LONGEST_PRESIGNED)
        until = end_of_day(now + ttl) if base is not None else now + ttl
        turn = self._turns.setdefault((claimed.tenant_id, place.url, sha256), asyncio.Lock())
        async with turn:  # ten thousand messages with one new file store it once
            ledger = self._needs.ledger
            kept = await ledger.reserve(claimed.tenant_id, place, sha256, held.size, now)
            if not kept.ready:
                await self._put(storage, kept, held, attachment)
            wanted = LinkWanted(
                file_pk=kept.pk,
                message_pk=claimed.pk,
                message_ts=claimed.identity.date,
                n=n,
                filename=attachment.filename,
                mime_type=attachment.mime_type,
                until=until,
                renew_below=now + ttl / 2,
                lifespan=config.lifespan_after_download,
            )
            link = await ledger.link(wanted)
        if link is None:
            raise StorageFailed(f"{attachment.filename}: storing it took too long", permanent=False)
        if base is not None:
            url: str | None = base.rstrip("/") + PATH + token_of(link.pk, link.signing_key)
        else:
            seconds = min(link.until - now, LONGEST_PRESIGNED)
            url = await storage.location(kept.key, attachment.filename, attachment.mime_type, seconds)
        if url is None:
            reason = f"{attachment.filename}: links need public_base_url in large_file_config, or GMP_PUBLIC_URL"
            raise StorageFailed(reason, permanent=False)
        return DownloadLink(attachment.filename, held.size, url, link.until)

    async def _put(self, storage: FileStorage, kept: KeptFile, held: ByteSource, attachment: Attachment) -> None:
        try:
            await storage.put(kept.key, held, attachment.mime_type)
        except StorageFailed as error:
            raise StorageFailed(printable(f"{attachment.filename}: {error.reason}"), permanent=False) from None

    def _count(self, action: LargeFileAction) -> None:
        self._needs.meter.large_file(action)

    async def keep_clear(self) -> None:
        """Clear away now and then, until cancelled."""
        while True:
            await self._needs.clock.sleep(INTERVAL)
            try:
                await self.clear_away()
            except StoreUnavailable as error:
                log.warning("large files cannot be cleared away now", reason=error.sentence)

    async def clear_away(self) -> None:
        """Remove files that no link leads to any more; what cannot be removed now is tried again in an hour."""
        troubled: set[str] = set()
        while doomed := await self._needs.ledger.doomed(self._needs.clock.now(), DOOMED_AT_ONCE):
            gone: list[int] = []
            for file in doomed:
                if file.place.url in troubled:
                    continue
                tenant = await self._needs.directory.tenant(file.tenant_id)
                place = as_it_is_now(file.place, None if tenant is None else tenant.large_files)
                try:
                    storage = await self._needs.storages.at(place)
                    await storage.delete(file.key)
                except StorageFailed as error:
                    troubled.add(file.place.url)
                    log.warning("a large file cannot be removed", tenant_id=file.tenant_id, reason=error.reason)
                else:
                    gone.append(file.pk)
            await self._needs.ledger.removed(gone)


def _size(attachment: Attachment, held: ByteSource | None) -> int:
    if held is not None:
        return held.size
    return decoded_size(attachment.storage_path) if attachment.fetch_mode is FetchMode.BASE64 else 0


async def _digest_of(content: ByteSource) -> str:
    found = hashlib.sha256()
    async for chunk in content.chunks():
        found.update(chunk)
        await asyncio.sleep(0)
    return found.hexdigest()
