"""A TCP proxy between a client and a server that behaves like a bad network when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from tests.support.loop_turns import stop_listening


class _End(asyncio.Protocol):
    """One of the two ends of a forwarded connection."""

    def __init__(self, proxy: TcpProxy) -> None:
        self.proxy = proxy
        self.other: _End | None = None
        self.transport: asyncio.Transport | None = None
        self._early = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.proxy.ends.add(self)
        if self.proxy.stalled:
            self.transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)
        else:
            self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.proxy.ends.discard(self)
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def join(self, other: _End) -> None:
        """Forward to the other end from now on, what came before included."""
        self.other, other.other = other, self
        assert other.transport is not None
        other.transport.write(bytes(self._early))
        self._early.clear()


class TcpProxy:
    """Forwards connections to a port of this machine, until it is told to cut or to stall them."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.stalled = False
        self.ends: set[_End] = set()
        self.connections = 0
        """So many were forwarded."""
        self._tasks: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        """End every connection at once, with whatever is on its way; new ones are forwarded."""
        for end in list(self.ends):
            if end.transport is not None:
                end.transport.abort()

    def stall(self) -> None:
        """Forward nothing any more, and end nothing either, as a firewall does that drops packets."""
        self.stalled = True
        for end in self.ends:
            if end.transport is not None:
                end.transport.pause_reading()

    def resume(self) -> None:
        """Forward again, also what was held back."""
        self.stalled = False
        for end in self.ends:
            if end.transport is not None:
                end.transport.resume_reading()

    def client(self) -> asyncio.Protocol:
        """Take a client up."""
        self.connections += 1
        end = _End(self)
        task = asyncio.get_running_loop().create_task(self._connect(end))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return end

    async def _connect(self, client: _End) -> None:
        try:
            _, server = await asyncio.get_running_loop().create_connection(lambda: _End(self), "127.0.0.1", self.target)
        except OSError:
            if client.transport is not None:
                client.transport.abort()
            return
        if client.transport is None or client.transport.is_closing():
            assert server.transport is not None
            server.transport.abort()
            return
        client.join(server)
        server.join(client)

    async def ended(self) -> None:
        """Return when nothing is being connected any more and every connection is gone."""
        await asyncio.gather(*self._tasks)
        while self.ends:
            self.cut()
            await asyncio.sleep(0)


@asynccontextmanager
async def running_proxy(target: int) -> AsyncIterator[TcpProxy]:
    """Run a proxy to a port of this machine, on a port of its own."""
    proxy = TcpProxy(target)
    listener = await asyncio.get_running_loop().create_server(proxy.client, "127.0.0.1", 0)
    proxy.port = listener.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        await stop_listening(listener)
        await proxy.ended()
        await listener.wait_closed()
