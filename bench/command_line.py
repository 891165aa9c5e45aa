"""`python -m bench.command_line`: how long commands take, from the start of the process to its end."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = Path(sys.executable).with_name("mail-proxy")
ROUNDS = 10


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as home:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GMP_")}
        environment["GMP_HOME"] = home
        _run(environment, "start", "box", "--background")
        try:
            for words in ("--help", "box acme --help", "list", "box info", "box tenants list"):
                _measure(environment, words, "running")
        finally:
            _run(environment, "stop", "box")
        _measure(environment, "box tenants list", "stopped")


def _measure(environment: dict[str, str], words: str, how: str) -> None:
    seconds = []
    for _ in range(ROUNDS):
        began = time.monotonic()
        _run(environment, *words.split())
        seconds.append(time.monotonic() - began)
    median, worst = statistics.median(seconds), max(seconds)
    print(f"mail-proxy {words:<20} {how:<8} median {median * 1000:5.0f} ms, worst {worst * 1000:5.0f} ms")


def _run(environment: dict[str, str], *words: str) -> None:
    subprocess.run([COMMAND, *words], env=environment, check=True, capture_output=True)


if __name__ == "__main__":
    main()
