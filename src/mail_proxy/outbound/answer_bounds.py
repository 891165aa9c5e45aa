"""How much of an answer is looked at that is none: interim answers, blank lines, a framing that carries no bytes.

The library reads all of it for as long as it comes, up to a quarter of a megabyte in one go, and each interim answer is
parsed like any other: a server that sends nothing else has the event loop to itself.
"""  # G11

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Callable
from ssl import SSLContext
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import StreamReader
from typing_extensions import override

MOST_INTERIM = 8
"""Interim answers (RFC 9110, 15.2) before the one that counts. Servers send one or two."""
_PIECE = 4096
"""Bytes that are parsed in one go before the head of the answer is there."""
_HEAD = 65536
"""Bytes up to the end of the head, interim answers and blank lines included."""
_FRAMING, _FRAMING_RATE = 65536, 16
"""Bytes that a body may take on its way: so many, and so many for each byte of it. Chunks of one byte take six."""


class BoundedAnswers(ResponseHandler):
    """One connection, as aiohttp handles it, which ends where an answer comes to nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._in_head = True
        self._interim = 0
        self._received = 0
        self._body: StreamReader | None = None
        self._given_up = False

    @override
    def set_response_params(self, **params: Any) -> None:
        """A request begins."""
        self._in_head = True
        self._interim = 0
        self._received = 0
        self._body = None
        super().set_response_params(**params)

    @override
    def data_received(self, data: bytes) -> None:
        view, begin = memoryview(data), 0
        while begin < len(data) and not self._given_up:
            end = min(begin + _PIECE, len(data)) if self._in_head else len(data)
            self._received += end - begin
            super().data_received(bytes(view[begin:end]))
            begin = end
            if self._beyond:
                self._give_up()
        if not data:  # the library goes on with what it had put aside
            super().data_received(data)

    @override
    def feed_data(self, data: Any, size: int = 0) -> None:
        """Take the head of an answer, as the parser gives it, with the body that belongs to it."""
        message, body = data
        if 100 <= message.code < 200 and message.code != 101:
            self._interim += 1
            return  # nothing waits for it: no request asks to be told that it may go on
        if self._in_head:
            self._in_head = False
            self._received = 0
            self._body = body
        super().feed_data(data, size)

    @property
    def _beyond(self) -> bool:
        if self._in_head:
            return self._interim > MOST_INTERIM or self._received > _HEAD
        carried = self._body.total_bytes if isinstance(self._body, StreamReader) else 0
        return self._received > _FRAMING + _FRAMING_RATE * carried

    def _give_up(self) -> None:
        self._given_up = True
        if self._body is not None and not self._body.is_eof():
            self._body.set_exception(aiohttp.ClientPayloadError("its framing does not end"))
        self.set_exception(HttpProcessingError(message="it does not come to its answer"))
        if self.transport is not None:
            self.transport.abort()


class BoundedConnector(aiohttp.TCPConnector):
    """Makes connections on which answers are bounded."""

    def __init__(
        self,
        *,
        limit: int,
        limit_per_host: int,
        keepalive_timeout: float,
        resolver: AbstractResolver,
        socket_factory: Callable[[tuple[Any, ...]], socket.socket],
        ssl: bool | SSLContext,
    ) -> None:
        super().__init__(
            limit=limit,
            limit_per_host=limit_per_host,
            keepalive_timeout=keepalive_timeout,
            resolver=resolver,
            socket_factory=socket_factory,
            ssl=ssl,
        )
        self._factory = functools.partial(_connection, loop=self._loop)


def _connection(loop: asyncio.AbstractEventLoop) -> ResponseHandler:
    return BoundedAnswers(loop)
