"""Attachments that are files of this machine, below the folders that the operator has set."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from typing_extensions import override

from mail_proxy.attachments.spool import Spool, SpoolSettings, too_big
from mail_proxy.ports.attachments import AttachmentSource, Fetched, FetchFailed, Wanted

_READ = 256 * 1024
_THREADS = 8
"""Threads that read files; a hung network file system holds these up and no others."""
_TEMPORARY = frozenset(
    {errno.EIO, errno.EAGAIN, errno.EINTR, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT}
)
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class FileSource(AttachmentSource):
    """Reads regular files below its roots.

    A relative path belongs to the first root. A message that came with a tenant's token reads what is below
    `ROOT/<tenant id>/` only, and its relative paths begin there.
    """

    def __init__(self, roots: Sequence[Path], spool: SpoolSettings, timeout: float) -> None:
        self._roots = tuple(roots)
        self._spool = spool
        self._timeout = timeout
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="attachment")

    def close(self) -> None:
        """Let the threads end; one that hangs is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @override
    async def fetch(self, wanted: Wanted, grown: Callable[[int], None]) -> Fetched:
        try:
            return await asyncio.wait_for(self._fetch(wanted, grown), self._timeout)
        except (asyncio.TimeoutError, TimeoutError):
            reason = f"the file was not read within {self._timeout:g} s"
            raise FetchFailed(reason, permanent=False) from None

    async def _fetch(self, wanted: Wanted, grown: Callable[[int], None]) -> Fetched:
        loop = asyncio.get_running_loop()
        spool = Spool(self._spool, grown)
        opening = loop.run_in_executor(self._threads, self._opened, wanted)
        try:
            file = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_late)
            raise
        reading: asyncio.Future[bytes] | None = None
        try:
            while True:
                reading = loop.run_in_executor(self._threads, _read, file)
                chunk = await asyncio.shield(reading)
                if not chunk:
                    return await spool.finish()
                await spool.write(chunk)
        except OSError as error:
            raise _failure(error) from None
        finally:
            spool.discard()
            if reading is None or reading.done():
                os.close(file)
            else:  # the thread has it still
                reading.add_done_callback(lambda _read: os.close(file))

    def _opened(self, wanted: Wanted) -> int:
        """Open a file that is where it may be, at the moment when it is opened. Raises `FetchFailed`."""
        subfolder = wanted.tenant.id if wanted.by_tenant else ""
        try:
            root, parts = self._located(wanted.attachment.storage_path, subfolder)
            file = _walked(root, parts)
        except FileNotFoundError:
            raise FetchFailed("there is no such file", permanent=True) from None
        except OSError as error:
            raise _failure(error) from None
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode):
            os.close(file)
            raise FetchFailed("it is not a regular file", permanent=True)
        if about.st_size > self._spool.max_bytes:
            os.close(file)
            raise too_big(self._spool.max_bytes)
        return file

    def _located(self, path: str, subfolder: str) -> tuple[str, Sequence[str]]:
        """Resolve a path with all its links: (the root that it is below, the names from there)."""
        if "\0" in path or ".." in path.split("/") or not self._roots:
            raise _outside()
        given = Path(path) if path.startswith("/") else self._roots[0] / subfolder / path
        real = os.path.realpath(given)
        for root in self._roots:
            resolved = os.path.realpath(root)
            base = os.path.join(resolved, subfolder) if subfolder else resolved  # noqa: PTH118 - no Path that tidies up
            if real.startswith(base.rstrip("/") + "/"):
                return resolved, real[len(resolved.rstrip("/")) + 1 :].split("/")
        raise _outside()


def _outside() -> FetchFailed:
    # The same whether there is such a file or not.
    return FetchFailed("the path is not below a folder from which files may be sent", permanent=True)


def _walked(root: str, parts: Sequence[str]) -> int:
    """Open a file name by name, following no link: what was resolved may have been exchanged since."""
    folder = os.open(root, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            inner = os.open(part, _OPEN | os.O_DIRECTORY, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(parts[-1], _OPEN, dir_fd=folder)
    finally:
        os.close(folder)


def _read(file: int) -> bytes:
    return os.read(file, _READ)


def _close_late(opening: asyncio.Future[int]) -> None:
    with suppress(BaseException):
        os.close(opening.result())


def _failure(error: OSError) -> FetchFailed:
    if error.errno in {errno.ELOOP, errno.ENXIO}:  # a link that was put there meanwhile; a socket or an empty FIFO
        return FetchFailed("it is not a regular file", permanent=True)
    return FetchFailed(f"the file cannot be read: {error.strerror}", permanent=error.errno not in _TEMPORARY)
