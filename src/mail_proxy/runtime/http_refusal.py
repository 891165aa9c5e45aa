"""What a request is answered by the connection itself, in the shape of every other failure, and under an id as well."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

Message = MutableMapping[str, Any]
"""One of ASGI."""
Send = Callable[[Message], Awaitable[None]]

ID_HEADER = b"x-request-id"
_ID = re.compile(rb"[\w.:/+=@-]{1,128}", re.ASCII)
"""What is taken from a caller: nothing that could be taken for something else in a log."""


def id_from(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the id that the caller has given its request, else a new one."""
    given = next((value for name, value in headers if name == ID_HEADER), b"")
    return given.decode() if _ID.fullmatch(given) else new_id()


def new_id() -> str:
    """Return an id for a request whose caller has given none, or of which that cannot be known."""
    return secrets.token_hex(16)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a request is answered that never gets to the application."""

    status: int
    error: str
    code: str
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def to_bytes(self, request_id: str) -> bytes:
        """Return the whole answer, which is the connection's last."""
        lines = (b"%s: %s" % line for line in self._lines(request_id))
        return STATUS_LINE[self.status] + b"\r\n".join([*lines, b"connection: close", b"", self._body()])

    async def send(self, send: Send, request_id: str) -> None:
        """Answer as an application does."""
        await send({"type": "http.response.start", "status": self.status, "headers": self._lines(request_id)})
        await send({"type": "http.response.body", "body": self._body()})

    def _lines(self, request_id: str) -> list[tuple[bytes, bytes]]:
        length = b"%d" % len(self._body())
        own = [(b"content-type", b"application/json"), (b"content-length", length), (ID_HEADER, request_id.encode())]
        return [*own, *self.headers]

    def _body(self) -> bytes:
        value = {"ok": False, "error": self.error, "code": self.code}
        return json.dumps(value, separators=(",", ":")).encode("ascii")
