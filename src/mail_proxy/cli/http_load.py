"""Clients that submit over HTTP, as lean as a client can be, so that what is measured is the server.

Each keeps its connection and has one request on its way at a time.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import cast
from urllib.parse import urlsplit

from typing_extensions import override

SIZE = 1000
"""Bytes of a message's body."""
PATH = "/commands/add-messages"


class Refused(Exception):
    """The server did not take what it should have taken."""


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, host: str, token: str) -> None:
        self._head = f"POST %s HTTP/1.1\r\nHost: {host}\r\nX-API-Token: {token}\r\nContent-Length: %d\r\n\r\n"
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[bytes] | None = None
        self._received = b""

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    @override
    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if separator and self._answer is not None and not self._answer.done():  # nobody may wait for it any more
            _, _, rest = head.lower().partition(b"content-length:")
            if len(body) >= int(rest.split(b"\r\n", 1)[0]):
                status, self._received = head[9:12], b""
                if status == b"200" and b'"rejected":[{' not in body:
                    self._answer.set_result(body)
                else:
                    self._answer.set_exception(Refused(f"{status.decode()} {body.decode()[:300]}"))

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Refused(f"the connection was closed: {exc}"))

    async def post(self, path: str, body: object) -> bytes:
        """Return the answer; raises `Refused`."""
        content = json.dumps(body).encode()
        self._answer = asyncio.get_running_loop().create_future()
        if self._transport is None or self._transport.is_closing():
            raise Refused("not connected, or not any more")
        self._transport.write((self._head % (path, len(content))).encode() + content)
        return await self._answer

    def close(self) -> None:
        """End it."""
        if self._transport is not None:
            self._transport.close()


@asynccontextmanager
async def clients(url: str, token: str, count: int) -> AsyncIterator[Sequence[Client]]:
    """Connect so many clients."""
    at = urlsplit(url)
    loop = asyncio.get_running_loop()
    host, port = at.hostname or "", at.port or 80
    made = [await loop.create_connection(lambda: Client(at.netloc, token), host, port) for _ in range(count)]
    try:
        yield [client for _, client in made]
    finally:
        for _, client in made:
            client.close()


class Messages:
    """Messages with ids of their own, spread over accounts in turn."""

    def __init__(self, accounts: Sequence[str], tenant_id: str = "bench", size: int = SIZE) -> None:
        self._accounts = accounts
        self._tenant_id = tenant_id
        self._body = ("lorem ipsum dolor sit amet " * (size // 27 + 1))[:size]
        self._next = 0

    def take(self, count: int) -> list[dict[str, object]]:
        """Return the next ones."""
        self._next += count
        return [self._message(number) for number in range(self._next - count, self._next)]

    def _message(self, number: int) -> dict[str, object]:
        return {
            "id": f"m{number}",
            "tenant_id": self._tenant_id,
            "account_id": self._accounts[number % len(self._accounts)],
            "from": "sender@example.com",
            "to": [f"user{number}@example.net"],
            "subject": f"Order {number}",
            "body": self._body,
            "priority": 2,
        }


async def submit(at: Sequence[Client], batches: Iterable[list[dict[str, object]]]) -> list[float]:
    """Have the clients submit the batches, each as soon as one is free; return what each took, in ms, sorted."""
    waiting: Iterator[list[dict[str, object]]] = iter(batches)
    took: list[float] = []

    async def work(client: Client) -> None:
        for batch in waiting:
            began = time.perf_counter()
            await client.post(PATH, {"messages": batch})
            took.append((time.perf_counter() - began) * 1000)

    await asyncio.gather(*(work(client) for client in at))
    return sorted(took)
