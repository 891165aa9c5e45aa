"""Serving an ASGI application on a socket, under somebody else's command."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable, Iterator

import uvicorn
from typing_extensions import override

from mail_proxy.runtime.http_connection import KEEP_ALIVE, Application, BoundedConnection, Told
from mail_proxy.runtime.http_places import Places

FINISH = 10
"""Seconds that requests in progress get when the server stops."""


class AddressInUse(Exception):
    """Something else listens there, or nothing can. `what` says it without what to do; `taken` which of the two."""

    def __init__(self, what: str, *, taken: bool) -> None:
        super().__init__(
            f"{what}; set GMP_HOST and GMP_PORT to a free address, or is an instance running there already?"
        )
        self.what = what
        self.taken = taken


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes a free one. Raises `AddressInUse` with a sentence."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(2048)
    except OSError as error:
        listening.close()
        what = f"cannot listen on {host}:{port}: {error.strerror or error}"
        raise AddressInUse(what, taken=error.errno in {errno.EADDRINUSE, errno.EACCES}) from error
    listening.setblocking(False)
    return listening


class HttpServer:
    """One application on one socket, with so many connections at a time. Signals are left to the process."""

    def __init__(
        self,
        application: Application,
        listening: socket.socket,
        max_connections: int = 1000,
        told: Told = lambda _address, _code, _request_id: None,
    ) -> None:
        """`told` hears of requests that never get to the application, as something is wrong with them."""
        self._socket = listening
        self._server = _QuietServer(
            uvicorn.Config(
                application,
                http=BoundedConnection.of(Places(max_connections), told),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,  # whose word is taken for a caller's address is decided in api
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=FINISH,
            )
        )

    async def run(self, started: Callable[[], None]) -> None:
        """Serve until `stop`, then let requests in progress finish."""
        self._server.on_started = started
        await self._server.serve(sockets=[self._socket])

    def stop(self) -> None:
        """Take no new connections; `run` returns soon."""
        self._server.should_exit = True


class _QuietServer(uvicorn.Server):
    on_started: Callable[[], None] = staticmethod(lambda: None)

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_started()

    @override
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return the fast event loop where there is one, else the standard one."""
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
