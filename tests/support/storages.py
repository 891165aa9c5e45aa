"""Storages in memory, which fail and hang when a test wants it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from typing_extensions import override

from mail_proxy.domain.byte_source import ByteSource
from mail_proxy.domain.errors import Problem
from mail_proxy.domain.large_file import StorageKind, StoragePlace
from mail_proxy.ports.file_storage import FileStorage, StorageFailed, Storages, StoredRange


@dataclass
class MemoryStorage(FileStorage):
    """Keeps files in a dictionary. `file://` is read, everything else has URLs."""

    place: StoragePlace
    files: dict[str, bytes] = field(default_factory=dict)
    puts: int = 0
    failure: StorageFailed | None = None
    hanging: asyncio.Event | None = None

    @override
    async def put(self, key: str, content: ByteSource, mime_type: str) -> None:
        self.puts += 1
        await self._trouble()
        self.files[key] = b"".join([chunk async for chunk in content.chunks()])

    @override
    async def delete(self, key: str) -> None:
        await self._trouble()
        self.files.pop(key, None)

    @override
    async def location(self, key: str, filename: str, mime_type: str, seconds: float) -> str | None:
        await self._trouble()
        if self.place.kind is StorageKind.FILE:
            return None
        return f"https://{self.place.bucket}.cloud.example/{key}?lasts={seconds:g}"

    @override
    async def read(self, key: str, first: int = 0, length: int | None = None) -> StoredRange | None:
        if self.place.kind is not StorageKind.FILE:
            raise ValueError("ask for its location")
        await self._trouble()
        data = self.files.get(key)
        if data is None:
            return None
        end = len(data) if length is None else first + length

        async def chunks() -> AsyncGenerator[bytes, None]:
            for at in range(first, min(end, len(data)), 1000):
                yield data[at : min(at + 1000, end)]

        return StoredRange(len(data), chunks())

    async def _trouble(self) -> None:
        if self.hanging is not None:
            await self.hanging.wait()
        if self.failure is not None:
            raise self.failure


@dataclass
class MemoryStorages(Storages):
    """Any number of them, one for each URL; `refused` is what cannot be used here."""

    open: dict[str, MemoryStorage] = field(default_factory=dict)
    refused: Problem | None = None

    @override
    def problem(self, place: StoragePlace) -> Problem | None:
        return self.refused

    @override
    async def at(self, place: StoragePlace) -> MemoryStorage:
        if self.refused is not None:
            raise StorageFailed(self.refused.problem, permanent=True)
        found = self.open.setdefault(place.url, MemoryStorage(place))
        found.place = place
        return found
