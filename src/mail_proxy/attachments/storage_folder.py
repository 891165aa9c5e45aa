"""Large files in a folder of this machine (`file://`).

ROOT/FOLDER/KEY                 a whole file
ROOT/FOLDER/…/.part-NAME-8hex   one that is being written, or was when its process ended
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from typing_extensions import override

from mail_proxy.attachments.storage_calls import BLOCK, Calls, Pulled, SourceBroke
from mail_proxy.domain.byte_source import ByteSource
from mail_proxy.ports.file_storage import FileStorage, StorageFailed, StoredRange

ResultT = TypeVar("ResultT")

SLOWEST = 1_000_000
"""Bytes a second below which a disk is taken for one that hangs."""
_KEY = re.compile(r"[A-Za-z0-9-]{1,128}(?:/[A-Za-z0-9-]{1,128}){0,7}\Z")
_PART = ".part-"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# A FIFO that nobody writes to must not hold the thread.
_OLD = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOR_GOOD = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}
)


@dataclass(frozen=True, slots=True)
class Below:
    """A folder: names that lead to it from a root. No link is followed on the way."""

    root: Path
    """As it is when all links are resolved."""
    names: Sequence[str]


class FolderStorage(FileStorage):
    """Keeps files for this user only. A name appears when the whole file is on the disk, and not before."""

    def __init__(self, url: str, folder: Below, patience: float) -> None:
        """`url` is what errors show."""
        self._url = url
        self._folder = folder
        self._calls = Calls(url, patience)

    @override
    async def put(self, key: str, content: ByteSource, mime_type: str) -> None:
        names, name = self._located(key)
        pulled = Pulled(content)

        def store() -> None:
            with self._reached(names, make=True) as folder:
                _store(folder, name, pulled)

        await self._run(store, extra=content.size / SLOWEST, give_up=pulled.give_up)

    @override
    async def delete(self, key: str) -> None:
        names, name = self._located(key)

        def remove() -> None:
            with suppress(_NotThere), self._reached(names) as folder:
                _remove(folder, name)

        await self._run(remove)

    @override
    async def location(self, key: str, filename: str, mime_type: str, seconds: float) -> str | None:
        return None

    @override
    async def read(self, key: str, first: int = 0, length: int | None = None) -> StoredRange | None:
        names, name = self._located(key)

        def opened() -> _File | None:
            try:
                with self._reached(names) as folder:
                    return _opened(folder, name)
            except _NotThere:
                return None

        def close(late: _File | None) -> None:
            if late is not None:
                late.close()

        file = await self._run(opened, late=close)
        if file is None:
            return None
        end = file.size if length is None else min(file.size, first + length)
        return StoredRange(file.size, _Chunks(self, file, first, end))

    async def piece(self, file: _File, at: int, length: int) -> bytes:
        """Read a piece of an open file; it has to be there."""
        found = await self._run(lambda: file.read(at, length))
        if not found:
            raise StorageFailed(f"{self._url}: a file has become shorter", permanent=False)
        return found

    def _located(self, key: str) -> tuple[Sequence[str], str]:
        if not _KEY.match(key):
            raise ValueError("a key has letters, digits, - and /")
        *folders, name = key.split("/")
        return (*self._folder.names, *folders), name

    @contextmanager
    def _reached(self, names: Sequence[str], *, make: bool = False) -> Iterator[int]:
        """Open a folder name by name from the root; `make`: those that are not there are made."""
        try:
            folder = os.open(self._folder.root, _FOLDER)
        except FileNotFoundError:  # a disk that is not mounted: what is on it is not gone
            reason = f"{self._url}: {self._folder.root}, which GMP_STORAGE_ROOTS names, is not there"
            raise StorageFailed(reason, permanent=False) from None
        try:
            for name in names:
                inner = _entered(folder, name, make=make)
                os.close(folder)
                folder = inner
            yield folder
        finally:
            os.close(folder)

    async def _run(
        self,
        function: Callable[[], ResultT],
        *,
        extra: float = 0.0,
        give_up: Callable[[], object] = lambda: None,
        late: Callable[[ResultT], object] = lambda _: None,
    ) -> ResultT:
        try:
            return await self._calls.run(function, extra=extra, give_up=give_up, late=late)
        except SourceBroke as broke:
            raise broke.error from None
        except OSError as error:
            raise self._failure(error) from None

    def _failure(self, error: OSError) -> StorageFailed:
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            return StorageFailed(f"{self._url}: a link or a file is where a folder should be", permanent=True)
        what = error.strerror or type(error).__name__
        return StorageFailed(f"{self._url} cannot be used: {what}", permanent=error.errno in _FOR_GOOD)


class _NotThere(Exception):
    """A folder on the way to a file is not there."""


class _File:
    """An open file. It may be closed while a thread reads it: then that closes it."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.size = size
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._readers = 0
        self._closed = False

    def read(self, at: int, length: int) -> bytes:
        """Read on a thread; nothing where it was closed."""
        with self._lock:
            if self._closed:
                return b""
            self._readers += 1
        try:
            return os.pread(self._descriptor, length, at)
        finally:
            self._left(1)

    def close(self) -> None:
        """Give it up; may be called twice."""
        with self._lock:
            before, self._closed = self._closed, True
        if not before:
            self._left(0)

    def _left(self, readers: int) -> None:
        with self._lock:
            self._readers -= readers
            if self._closed and not self._readers and self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1


