"""A mail server that is far away: `python -m bench.distance PORT SECONDS` prints a port whose bytes come late.

What comes on it goes on to PORT, and what that answers comes back, each after half of the seconds.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import uvloop
from typing_extensions import override

from bench.processes import child


class _End(asyncio.Protocol):
    """One end of a connection: what it gets, the other one writes later, in the same order."""

    def __init__(self, delay: float) -> None:
        self.other: _End | None = None
        self.transport: asyncio.Transport | None = None
        self._delay = delay
        self._late: deque[tuple[float, bytes | None]] = deque()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    @override
    def data_received(self, data: bytes) -> None:
        self._put(data)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._put(None)

    def _put(self, data: bytes | None) -> None:
        self._late.append((self._loop.time() + self._delay, data))
        if self._timer is None:
            self._timer = self._loop.call_later(self._delay, self._pass_on)

    def _pass_on(self) -> None:
        if self.other is None:  # it is being connected
            self._timer = self._loop.call_later(self._delay, self._pass_on)
            return
        now = self._loop.time() + 0.0005
        while self._late and self._late[0][0] <= now:
            _, data = self._late.popleft()
            if self.other.transport is not None:
                if data is None:
                    self.other.transport.close()
                else:
                    self.other.transport.write(data)
        self._timer = self._loop.call_at(self._late[0][0], self._pass_on) if self._late else None


async def _forward(port: int, seconds: float) -> None:
    loop = asyncio.get_running_loop()

    class Near(_End):
        @override
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            opening = loop.create_task(self._connect())
            waiting.add(opening)
            opening.add_done_callback(waiting.discard)

        async def _connect(self) -> None:
            _, far = await loop.create_connection(lambda: _End(seconds / 2), "127.0.0.1", port)
            self.other, far.other = far, self

    waiting: set[asyncio.Task[None]] = set()
    server = await loop.create_server(lambda: Near(seconds / 2), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def far_away(port: int, seconds: float) -> Iterator[int]:
    """Give the port of a server that is that many seconds away, there and back; 0: the port itself."""
    if not seconds:
        yield port
        return
    with child("bench.distance", str(port), str(seconds)) as first_line:
        yield int(first_line)


if __name__ == "__main__":
    uvloop.run(_forward(int(sys.argv[1]), float(sys.argv[2])))
