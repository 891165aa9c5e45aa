"""Files that commands write: whole, or not at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mail_proxy.cli.instances import InstanceError


@contextmanager
def written_whole(name: str) -> Iterator[BinaryIO]:
    """Yield a file for its owner alone that is in its place when it is whole, or stdout for `-`.

    Raises `InstanceError` where it cannot be written.
    """
    if name == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(name)
    anew = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(anew, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            anew.replace(path)
        finally:
            anew.unlink(missing_ok=True)
    except OSError as error:
        raise InstanceError(f"{path} cannot be written: {error.strerror}") from None
