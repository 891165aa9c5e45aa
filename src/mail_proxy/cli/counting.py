"""Children that count what they get, and what they have counted."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Counter:
    """A child process that counts what it gets."""

    port: int
    file: Path

    @property
    def count(self) -> int:
        """How many messages, or report entries, it got so far."""
        text = self.file.read_bytes()
        return int.from_bytes(text, "little") if text else 0


@contextmanager
def counting(kind: str, host: str = "127.0.0.1") -> Iterator[Counter]:
    """Run a `sink` (SMTP) or a `callback` (HTTP); raises `OSError` where it cannot listen on that address."""
    with tempfile.TemporaryDirectory(prefix="mail-proxy-") as folder:
        file = Path(folder) / "count"
        file.write_bytes(b"")
        command = [sys.executable, "-m", "mail_proxy.cli.counters", kind, str(file), host]
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # it ends when this ends, however we do
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for us
        ) as process:
            try:
                line = process.stdout.readline() if process.stdout is not None else ""
                if not line:
                    raise OSError(f"nothing can listen on {host}")
                yield Counter(int(line), file)
            finally:
                process.kill()
