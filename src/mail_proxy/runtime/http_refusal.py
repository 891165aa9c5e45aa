"""What a request is answered by the connection itself, in the shape of every other failure."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

Message = MutableMapping[str, Any]
"""One of ASGI."""
Send = Callable[[Message], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a request is answered that never gets to the application."""

    status: int
    error: str
    code: str
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def to_bytes(self) -> bytes:
        """Return the whole answer, which is the connection's last."""
        lines = (b"%s: %s" % line for line in self._lines())
        return STATUS_LINE[self.status] + b"\r\n".join([*lines, b"connection: close", b"", self._body()])

    async def send(self, send: Send) -> None:
        """Answer as an application does."""
        await send({"type": "http.response.start", "status": self.status, "headers": self._lines()})
        await send({"type": "http.response.body", "body": self._body()})

    def _lines(self) -> list[tuple[bytes, bytes]]:
        length = b"%d" % len(self._body())
        return [(b"content-type", b"application/json"), (b"content-length", length), *self.headers]

    def _body(self) -> bytes:
        value = {"ok": False, "error": self.error, "code": self.code}
        return json.dumps(value, separators=(",", ":")).encode("ascii")
