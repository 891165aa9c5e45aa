"""Attachments that are fetched from a URL in the message."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import SplitResult, urlsplit

from typing_extensions import override

from mail_proxy.attachments.spool import Spool, Spooled, SpoolSettings
from mail_proxy.domain.tenant import ClientAuth, ClientAuthMethod, Tenant, TenantSecret
from mail_proxy.ports.attachments import AttachmentSource, Download, Downloader, Fetched, FetchFailed, Wanted

_PORTS = {"http": 80, "https": 443}


class UrlSource(AttachmentSource):
    """Gets URLs, whoever gave them, from public networks and those that the operator allows."""

    def __init__(self, downloader: Downloader, spool: SpoolSettings, timeout: float) -> None:
        self._downloader = downloader
        self._spool = spool
        self._timeout = timeout

    @override
    async def fetch(self, wanted: Wanted, grown: Callable[[int], None]) -> Fetched:
        url = wanted.attachment.storage_path
        auth = wanted.attachment.auth
        if auth.method is ClientAuthMethod.NONE:
            auth = _of_tenant(url, wanted.tenant)
        download = Download(url, self._timeout, self._spool.max_bytes, auth, trusted=False)
        return await spooled(self._downloader, download, self._spool, grown)


async def spooled(
    downloader: Downloader, download: Download, settings: SpoolSettings, grown: Callable[[int], None]
) -> Spooled:
    """Download something into a spool."""
    spool = Spool(settings, grown)
    try:
        await downloader.download(download, spool.write)
        return await spool.finish()
    finally:
        spool.discard()


def _of_tenant(url: str, tenant: Tenant) -> ClientAuth:
    """Return the tenant's credentials for a URL of its own server, else none."""
    if tenant.client_base_url is None:
        return ClientAuth()
    same = _origin(urlsplit(url)) == _origin(urlsplit(tenant.client_base_url))
    if not same:
        return ClientAuth()
    refuse_lost_auth(tenant)
    return tenant.client_auth


def refuse_lost_auth(tenant: Tenant) -> None:
    """Raise `FetchFailed` where no key opens the credentials for a tenant's own endpoint: it is never asked without."""
    if TenantSecret.CLIENT_AUTH in tenant.unreadable:
        raise FetchFailed(TenantSecret.CLIENT_AUTH.lost, permanent=False)


def _origin(parts: SplitResult) -> tuple[str, str, int | None]:
    return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme)
