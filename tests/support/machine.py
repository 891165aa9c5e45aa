"""Commands of `mail-proxy` as child processes, with a home of their own: in a pipe, and on a terminal."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import select
import subprocess
import termios
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import Self

from tests.support.instance import COMMAND, clean_environment

_SECONDS_FOR_A_STEP = 90
"""A machine that others use may take half a minute to start Python; whatever hangs is ended by the test's own limit."""


@dataclass(frozen=True)
class Said:
    """What came of a command."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Machine:
    """A machine with no instances yet."""

    home: Path

    @property
    def environment(self) -> dict[str, str]:
        """What commands are given; `GMP_PORT` is one that they must not look at."""
        return {**clean_environment(), "GMP_HOME": str(self.home), "GMP_PORT": "1", "GMP_API_TOKEN": "of-another"}

    async def run(self, *arguments: str, stdin: str | None = None, **variables: str) -> Said:
        """Run `mail-proxy ARGUMENTS` in a pipe."""
        child = await asyncio.create_subprocess_exec(
            *(str(COMMAND), *arguments),
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**self.environment, **variables},
        )
        out, err = await asyncio.wait_for(child.communicate(None if stdin is None else stdin.encode()), 60)
        assert child.returncode is not None
        return Said(child.returncode, out.decode(), err.decode())

    async def shell(self, command: str, folder: Path) -> str:
        """Run a line of a shell in a folder, and return what a terminal would show of it."""
        environment = {**self.environment, "PATH": f"{COMMAND.parent}:{os.environ['PATH']}"}
        child = await asyncio.create_subprocess_shell(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder, env=environment
        )
        out, _ = await asyncio.wait_for(child.communicate(), 60)
        return out.decode()

    async def stop(self) -> None:
        """End what runs."""
        for each in await self.listed():
            if each["state"] != "stopped":
                await self.run("stop", str(each["name"]), "--force")

    async def listed(self) -> list[dict[str, object]]:
        """What `list --json` shows."""
        found: list[dict[str, object]] = json.loads((await self.run("list", "--json")).out)
        return found


def _take_the_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # Ctrl-C is for whoever has the terminal


class Terminal:
    """`mail-proxy ARGUMENTS` on a pseudo-terminal. It blocks: call it in a thread."""

    def __init__(self, machine: Machine, *arguments: str, **variables: str) -> None:
        self._ours, theirs = pty.openpty()
        environment = {**machine.environment, "TERM": "xterm-256color", "COLUMNS": "200", **variables}
        self._child = subprocess.Popen(
            [str(COMMAND), *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
            preexec_fn=_take_the_terminal,  # noqa: PLW1509 - it only makes a system call
        )
        os.close(theirs)
        self.shown = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._child.kill()
        self._child.wait()
        os.close(self._ours)

    def answer(self, prompt: str, text: str) -> None:
        """Wait until the end of what is shown has the prompt, and type an answer."""
        already = len(self.shown)
        self._read_until(lambda: prompt in self.shown[already:], prompt)
        os.write(self._ours, text.encode() + b"\n")

    def interrupt(self, after: str) -> None:
        """Press Ctrl-C after something was shown, until it helps.

        A signal that comes right before readline's `select` is only seen at the next key, or the next signal.
        """
        self._read_until(lambda: after in self.shown, after)
        for _ in range(30):
            os.write(self._ours, b"\x03")
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(1)
                return

    def end(self) -> int:
        """Wait for its end and return the exit code."""
        self._read_until(lambda: False, "its end", to_the_end=True)
        return self._child.wait(_SECONDS_FOR_A_STEP)

    def _read_until(self, condition: object, what: str, *, to_the_end: bool = False) -> None:
        assert callable(condition)
        deadline = time.monotonic() + _SECONDS_FOR_A_STEP
        while not condition():
            ready, _, _ = select.select([self._ours], [], [], 0.1)
            if ready:
                try:
                    piece = os.read(self._ours, 4096)
                except OSError:  # the other end is closed
                    piece = b""
                self.shown += piece.decode(errors="replace")
                if not piece and to_the_end:
                    return
                assert piece, f"it ended before {what!r}: {self.shown}"
            assert time.monotonic() < deadline, f"no {what!r} in {self.shown}"
