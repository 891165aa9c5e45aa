"""Where an instance's attachments come from, put together from its settings."""

from __future__ import annotations

from contextlib import AsyncExitStack

from mail_proxy.attachments.cache import CachedSource
from mail_proxy.attachments.cache_disk import DiskTier
from mail_proxy.attachments.cache_memory import MemoryTier
from mail_proxy.attachments.endpoint import EndpointSource, SharedEndpoint
from mail_proxy.attachments.files import FileSource
from mail_proxy.attachments.http import UrlSource
from mail_proxy.attachments.inline import InlineSource
from mail_proxy.attachments.sources import Sources
from mail_proxy.attachments.spool import FOLDER as SPOOL_FOLDER
from mail_proxy.attachments.spool import SpoolSettings, remove_left_over
from mail_proxy.attachments.storages import OpenStorages
from mail_proxy.domain.attachment import FetchMode
from mail_proxy.domain.tenant import ClientAuth
from mail_proxy.outbound.client import Limits
from mail_proxy.outbound.download import DownloadClient, HttpDownloader
from mail_proxy.outbound.guard import Guarded, Trusted
from mail_proxy.outbound.transfers import TransferClient
from mail_proxy.ports.clock import Clock
from mail_proxy.ports.observers import CacheTier
from mail_proxy.runtime.folders import made
from mail_proxy.runtime.settings import Settings
from mail_proxy.runtime.telemetry import PrometheusMeter

DOWNLOAD_LIMITS = Limits(connections=1024, connections_per_host=1024)
"""Above what delivery fetches at a time: nobody waits for another one's connections."""


async def open_attachments(
    stack: AsyncExitStack, settings: Settings, guard: Guarded, clock: Clock, meter: PrometheusMeter
) -> CachedSource:
    """Return the sources with their cache before them; `stack` closes them. Raises `FolderRefused`.

    Their connections are their own: reports never wait for a file.
    """  # G11
    cached = CachedSource(
        await _sources(stack, settings, guard),
        clock,
        meter,
        memory=MemoryTier(int(settings.cache_memory_max_mb * 1_000_000), settings.cache_memory_ttl, clock, meter),
        disk=_disk(settings, meter),
        threshold=int(settings.cache_disk_threshold_kb * 1000),
    )
    stack.callback(cached.close)
    return cached


async def open_storages(stack: AsyncExitStack, settings: Settings) -> OpenStorages:
    """Return the places where large files may be kept; `stack` closes them."""
    transfers = await stack.enter_async_context(TransferClient(Trusted(), DOWNLOAD_LIMITS))
    storages = OpenStorages(settings.storage_roots, transfers, settings.azure_environment)
    stack.push_async_callback(storages.close)
    return storages


async def _sources(stack: AsyncExitStack, settings: Settings, guard: Guarded) -> Sources:
    if not settings.attachment_roots:  # the default one is there for who wants to put files into it
        made(settings.attachment_folders[0])
    folder = made(settings.data_folder / SPOOL_FOLDER)
    remove_left_over(folder)
    spool = SpoolSettings(folder, settings.max_attachment_bytes)
    clients = [
        await stack.enter_async_context(DownloadClient(policy, DOWNLOAD_LIMITS)) for policy in (Trusted(), guard)
    ]
    downloads = HttpDownloader(*clients)
    files = FileSource(settings.attachment_folders, spool, settings.attachment_timeout)
    stack.callback(files.close)
    return Sources(
        {
            FetchMode.BASE64: InlineSource(),
            FetchMode.HTTP_URL: UrlSource(downloads, spool, settings.attachment_timeout),
            FetchMode.FILESYSTEM: files,
            FetchMode.ENDPOINT: EndpointSource(downloads, spool, settings.attachment_timeout, _shared(settings)),
        }
    )


def _shared(settings: Settings) -> SharedEndpoint | None:
    if settings.attachment_base_url is None:
        return None
    auth = ClientAuth.of(settings.attachment_token, settings.attachment_user, settings.attachment_password)
    return SharedEndpoint(settings.attachment_base_url, auth)


def _disk(settings: Settings, meter: PrometheusMeter) -> DiskTier | None:
    most = int(settings.cache_disk_max_mb * 1_000_000)
    if settings.cache_disk_dir is None or not most:
        return None
    return DiskTier(settings.cache_disk_dir, most, settings.cache_disk_ttl, lambda: meter.cache_evicted(CacheTier.DISK))
