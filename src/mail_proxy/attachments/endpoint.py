"""Attachments that the tenant's own endpoint is asked for, or the one that the operator set for all."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from typing_extensions import override

from mail_proxy.attachments.http import refuse_lost_auth, spooled
from mail_proxy.attachments.spool import SpoolSettings
from mail_proxy.domain.tenant import ClientAuth
from mail_proxy.ports.attachments import AttachmentSource, Download, Downloader, Fetched, FetchFailed, Wanted


@dataclass(frozen=True, slots=True)
class SharedEndpoint:
    """The endpoint for tenants that have none of their own."""

    url: str
    auth: ClientAuth


class EndpointSource(AttachmentSource):
    """Posts `{"storage_path": …}`. A tenant's credentials go to its own endpoint, the operator's to the shared one."""

    def __init__(
        self, downloader: Downloader, spool: SpoolSettings, timeout: float, shared: SharedEndpoint | None = None
    ) -> None:
        self._downloader = downloader
        self._spool = spool
        self._timeout = timeout
        self._shared = shared

    @override
    async def fetch(self, wanted: Wanted, grown: Callable[[int], None]) -> Fetched:
        url = wanted.tenant.attachment_url
        if url is not None:
            refuse_lost_auth(wanted.tenant)
            endpoint = SharedEndpoint(url, wanted.tenant.client_auth)
        elif self._shared is not None:
            endpoint = self._shared
        else:
            reason = "there is no endpoint to ask: neither client_base_url nor GMP_ATTACHMENT_BASE_URL is set"
            raise FetchFailed(reason, permanent=True)
        body = json.dumps({"storage_path": wanted.attachment.storage_path}).encode()
        # Tenants cannot set where it is: the operator does.
        download = Download(
            endpoint.url, self._timeout, self._spool.max_bytes, endpoint.auth, trusted=True, json_body=body
        )
        return await spooled(self._downloader, download, self._spool, grown)