class _Chunks(AsyncGenerator[bytes, None]):
    """The bytes of a part of a file. No `async def`: closing one of those before its start would close nothing."""

    def __init__(self, storage: FolderStorage, file: _File, first: int, end: int) -> None:
        self._storage = storage
        self._file = file
        self._at = first
        self._end = end

    @override
    async def asend(self, value: None) -> bytes:
        if self._at >= self._end:
            self._file.close()
            raise StopAsyncIteration
        try:
            chunk = await self._storage.piece(self._file, self._at, min(BLOCK, self._end - self._at))
        except BaseException:
            self._finish()
            raise
        self._at += len(chunk)
        return chunk

    @override
    async def athrow(
        self,
        typ: type[BaseException] | BaseException,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> bytes:
        self._finish()
        raise typ

    def _finish(self) -> None:
        self._at = self._end
        self._file.close()


def _entered(folder: int, name: str, *, make: bool) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=folder)
    except FileNotFoundError:
        if not make:
            raise _NotThere from None
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=folder)
        os.fsync(folder)
    return os.open(name, _FOLDER, dir_fd=folder)


def _store(folder: int, name: str, content: Pulled) -> None:
    """Write a file under another name, and give it its name when it is on the disk."""
    part = f"{_PART}{name}-{secrets.token_hex(4)}"
    descriptor = os.open(part, _NEW, 0o600, dir_fd=folder)
    try:
        try:
            for block in content.blocks():
                view = memoryview(block)
                while view:
                    view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        content.still_wanted()  # the disk may have taken long: by now the key may be another's
        os.rename(part, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(part, dir_fd=folder)
        raise
    os.fsync(folder)


def _remove(folder: int, name: str) -> None:
    left = re.compile(re.escape(f"{_PART}{name}-") + r"[0-9a-f]{8}\Z")

    for each in (name, *filter(left.match, os.listdir(folder))):
        with suppress(FileNotFoundError):
            os.unlink(each, dir_fd=folder)
    os.fsync(folder)


def _opened(folder: int, name: str) -> _File | None:
    """Open a regular file; None for everything else, which the service has not put there."""
    try:
        descriptor = os.open(name, _OLD, dir_fd=folder)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ELOOP, errno.ENXIO}:
            return None
        raise
    about = os.fstat(descriptor)
    if stat.S_ISREG(about.st_mode):
        return _File(descriptor, about.st_size)
    os.close(descriptor)
    return None
