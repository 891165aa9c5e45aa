"""The processes of a measurement: servers of ours, a mail server that only counts, an endpoint that only counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.smtp_tools import NotInstalled, smtp_sink
from mail_proxy.cli.counting import counting

TOKEN = "bench"
_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


class MailCounter(Protocol):
    """Something that listens on a port and counts what it gets."""

    @property
    def port(self) -> int:
        """Where it listens."""
        ...

    @property
    def count(self) -> int:
        """How many messages, or report entries, it has got."""
        ...


@contextmanager
def mail_sink() -> Iterator[MailCounter]:
    """Run a mail server that counts: `smtp-sink`, which leaves most of the machine to others, else one of our own."""
    with ExitStack() as stack:
        sink: MailCounter
        try:
            sink = stack.enter_context(smtp_sink())
        except NotInstalled:
            sink = stack.enter_context(counting("sink"))
        yield sink


@dataclass(frozen=True, slots=True)
class Server:
    """A `mail-proxy serve` of our own."""

    url: str
    process: subprocess.Popen[str]

    @property
    def memory(self) -> float:
        """Resident memory in megabytes."""
        with Path(f"/proc/{self.process.pid}/statm").open(encoding="ascii") as file:
            return int(file.read().split()[1]) * _PAGE_SIZE / 1e6

    @property
    def cpu(self) -> float:
        """Processor seconds that it has used."""
        with Path(f"/proc/{self.process.pid}/stat").open(encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


@contextmanager
def serving(settings: Mapping[str, str]) -> Iterator[Server]:
    """Run a server on a free port: on SQLite in a temporary folder, unless the settings say where."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        environment = {
            "GMP_API_TOKEN": TOKEN,
            "GMP_PORT": "0",
            "GMP_DB_PATH": f"{folder}/mail_service.db",
            "GMP_LOG_FORMAT": "json",
            **settings,
        }
        if "://" in environment["GMP_DB_PATH"]:
            environment["GMP_DATA_DIR"] = folder  # beside an SQLite file it is the folder of that
        with _running([f"{Path(sys.executable).parent}/mail-proxy", "serve"], environment) as process:
            while True:
                line = json.loads(_first_line(process))
                if line["event"] == "serving":
                    break
            yield Server(line["address"], process)


@contextmanager
def child(module: str, *arguments: str) -> Iterator[str]:
    """Run a module of ours and give the first line that it prints."""
    with _running([sys.executable, "-m", module, *arguments], {}) as process:
        yield _first_line(process)


@contextmanager
def _running(command: list[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _first_line(process: subprocess.Popen[str]) -> str:
    line = process.stdout.readline() if process.stdout is not None else ""
    if not line:
        raise RuntimeError(f"{process.args!r} ended with {process.wait()}")
    return line


def wait_for(counter: MailCounter, count: int, seconds: float = 120.0) -> float:
    """Wait until a counter has reached a number; return the time (monotonic). Raises `TimeoutError`."""
    end = time.monotonic() + seconds
    while counter.count < count:
        if time.monotonic() > end:
            raise TimeoutError(f"{counter.count} of {count} arrived within {seconds:.0f} s")
        time.sleep(0.002)
    return time.monotonic()
