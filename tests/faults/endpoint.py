"""The tenant's endpoint of these tests, as a process that can be killed, and what it has written down."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tests.support.instance import eventually

_ROOT = Path(__file__).parents[2]
_FINAL = frozenset({"sent", "failed", "expired", "cancelled"})


@dataclass(frozen=True, slots=True)
class Telling:
    """An event that came, and whether the endpoint's answer took it."""

    taken: bool
    entry: dict[str, Any]

    @property
    def event_id(self) -> int:
        """Which event."""
        return int(self.entry["event_id"])


@dataclass
class Endpoint:
    """Lives and dies at one port. `look` reads what was added to its ledger, which all the rest goes by."""

    path: Path
    seed: int
    port: int = 0
    tellings: list[Telling] = field(default_factory=list)
    """All that came, in order."""
    ended: set[str] = field(default_factory=set)
    """Messages of which it took the last word."""
    _ledger: IO[str] | None = None
    _rest: str = ""
    _process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start at the same port as ever; returns when it listens."""
        self.seed += 1
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.endpoint_process", str(self.path), str(self.port), str(self.seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            text=True,
        )
        self._process = process
        assert process.stdout is not None
        self.port = int(process.stdout.readline())

    def kill(self) -> None:
        """End it at whatever instruction it is."""
        process = self._process
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()

    def look(self) -> None:
        """Read what has come meanwhile."""
        if self._ledger is None:
            self._ledger = self.path.open(encoding="utf-8")
        *lines, self._rest = (self._rest + self._ledger.read()).split("\n")
        for line in lines:
            telling = Telling(*json.loads(line))
            self.tellings.append(telling)
            if telling.taken and telling.entry["event"] in _FINAL:
                self.ended.add(telling.entry["id"])

    def close(self) -> None:
        """Leave nothing behind."""
        self.kill()
        if self._ledger is not None:
            self._ledger.close()

    async def more(self, count: int, seconds: float = 30.0) -> list[Telling]:
        """Return what comes from now on once it is so much that was taken."""
        self.look()
        before = len(self.tellings)

        def there() -> bool:
            self.look()
            return sum(telling.taken for telling in self.tellings[before:]) >= count

        await eventually(there, f"{count} more events are told", seconds)
        return self.tellings[before:]


@contextmanager
def running_endpoint(folder: Path, seed: int) -> Iterator[Endpoint]:
    """Run an endpoint; its ledger is a file in the folder."""
    path = folder / "told"
    path.touch()
    endpoint = Endpoint(path, seed)
    try:
        endpoint.start()
        yield endpoint
    finally:
        endpoint.close()
