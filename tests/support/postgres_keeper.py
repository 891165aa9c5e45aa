"""Outlives the tests by a moment: ends their PostgreSQL server and removes its folder, however they ended.

Run as `python postgres_keeper.py FOLDER` with a pipe as standard input. Each line says which process is the server now,
0 for none. The pipe ends when the tests close it or when their process dies, by whatever signal. Standard library only,
so that it starts at once.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

_SECONDS_TO_SHUT_DOWN = 10


def main(folder: Path) -> None:
    """Wait for the end of standard input, then leave neither server nor folder."""
    server = 0
    for line in sys.stdin:
        server = int(line)
    if server and _signal(server, signal.SIGINT):  # the fast shutdown
        deadline = time.monotonic() + _SECONDS_TO_SHUT_DOWN
        while _signal(server, 0) and time.monotonic() < deadline:
            time.sleep(0.01)
        _signal(server, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def _signal(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    main(Path(sys.argv[1]))
