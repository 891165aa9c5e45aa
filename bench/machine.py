"""What is measured on."""

from __future__ import annotations

import os
import platform
import sqlite3
import tempfile
import time
from pathlib import Path


def machine() -> str:
    """Describe it in a line."""
    cores = len(os.sched_getaffinity(0))
    python, database = platform.python_version(), sqlite3.sqlite_version
    return f"{cores} cores ({_processor()}), Python {python}, SQLite {database}, {platform.system()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def fsync_rate(seconds: float = 1.0) -> float:
    """Return how many small appends a second this disk makes durable: no server on it commits oftener."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        file = os.open(Path(folder) / "file", os.O_CREAT | os.O_WRONLY)
        count, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            os.write(file, b"x" * 4096)
            os.fsync(file)
            count += 1
        os.close(file)
    return count / seconds
