"""A tenant's endpoint: `python -m tests.faults.endpoint_process FILE PORT SEED`; it ends with its input.

It writes each request down before it answers, one JSON line for each event: whether the answer takes it, and the entry.
It is slow, and now and then it says 500, `"ok": false`, or nothing; or it leaves single messages for later.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from random import Random

from tests.support.callback_server import CallbackServer, Manner, Received, Reply

_FAILURES = (Reply(500), Reply(200, b'{"ok": false}'), Reply(manner=Manner.RESET))


class Endpoint:
    """Decides on the answers, and keeps the ledger."""

    def __init__(self, path: str, seed: int) -> None:
        self._rng = Random(seed)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def answer(self, request: Received) -> Reply:
        """Write down what came, and return the answer."""
        failure = self._rng.choice(_FAILURES) if self._rng.random() < 0.1 else None
        refused = {entry["id"] for entry in request.entries if self._rng.random() < 0.02}
        lines = [
            json.dumps([failure is None and entry["id"] not in refused, entry]) + "\n" for entry in request.entries
        ]
        os.write(self._file, "".join(lines).encode())
        if failure is not None:
            return failure
        # Slow enough that the service can be met while an answer is on its way; sometimes slow beyond that.
        delay = 0.7 if self._rng.random() < 0.03 else self._rng.uniform(0.1, 0.2)
        return Reply(body=json.dumps({"ok": True, "error": sorted(refused)}).encode(), delay=delay)


async def main(path: str, port: str, seed: str) -> None:
    """Serve until the input ends."""
    server = CallbackServer()
    server.answering = Endpoint(path, int(seed)).answer
    await server.start(int(port))
    print(server.port, flush=True)  # noqa: T201 - whoever started it reads this
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
