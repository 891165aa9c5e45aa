"""Storages for large files, and the ledger of what lies there."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from mail_proxy.domain.byte_source import ByteSource
from mail_proxy.domain.errors import Problem
from mail_proxy.domain.large_file import (
    DoomedFile,
    FileLink,
    KeptFile,
    LinkedFile,
    LinkWanted,
    StoragePlace,
)


class StorageFailed(Exception):
    """A storage did not do what it was asked. `permanent`: nor will it when it is asked again; told to the tenant."""

    def __init__(self, reason: str, *, permanent: bool) -> None:
        super().__init__(reason)
        self.reason, self.permanent = reason, permanent


@dataclass(frozen=True, slots=True)
class StoredRange:
    """A stored file that is being read: `size` of the whole, and the chunks of what was asked for."""

    size: int
    chunks: AsyncGenerator[bytes, None]
    """Has to be read to its end or closed with `aclose`."""


class FileStorage(Protocol):
    """One place that takes files. Keys are of letters, digits, `-` and `/`, made by the service.

    Every method is bounded in time and raises `StorageFailed` for everything that can go wrong outside; its reason has
    no secret in it.
    """

    async def put(self, key: str, content: ByteSource, mime_type: str) -> None:
        """Store a file by streaming. Nobody finds half of one under the key, whatever happens meanwhile."""
        ...

    async def delete(self, key: str) -> None:
        """Remove a file, and what a broken `put` has left of it; one that is not there is removed as well."""
        ...

    async def location(self, key: str, filename: str, mime_type: str, seconds: float) -> str | None:
        """Return a URL that gives the file to anybody for so many seconds, under this name, as a download.

        None where the storage has no URLs: then it is read with `read`. It does not say whether the file is there.
        """
        ...

    async def read(self, key: str, first: int = 0, length: int | None = None) -> StoredRange | None:
        """Open a file at a position, by default the whole; None where it is not there.

        Raises `ValueError` where `location` is what gives it.
        """
        ...


class Storages(Protocol):
    """The places where tenants' large files may be kept."""

    def problem(self, place: StoragePlace) -> Problem | None:
        """Say why a place cannot be used here (no such extra, outside of the roots), naming the field; or None."""
        ...

    async def at(self, place: StoragePlace) -> FileStorage:
        """Return the storage at a place; connections are kept and shared. Raises `StorageFailed` like `problem`."""
        ...


class FileLedger(Protocol):
    """What is kept in storages, and which links lead there. Every file has an entry before its first byte is stored.

    A file without an entry is nowhere; one whose entry is in the way of nothing any more is found by `doomed`.
    """

    async def reserve(self, tenant_id: str, place: StoragePlace, sha256: str, size: int, now: float) -> KeptFile:
        """Return the file of this content that the tenant has there, or the entry of one that is to be stored.

        The entry holds for an hour, in which the file has to be stored and linked.
        """
        ...

    async def link(self, wanted: LinkWanted) -> FileLink | None:
        """Write down that a file is there and that a link leads to it; return the link of an earlier attempt instead.

        None where the entry is gone: it took too long.
        """
        ...

    async def linked(self, link: int) -> LinkedFile | None:
        """Return what a link leads to, also after its end, until it is cleared away."""
        ...

    async def downloaded(self, link: int, now: float) -> None:
        """Write down that a link was used for the first time, which may bring its end nearer."""
        ...

    async def doomed(self, now: float, limit: int) -> Sequence[DoomedFile]:
        """Take files that no link leads to any more, with their links; they are others' again after an hour."""
        ...

    async def removed(self, file_pks: Sequence[int]) -> None:
        """Forget files that are gone from their storage."""
        ...
