"""Bytes on their way in: hashed as they come, in memory while they are few, else in a file without a name.

A file without a name goes with the process, however that ends; where the file system needs a name for a moment, what
is left of that is removed at the next start.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mail_proxy.domain.byte_source import LINE
from mail_proxy.ports.attachments import FetchFailed

IN_MEMORY = 100_000
"""Bytes up to which an attachment is held in memory."""
_BLOCK = 192 * 1024
"""Bytes that are hashed and written at a time, on a thread."""
_CHUNK = LINE * 1024
FOLDER = "spool"


@dataclass(frozen=True, slots=True)
class SpoolSettings:
    """Where files go, and the most bytes that one attachment may have."""

    folder: Path
    max_bytes: int


def remove_left_over(folder: Path) -> None:
    """Remove what an earlier run may have left in the folder."""
    for left in folder.iterdir():
        if left.name.startswith("tmp"):
            with suppress(OSError):
                left.unlink()


class Spooled:
    """The whole of an attachment. Keeps the port `Fetched`."""

    def __init__(self, held: bytes | BinaryIO, size: int, md5: str, sha256: str) -> None:
        self._held: bytes | BinaryIO | None = held
        self._size = size
        self.md5, self.sha256 = md5, sha256

    @property
    def size(self) -> int:
        """See `ByteSource.size`."""
        return self._size

    async def chunks(self) -> AsyncIterator[bytes]:
        """See `ByteSource.chunks`."""
        held = self._held
        if held is None:
            raise ValueError("it was given up")
        at = 0
        while at < self._size:
            if isinstance(held, bytes):
                chunk = held[at : at + _CHUNK]
            else:  # what was written a moment ago is in the system's memory as a rule
                chunk = await asyncio.to_thread(os.pread, held.fileno(), _CHUNK * 4, at)
            if not chunk:
                raise OSError("the spooled file is shorter than it was")
            yield chunk
            at += len(chunk)

    def blocks(self, size: int) -> Iterator[bytes]:
        """Yield the bytes in blocks, for threads: it may wait for the disk."""
        at = 0
        while at < self._size:
            held = self._held
            if held is None:
                raise ValueError("it was given up")
            block = held[at : at + size] if isinstance(held, bytes) else os.pread(held.fileno(), size, at)
            if not block:
                raise OSError(errno.EIO, "the spooled file is shorter than it was")
            yield block
            at += len(block)

    def copy(self) -> Spooled:
        """Return another one of the same bytes, to be closed by itself."""
        held = self._held
        if held is None:
            raise ValueError("it was given up")
        if not isinstance(held, bytes):
            held = os.fdopen(os.dup(held.fileno()), "rb", 0)
        return Spooled(held, self._size, self.md5, self.sha256)

    def close(self) -> None:
        """See `Fetched.close`."""
        held, self._held = self._held, None
        if held is not None and not isinstance(held, bytes):
            held.close()


class Spool:
    """Takes bytes in; `finish` or `discard` ends it. `grown` is told of each piece."""

    def __init__(self, settings: SpoolSettings, grown: Callable[[int], None]) -> None:
        self._settings = settings
        self._grown = grown
        self._buffer = bytearray()
        self._file: BinaryIO | None = None
        # No security hangs on MD5: it only names the content.
        self._md5, self._sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
        self.size = 0

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes in. Raises `FetchFailed` where they are too many, or the disk does not take them."""
        self.size += len(chunk)
        if self.size > self._settings.max_bytes:
            raise too_big(self._settings.max_bytes)
        self._grown(len(chunk))
        self._buffer += chunk
        if len(self._buffer) >= _BLOCK:
            await self._flush()

    async def finish(self) -> Spooled:
        """Return what came in."""
        held: bytes | BinaryIO
        if self._file is None and self.size <= IN_MEMORY:
            held = bytes(self._buffer)
            self._md5.update(held)
            self._sha256.update(held)
        else:
            await self._flush()
            assert self._file is not None  # noqa: S101 - made by _flush
            held, self._file = self._file, None
        return Spooled(held, self.size, self._md5.hexdigest(), self._sha256.hexdigest())

    def discard(self) -> None:
        """Give up what came in so far; may be called after `finish`."""
        if self._file is not None:
            self._file.close()
            self._file = None

    async def _flush(self) -> None:
        block, self._buffer = self._buffer, bytearray()
        writing = asyncio.ensure_future(asyncio.to_thread(self._store, block))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing])  # the file must not be closed under the thread's hands
            raise
        except OSError as error:
            reason = f"it cannot be kept on disk: {error.strerror}"
            raise FetchFailed(reason, permanent=False) from None

    def _store(self, block: bytearray) -> None:
        self._md5.update(block)
        self._sha256.update(block)
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._settings.folder, buffering=0)  # noqa: SIM115 - `close` does
        view = memoryview(block)
        while view:
            view = view[os.write(self._file.fileno(), view) :]


def too_big(most: int) -> FetchFailed:
    """Say that an attachment has too many bytes."""
    return FetchFailed(f"it has more than {most} bytes, which GMP_ATTACHMENT_MAX_MB allows", permanent=True)
