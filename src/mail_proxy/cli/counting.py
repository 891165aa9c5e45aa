"""Children that count what they get, and what they have counted."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counter:
    """A child process that counts what it gets."""

    port: int
    descriptor: int
    """Of the file that it counts in, which has no name any more: nothing is left of it, however this process ends."""

    @property
    def count(self) -> int:
        """How many messages, or report entries, it got so far."""
        return int.from_bytes(os.pread(self.descriptor, 8, 0), "little")


@contextmanager
def counting(kind: str, host: str = "127.0.0.1") -> Iterator[Counter]:
    """Run a `sink` (SMTP) or a `callback` (HTTP); raises `OSError` where it cannot listen on that address."""
    with tempfile.TemporaryFile() as file:
        descriptor = file.fileno()
        command = [sys.executable, "-m", "mail_proxy.cli.counters", kind, str(descriptor), host]
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # it ends when this ends, however we do
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=(descriptor,),
            start_new_session=True,  # Ctrl-C is for us
        ) as process:
            try:
                line = process.stdout.readline() if process.stdout is not None else ""
                if not line:
                    raise OSError(f"nothing can listen on {host}")
                yield Counter(int(line), descriptor)
            finally:
                process.kill()
