"""The mail server of these tests, as a process of its own, and its ledger."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests.faults import sink_process
from tests.support.instance import eventually


@dataclass
class Sink:
    """A running sink. `look` reads what was added to its ledger, which all the rest goes by."""

    port: int
    pid: int
    _orders: IO[str]
    _ledger: IO[str]
    first: dict[str, float] = field(default_factory=dict)
    """When each message came for the first time, monotonic seconds."""
    copies: Counter[str] = field(default_factory=Counter)
    """How often each message came."""
    answered: Counter[str] = field(default_factory=Counter)
    """How often each message was answered 250."""
    times: list[float] = field(default_factory=list)
    """When messages came, monotonic seconds, in order."""
    _rest: str = ""

    def pause(self, seconds: float) -> None:
        """Let each final dot wait so long for its reply from now on."""
        self._orders.write(f"pause {seconds}\n")
        self._orders.flush()

    def look(self) -> None:
        """Read what has come meanwhile."""
        *lines, self._rest = (self._rest + self._ledger.read()).split("\n")
        for line in lines:
            kind, at, _session, mail_id = line.split(" ", 3)
            if kind == "dot":
                self.copies[mail_id] += 1
                self.first.setdefault(mail_id, float(at))
                self.times.append(float(at))
            else:
                self.answered[mail_id] += 1

    def first_after(self, moment: float) -> float | None:
        """When the first message came after a moment, or None."""
        self.look()
        return next((at for at in self.times if at > moment), None)

    async def wait_for(self, ids: Collection[str], seconds: float = 60.0) -> None:
        """Return once each of these has come."""

        def there() -> bool:
            self.look()
            return len(self.first) >= len(ids) and all(mail_id in self.first for mail_id in ids)

        try:
            await eventually(there, "all have come", seconds)
        except AssertionError:
            missing = sorted(set(ids) - self.first.keys())
            raise AssertionError(f"{len(missing)} of {len(ids)} did not come: {missing[:5]} ...") from None

    async def wait_for_more(self, count: int, seconds: float = 30.0) -> None:
        """Return once so many messages have come from now on."""
        self.look()
        wanted = len(self.times) + count

        def there() -> bool:
            self.look()
            return len(self.times) >= wanted

        await eventually(there, f"{count} more messages come", seconds)


@contextmanager
def running_sink(folder: Path, pause: float = 0.0) -> Iterator[Sink]:
    """Run a sink of its own; its ledger is a file in the folder."""
    path = folder / "ledger"
    path.touch()
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", sink_process.__file__, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with path.open(encoding="utf-8") as ledger:
            sink = Sink(int(process.stdout.readline()), process.pid, process.stdin, ledger)
            if pause:
                sink.pause(pause)
            yield sink
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
