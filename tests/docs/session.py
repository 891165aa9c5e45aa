"""Runs the commands of a page as somebody who pastes them: servers beside, everything else in one shell, in order."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.docs.pages import Block, Page
from tests.support.instance import clean_environment

PATIENCE = 20.0
"""Seconds for whatever a page says will happen."""
BIN = Path(sys.executable).parent
REAL_CURL = shutil.which("curl") is not None

QUICK = {"GMP_PORT": "0", "GMP_SEND_LOOP_INTERVAL": "0.2", "PYTHONUNBUFFERED": "1"}
"""What a server is given beside its command: a free port, and no long waits."""

_MARKER = "---- the end of a block, status"
_VOLATILE = re.compile(r"api_key|ts|\w+_ts")


@dataclass(slots=True)
class Server:
    """A command that a page starts in a terminal of its own."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def text(self) -> str:
        """What it has written so far."""
        return self.output.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> int:
        """Press Ctrl-C in its terminal and return its exit code."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(PATIENCE)


@dataclass(slots=True)
class Session:
    """One reading of a page. `instead` is what stands in the page, and what is run in its place: ports and folders."""

    folder: Path
    instead: dict[str, str]
    servers: list[Server] = field(default_factory=list)
    shell: subprocess.Popen[str] | None = None

    def start(self, block: Block) -> Server:
        """Start a server."""
        output = self.folder / f"server-{len(self.servers)}.out"
        with output.open("wb") as file:
            process = subprocess.Popen(
                ["/bin/sh", "-c", f"exec env {self.text(block).strip()}"],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=self.environment() | QUICK,
                start_new_session=True,
            )
        server = Server(process, output)
        self.servers.append(server)
        return server

    def run(self, block: Block) -> str:
        """Run a block in the shell, which remembers what earlier ones have set; return what it wrote."""
        if block.language == "python":
            (self.folder / "block.py").write_text(self.text(block), encoding="utf-8")
            return self._run("python3 block.py\n")
        return self._run(self.text(block))

    def answers(self, block: Block) -> list[object]:
        """Run a block and return the JSON values that it wrote; what is no JSON is passed over."""
        return list(_json_values(self.run(block)))

    def text(self, block: Block) -> str:
        """Return what is run for a block."""
        text = block.text
        for there, here in self.instead.items():
            text = text.replace(there, here)
        return text

    def _run(self, commands: str) -> str:
        shell = self.shell
        assert shell is not None
        assert shell.stdin is not None
        assert shell.stdout is not None
        shell.stdin.write(f"{commands}\nprintf '\\n{_MARKER} %s\\n' $?\n")
        shell.stdin.flush()
        lines: list[str] = []
        while not (line := shell.stdout.readline()).startswith(_MARKER):
            assert line, "the shell has ended"
            lines.append(line)
        assert line.split()[-1] == "0", "".join(lines)
        return "".join(lines)

    def environment(self) -> dict[str, str]:
        """Return the variables of the reader's terminals."""
        path = f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        return clean_environment() | {"PATH": path if REAL_CURL else f"{self.folder / 'bin'}{os.pathsep}{path}"}


@contextmanager
def session(folder: Path, instead: Mapping[str, str]) -> Iterator[Session]:
    """Open a shell in a folder; end it, and every server, whatever happens."""
    reading = Session(folder, {".venv/bin/": f"{BIN}/", **instead})
    _put_a_curl_there(folder)
    reading.shell = subprocess.Popen(
        ["/bin/sh"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env=reading.environment(),
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )
    try:
        yield reading
    finally:
        for server in reading.servers:
            _kill(server.process)
        _kill(reading.shell)
        for pipe in (reading.shell.stdin, reading.shell.stdout):
            assert pipe is not None
            pipe.close()


def follow(page: Page, reading: Session, started: Callable[[Server], None]) -> None:
    """Do what a page says from its first block to its last, and hold every answer against the one that it shows.

    `started` is called with each server, to wait until it serves.
    """
    blocks = page.blocks
    for block, following in zip(blocks, (*blocks[1:], None), strict=True):
        shown = following if following is not None and following.language == "json" and not following.mark else None
        match block.mark:
            case "start":
                started(reading.start(block))
            case "run" if shown is None:
                answers = reading.answers(block)
                assert all(isinstance(each, dict) and each["ok"] for each in answers), answers
            case "run":
                assert shown is not None
                answers = reading.answers(block)
                assert as_shown(json.loads(shown.text), answers[-1]), answers
            case "run until it answers so":
                assert shown is not None
                expected = json.loads(shown.text)
                eventually(lambda: as_shown(expected, reading.answers(block)[-1]), f"{block.text} answers {shown.text}")  # noqa: B023
            case _:
                pass


def as_shown(shown: object, real: object, name: str = "") -> bool:
    """True when an answer has all that a page shows of it. Times and keys are of the same kind, all else is equal."""
    match shown, real:
        case dict(), dict():
            return all(key in real and as_shown(value, real[key], key) for key, value in shown.items())
        case list(), list():
            return len(shown) == len(real) and all(map(as_shown, shown, real))
        case _ if _VOLATILE.fullmatch(name):
            return type(shown) is type(real)
        case _:
            return shown == real


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Return once a condition on other processes holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.05)


def _kill(process: subprocess.Popen[Any]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_port() -> int:
    """Return a port where nobody listens now."""
    with socket.socket() as probing:
        probing.bind(("127.0.0.1", 0))
        port: int = probing.getsockname()[1]
        return port


def listens(port: int) -> bool:
    """True when somebody takes connections there."""
    with socket.socket() as probing:
        probing.settimeout(1)
        return probing.connect_ex(("127.0.0.1", port)) == 0


def _json_values(text: str) -> Iterator[object]:
    decoder = json.JSONDecoder()
    at = text.find("{")
    while at >= 0:
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            at += 1
        else:
            yield value
        at = text.find("{", at)


def _put_a_curl_there(folder: Path) -> None:
    """Make a command `curl` for machines that have none; `PATH` leads to it only there."""
    (folder / "bin").mkdir()
    stand_in = folder / "bin" / "curl"
    stand_in.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).with_name("curl.py")}" "$@"\n')
    stand_in.chmod(0o755)
