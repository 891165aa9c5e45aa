"""What one request may consist of: how much, and nothing that a proxy in front could read otherwise. No I/O."""  # G11

from __future__ import annotations

from collections.abc import Sequence

from mail_proxy.runtime.http_refusal import Refusal

MAX_HEAD = 64 * 1024
"""Bytes of request line, headers and trailers."""
MAX_URL = 16 * 1024
MAX_HEADERS = 100
FRAMING = 16
"""Bytes of chunk sizes and the like that may come for each byte of the body, beyond `MAX_HEAD`."""
_TOKEN_LINES = (b"x-api-token:", b"authorization:")
_LONGEST_NAME = max(map(len, _TOKEN_LINES))
_PLAIN_CODINGS: Sequence[list[bytes]] = ([], [b"chunked"])

NOT_HTTP = Refusal(400, "This is no valid HTTP/1.1 request.", code="bad_request")
URL_TOO_LONG = Refusal(414, f"A URL has at most {MAX_URL} bytes here.", code="url_too_long")
HEAD_TOO_LARGE = Refusal(
    431, f"A request has at most {MAX_HEADERS} headers and {MAX_HEAD} bytes of them here.", code="headers_too_large"
)
NO_TOKEN = Refusal(
    401,
    "There is no valid token in X-API-Token or Authorization: Bearer.",
    code="unauthorized",
    headers=((b"www-authenticate", b"Bearer"),),
)


class RequestShape:
    """Counts what comes of a request: a parser tells what it finds in each piece, between `piece_comes` and `came`."""

    __slots__ = (
        *("_begun", "_body", "_body_before", "_codings", "_count", "_framing"),
        *("_hosts", "_line", "_sizes", "in_head"),
    )

    def __init__(self) -> None:
        self.begin()
        self.in_head = self._begun = False
        self._body_before = 0

    def begin(self) -> None:
        """Count anew: a request begins."""
        self.in_head = True
        """True from the first byte of a request to the end of its headers."""
        self._begun = True
        self._framing = self._body = self._sizes = self._count = 0
        self._line = b""
        self._hosts = 0
        self._codings: list[bytes] = []

    def piece_comes(self) -> None:
        """Take note that the parser is given a piece."""
        self._begun = False
        self._body_before = self._body

    def came(self, piece: bytes) -> Refusal | None:
        """Count what of a piece is neither body nor a new request: headers, trailers, chunk sizes and extensions."""
        if self.in_head:
            self._line = _line_begun(self._line, piece)
        if self._begun:
            return None
        self._framing += len(piece) - (self._body - self._body_before)
        if self._framing <= MAX_HEAD + FRAMING * self._body:
            return None
        return NO_TOKEN if self.in_head and self._line.startswith(_TOKEN_LINES) else HEAD_TOO_LARGE

    def header(self, name: bytes, value: bytes) -> Refusal | None:
        """Count a header, or a trailer."""
        self._count += 1
        self._sizes += len(name) + len(value)
        if self._count > MAX_HEADERS or self._sizes > MAX_HEAD:
            long_token = name.lower() + b":" in _TOKEN_LINES and len(value) > MAX_HEAD // 2
            return NO_TOKEN if long_token else HEAD_TOO_LARGE
        if self.in_head:
            lower = name.lower()
            self._hosts += lower == b"host"
            if lower == b"transfer-encoding":
                self._codings.append(value.lower())
        return None

    def body(self, size: int) -> None:
        """Count bytes of the body."""
        self._body += size

    def is_plain(self, version: str) -> bool:
        """False where a proxy in front could take the request for another one (RFC 9112 sections 2.3, 3.2 and 6.1)."""
        if version == "1.0":
            return self._hosts <= 1 and not self._codings
        return version == "1.1" and self._hosts == 1 and self._codings in _PLAIN_CODINGS


def _line_begun(line: bytes, data: bytes) -> bytes:
    """Return how the line begins that is not at its end yet, in small letters."""
    start = data.rfind(b"\n") + 1
    if start:
        line = b""
    return line + data[start : start + _LONGEST_NAME - len(line)].lower() if len(line) < _LONGEST_NAME else line
