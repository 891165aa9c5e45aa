"""Large files in a folder of this machine (`file://`)."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import secrets
import stat
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from typing_extensions import override

from mail_proxy.domain.byte_source import ByteSource
from mail_proxy.ports import FileStorage, StorageFailed, StoredRange

ResultT = TypeVar("ResultT")

BLOCK = 256 * 1024
"""Bytes that are read at a time."""
PATIENCE = 60.0
"""Seconds that the disk may take for one call; a network file system can hang."""
_KEY = re.compile(r"[A-Za-z0-9-]{1,255}(?:/[A-Za-z0-9-]{1,255}){0,3}\Z")
_PART = ".part-"


class FolderStorage(FileStorage):
    """Keeps files for this user only. A name appears when the whole file is on the disk, and not before."""

    def __init__(self, folder: Path, threads: ThreadPoolExecutor) -> None:
        self._folder = folder
        self._threads = threads

    @override
    async def put(self, key: str, content: ByteSource, mime_type: str) -> None:
        path = self._path(key)
        part = path.with_name(f"{_PART}{path.name}-{secrets.token_hex(4)}")
        descriptor = await self._call(lambda: self._begun(part))
        stored = False
        try:
            try:
                async for chunk in content.chunks():
                    await self._call(lambda piece=chunk: _write_all(descriptor, piece))  # type: ignore[misc]
                await self._call(lambda: os.fsync(descriptor))
            finally:
                os.close(descriptor)
            await self._call(lambda: _appear(part, path))
            stored = True
        finally:
            if not stored:
                with suppress(OSError):
                    part.unlink()

    @override
    async def delete(self, key: str) -> None:
        path = self._path(key)
        await self._call(lambda: _remove(path))

    @override
    async def location(self, key: str, filename: str, mime_type: str, seconds: float) -> str | None:
        return None

    @override
    async def read(self, key: str, first: int = 0, length: int | None = None) -> StoredRange | None:
        path = self._path(key)
        descriptor = await self._call(lambda: _opened(path))
        if descriptor is None:
            return None
        size = os.fstat(descriptor).st_size
        end = size if length is None else min(size, first + length)
        return StoredRange(size, self._chunks(descriptor, first, end))

    async def _chunks(self, descriptor: int, first: int, end: int) -> AsyncGenerator[bytes, None]:
        try:
            at = first
            while at < end:
                chunk = await self._call(lambda place=at: os.pread(descriptor, min(BLOCK, end - place), place))  # type: ignore[misc]
                if not chunk:
                    raise StorageFailed("the file has become shorter", permanent=False)
                yield chunk
                at += len(chunk)
        finally:
            os.close(descriptor)

    def _path(self, key: str) -> Path:
        if not _KEY.match(key):
            raise ValueError("a key has letters, digits, - and /")
        return self._folder / key

    def _begun(self, part: Path) -> int:
        part.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    async def _call(self, function: Callable[[], ResultT]) -> ResultT:
        """Run something on a thread of its own kind, for a bounded time; it is awaited also when it is given up."""
        running = asyncio.get_running_loop().run_in_executor(self._threads, function)
        try:
            return await asyncio.wait_for(asyncio.shield(running), PATIENCE)
        except asyncio.CancelledError:
            with suppress(OSError, asyncio.TimeoutError):  # what it works on must not be closed under its hands
                await asyncio.wait_for(asyncio.shield(running), PATIENCE)
            raise
        except (asyncio.TimeoutError, TimeoutError):
            raise StorageFailed(f"{self._folder} did not answer in {PATIENCE:g} s", permanent=False) from None
        except OSError as error:
            reason = f"{self._folder} cannot be used: {error.strerror}"
            raise StorageFailed(reason, permanent=error.errno not in _PASSES) from None


_PASSES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EAGAIN, errno.EINTR, errno.EMFILE, errno.ENFILE})


def _write_all(descriptor: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(descriptor, view) :]


def _appear(part: Path, path: Path) -> None:
    part.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
    for left in path.parent.glob(f"{_PART}{path.name}-*"):
        with suppress(FileNotFoundError):
            left.unlink()


def _opened(path: Path) -> int | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None
