"""`python -m bench`: the figures of docs/performance.md, all in one run, in about four minutes."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import compose, main_job, reports, search, smtp


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


def machine() -> str:
    """Describe what was measured on."""
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {platform.system()}"


def main() -> None:
    """Measure and print; with `--json FILE` also write the figures there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file as well")
    parser.add_argument("--messages", type=int, default=6000, help="messages in each round (default: 6000)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the main job (default: 3)")
    arguments = parser.parse_args()

    figures: dict[str, dict[str, float]] = {}
    measurements: dict[str, Callable[[], dict[str, float]]] = {
        "the disk": lambda: {"fsync /s": fsync_rate()},
        "composing, ms a message": compose.run,
        "SMTP alone, messages/s": smtp.run,
        "the main job": lambda: main_job.run(arguments.messages, rounds=arguments.rounds),
        "reports": lambda: reports.run(tenants=300, dead=100, seconds=5.0),
        "lists among a million messages, ms": search.run,
    }
    for title, measure in measurements.items():
        print(f"measuring {title} ...", file=sys.stderr, flush=True)
        figures[title] = measure()

    print(machine())
    for title, values in figures.items():
        print(f"\n{title}")
        for name, value in values.items():
            print(f"  {name:48s} {value:10.3f}" if value < 10 else f"  {name:48s} {value:10.0f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
