"""Contents of attachments, from wherever they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from mail_proxy.domain.attachment import Attachment
from mail_proxy.domain.byte_source import ByteSource
from mail_proxy.domain.tenant import ClientAuth, Tenant


@dataclass(frozen=True, slots=True)
class Wanted:
    """An attachment to fetch, and for whom. `by_tenant`: its message came with the tenant's token."""

    attachment: Attachment
    tenant: Tenant
    by_tenant: bool


class FetchFailed(Exception):
    """An attachment cannot be had. `permanent`: nor will it be had by asking again."""

    def __init__(self, reason: str, *, permanent: bool) -> None:
        super().__init__(reason)
        self.reason, self.permanent = reason, permanent


class Fetched(ByteSource, Protocol):
    """The whole of an attachment, in memory or in a file that nobody else has, verified by its digests."""

    def close(self) -> None:
        """Give up what holds the bytes; may be called twice."""
        ...


@dataclass(frozen=True, slots=True)
class Download:
    """Something to fetch by HTTP. `timeout` covers all of it, redirects too; `max_bytes` counts decoded bytes.

    `auth` is sent to the URL's own origin and no other. `trusted`: the operator has set the URL, so that private
    networks may be reached; else public ones alone. With a body it is a POST, and no redirect is followed.
    """

    url: str
    timeout: float
    max_bytes: int
    auth: ClientAuth
    trusted: bool
    json_body: bytes | None = None


class Downloader(Protocol):
    """Fetches by HTTP, piece by piece."""

    async def download(self, wanted: Download, write: Callable[[bytes], Awaitable[None]]) -> None:
        """Hand the answer's bytes to `write` as they come; raises `FetchFailed` for all that can go wrong outside.

        What `write` raises passes through.
        """
        ...


class AttachmentSource(Protocol):
    """Where the bytes of attachments come from."""

    async def fetch(self, wanted: Wanted, grown: Callable[[int], None]) -> Fetched:
        """Fetch one, bounded in time, size and memory. Raises `FetchFailed` for everything that can go wrong outside.

        `grown` is told of bytes as they come in. Cancelled or failed, it leaves nothing behind.
        """  # G11
        ...


@dataclass(frozen=True, slots=True)
class Transfer:
    """A request to a storage in a cloud, by a URL that carries its own authorisation; it is never shown."""

    method: str
    url: str
    headers: Mapping[str, str]
    timeout: float
    """Seconds for all of it."""
    patience: float
    """Seconds in which something has to go on: a piece taken, or the answer given."""
    content: ByteSource | None = None
    """What is sent, piece by piece."""


class Transfers(Protocol):
    """Speaks HTTP with storages that the operator has set."""

    async def send(self, transfer: Transfer) -> int:
        """Return the status of the answer. Raises `StorageFailed` where there is none; what `content` raises passes."""
        ...
