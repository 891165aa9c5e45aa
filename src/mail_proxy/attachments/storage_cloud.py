"""Large files in a cloud: the cloud's own library signs URLs, and every request goes out by them.

So a file is sent by one request, which either arrives whole or not at all: there are no parts that are left behind, and
nothing is in memory but the piece that is on its way. Signing needs no network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from typing_extensions import override

from mail_proxy.attachments.storage_calls import Calls
from mail_proxy.domain.byte_source import ByteSource
from mail_proxy.domain.filename import http_disposition
from mail_proxy.domain.large_file import LONGEST_PRESIGNED
from mail_proxy.ports.attachments import Transfer, Transfers
from mail_proxy.ports.file_storage import FileStorage, StorageFailed, StoredRange

SLOWEST = 200_000
"""Bytes a second that a storage has to take."""
SIGNED_FOR = 900.0
"""Seconds that a URL holds by which the service itself asks."""
_TEMPORARY = frozenset({408, 425, 429})
_METADATA = frozenset({"CredentialRetrievalError", "HTTPClientError", "MetadataRetrievalError", "TransportError"})
"""What the libraries raise where a service that gives out credentials does not answer."""
_WORDS = {
    301: "its region or endpoint is another one",
    307: "its region or endpoint is another one",
    400: "it does not accept the request; the region or the credentials may be wrong",
    401: "it does not know the credentials",
    403: "the credentials may not do this, or are wrong",
    404: "there is no such bucket or container",
}


@dataclass(frozen=True, slots=True)
class Signed:
    """A request that may be made by anybody who has it."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)


class NoCredentials(Exception):
    """There is nothing to sign with; says what is missing, and no secret."""


class Signer(Protocol):
    """Signs requests for one place. May read files and ask the machine's metadata service: it runs on threads.

    Raises `NoCredentials`, or any exception where they are unfit.
    """

    def put(self, name: str, seconds: float) -> Signed:
        """Sign storing a file."""
        ...

    def delete(self, name: str, seconds: float) -> Signed:
        """Sign removing a file."""
        ...

    def get(self, name: str, seconds: float, disposition: str, mime_type: str) -> Signed:
        """Sign fetching a file, which then has this Content-Disposition and type."""
        ...


class CloudStorage(FileStorage):
    """Keeps files in a bucket or container."""

    def __init__(self, url: str, prefix: str, signer: Signer, transfers: Transfers, patience: float) -> None:
        """`url` is what errors show; `prefix` stands before keys."""
        self._url = url
        self._prefix = f"{prefix}/" if prefix else ""
        self._signer = signer
        self._transfers = transfers
        self._patience = patience
        self._calls = Calls(url, patience)

    @override
    async def put(self, key: str, content: ByteSource, mime_type: str) -> None:
        timeout = self._patience + content.size / SLOWEST
        signed = await self._signed(lambda: self._signer.put(self._prefix + key, timeout + SIGNED_FOR))
        headers = {**signed.headers, "Content-Type": mime_type}
        await self._send(Transfer("PUT", signed.url, headers, timeout, self._patience, content))

    @override
    async def delete(self, key: str) -> None:
        signed = await self._signed(lambda: self._signer.delete(self._prefix + key, SIGNED_FOR))
        transfer = Transfer("DELETE", signed.url, signed.headers, self._patience, self._patience)
        await self._send(transfer, gone_is_fine=True)

    @override
    async def location(self, key: str, filename: str, mime_type: str, seconds: float) -> str | None:
        disposition = http_disposition(filename)
        name = self._prefix + key
        lasts = max(1.0, min(seconds, LONGEST_PRESIGNED))
        return (await self._signed(lambda: self._signer.get(name, lasts, disposition, mime_type))).url

    @override
    async def read(self, key: str, first: int = 0, length: int | None = None) -> StoredRange | None:
        raise ValueError("a cloud gives files itself: ask for their location")

    async def _signed(self, sign: Callable[[], Signed]) -> Signed:
        try:
            return await self._calls.run(sign)
        except StorageFailed:
            raise
        except NoCredentials as error:
            raise StorageFailed(f"{self._url} cannot be used: {error}", permanent=True) from None
        except Exception as error:  # noqa: BLE001 - three libraries, each with many of its own
            # its text is the library's, and may hold what was given to it
            reason = f"{self._url} cannot be used: {type(error).__name__}; look at its credentials"
            raise StorageFailed(reason, permanent=not _may_pass(error)) from None

    async def _send(self, transfer: Transfer, *, gone_is_fine: bool = False) -> None:
        try:
            status = await self._transfers.send(transfer)
        except StorageFailed as error:
            raise StorageFailed(f"{self._url}: {error.reason}", permanent=error.permanent) from None
        if 200 <= status < 300 or (gone_is_fine and status == 404):
            return
        told = f": {_WORDS[status]}" if status in _WORDS else ""
        permanent = status < 500 and status not in _TEMPORARY
        raise StorageFailed(f"{self._url} answered {status}{told}", permanent=permanent)


def _may_pass(error: Exception) -> bool:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return not kinds.isdisjoint(_METADATA) or bool(getattr(error, "retryable", False))
