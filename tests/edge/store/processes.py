"""Stores that other processes hold open."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

_ROOT = Path(__file__).parents[3]


class Opener:
    """A process that opens a store when it is told to."""

    def __init__(self, process: subprocess.Popen[str], stdin: IO[str], stdout: IO[str]) -> None:
        self.process = process
        self._stdin, self._stdout = stdin, stdout

    def begin(self) -> None:
        """Let it open its store."""
        self._stdin.write("\n")
        self._stdin.flush()

    def wait_until_open(self) -> None:
        """Return once its store is open."""
        assert self._stdout.readline() == "open\n"

    def end(self) -> int:
        """Let it close its store; return how it ended."""
        self._stdin.close()
        return self.process.wait(30)


@contextmanager
def openers(url: str, count: int) -> Iterator[list[Opener]]:
    """Start processes that are ready to open the store."""
    environment = os.environ | {"PYTHONPATH": f"{_ROOT / 'src'}{os.pathsep}{_ROOT}"}
    command = [sys.executable, "-m", "tests.edge.store.opener", url]
    found: list[Opener] = []
    with ExitStack() as stack:
        for n in range(count):
            process = stack.enter_context(
                subprocess.Popen(
                    [*command, str(n)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=environment,
                    cwd=_ROOT,
                )
            )
            stack.callback(process.kill)
            assert process.stdin is not None
            assert process.stdout is not None
            found.append(Opener(process, process.stdin, process.stdout))
        yield found
