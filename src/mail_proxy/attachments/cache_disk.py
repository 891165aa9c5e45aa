"""The part of the cache that is on disk: a folder that several processes share.

    FOLDER/lock                               held by whoever adds or clears away
    FOLDER/TENANT/SCOPE-MD5-SHA256-SIZE       a whole content; its name says what must be in it
    FOLDER/TENANT/tmp-…                       being written by whoever holds the lock; of nobody else's it is a remnant

A file gets its name when it is whole, and is compared with its name each time before it is sent: neither a killed
process nor a lost power supply makes a torn one pass for whole, and so nothing has to be synced. The time of change is
when it was put there, the time of access when it was used last. Everything here blocks: it runs on threads.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from mail_proxy.attachments.cache_memory import Content, Scope
from mail_proxy.attachments.spool import Spooled
from mail_proxy.domain.attachment import Attachment

_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{32})-([0-9a-f]{64})-(\d{1,15})\Z")
_FOLDER = re.compile(r"[0-9a-f]{32}\Z")
_BLOCK = 1 << 20
_TRIES, _PAUSE = 5, 0.02
"""How often, and after how many seconds, the lock is tried. A frozen holder must not hold messages up."""  # G11


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    size: int
    used: float


class DiskTier:
    """At most `most` bytes, each content for `ttl` seconds. `evicted` is told of each that had to make room."""

    def __init__(
        self, folder: Path, most: int, ttl: float, evicted: Callable[[], None], now: Callable[[], float] = time.time
    ) -> None:
        self._folder = folder
        self._most = most
        self._ttl = ttl
        self._evicted = evicted
        self._now = now

    def find(self, scope: Scope, wanted: Attachment) -> Spooled | None:
        """Open the content that is meant, if it is here and whole. It stays readable whatever becomes of its name."""
        folder = self._of_tenant(scope.tenant_id)
        try:
            names = sorted(os.listdir(folder))  # noqa: PTH208 - names alone
        except FileNotFoundError:
            return None
        for name in names:
            parts = _NAME.match(name)
            if parts is None or parts[1] != _digest_of(scope) or wanted.hash_problem(parts[2], parts[3]) is not None:
                continue
            opened = self._opened(folder / name, parts[2], parts[3], int(parts[4]))
            if opened is not None:
                return opened
        return None

    def put(self, content: Content, held: Spooled) -> int | None:
        """Keep a content, and let others go for it. Returns the bytes in the folder then, None where that is not known.

        Raises `OSError` where the disk does not take it.
        """
        with self.locked() as mine:
            if not mine or held.size > self._most:
                return None
            folder = self._of_tenant(content.scope.tenant_id)
            name = f"{_digest_of(content.scope)}-{content.md5}-{content.sha256}-{held.size}"
            with suppress(FileNotFoundError):
                (folder / name).unlink()
            total = self._cleared(held.size)
            folder.mkdir(mode=0o700, exist_ok=True)
            temporary = folder / f"tmp-{uuid4().hex}"
            try:
                with temporary.open("xb", buffering=0) as file:
                    temporary.chmod(0o600)
                    for block in held.blocks(_BLOCK):
                        _write(file, block)
                now = self._now()
                os.utime(temporary, (now, now))
                temporary.rename(folder / name)
            finally:
                temporary.unlink(missing_ok=True)
            return total + held.size

    def sweep(self) -> int | None:
        """Clear away what is too old, too much, or a remnant. Returns as `put` does."""
        with self.locked() as mine:
            return self._cleared(0) if mine else None

    def forget(self, tenant_id: str) -> None:
        """Remove what a tenant has here."""
        for each in self._files(self._of_tenant(tenant_id)):
            each.unlink(missing_ok=True)

    def _opened(self, path: Path, md5: str, sha256: str, size: int) -> Spooled | None:
        try:
            file = os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), "rb", 0)
        except OSError:
            return None
        spooled = Spooled(file, size, md5, sha256)
        about = os.fstat(file.fileno())
        if self._is_old(about):
            spooled.close()
            return None
        if about.st_size != size or not _is_whole(spooled, sha256):
            spooled.close()
            path.unlink(missing_ok=True)
            return None
        with suppress(OSError):
            os.utime(file.fileno(), (self._now(), about.st_mtime))
        return spooled

    def _cleared(self, more: int) -> int:
        """Make room for so many bytes more, and return how many there are. The lock is held."""
        kept: list[_File] = []
        for folder in self._folders():
            for path in self._files(folder):
                try:
                    about = path.lstat()
                except FileNotFoundError:
                    continue
                if path.name.startswith("tmp-") or self._is_old(about):
                    path.unlink(missing_ok=True)
                else:
                    kept.append(_File(path, about.st_size, about.st_atime))
            with suppress(OSError):  # there is something in it
                folder.rmdir()
        total = sum(each.size for each in kept)
        for each in sorted(kept, key=lambda file: file.used):
            if total + more <= self._most:
                break
            each.path.unlink(missing_ok=True)
            total -= each.size
            self._evicted()
        return total

    def _is_old(self, about: os.stat_result) -> bool:
        """True also for what comes from the future: a clock was set back, and nobody knows its age."""
        return not -60 <= self._now() - about.st_mtime < self._ttl

    def _of_tenant(self, tenant_id: str) -> Path:
        return self._folder / hashlib.sha256(tenant_id.encode(errors="surrogatepass")).hexdigest()[:32]

    def _folders(self) -> Iterator[Path]:
        """Give the tenants' folders; what else somebody has put here is not touched."""
        yield from [each for each in self._folder.iterdir() if _FOLDER.match(each.name)]

    def _files(self, folder: Path) -> Iterator[Path]:
        try:
            found = list(folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return
        yield from [each for each in found if _NAME.match(each.name) or each.name.startswith("tmp-")]

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """Hold the lock if it can be had soon. It goes with the process, however that ends."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            yield _taken(lock)
        finally:
            os.close(lock)


def _taken(lock: int) -> bool:
    for _ in range(_TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE)
        else:
            return True
    return False


def _is_whole(spooled: Spooled, sha256: str) -> bool:
    found = hashlib.sha256()
    try:
        for block in spooled.blocks(_BLOCK):
            found.update(block)
    except OSError:
        return False
    return found.hexdigest() == sha256


def _digest_of(scope: Scope) -> str:
    text = f"{scope.tenant_id}\0{scope.created_ts!r}\0{scope.by_tenant}"
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def _write(file: BinaryIO, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(file.fileno(), view) :]
