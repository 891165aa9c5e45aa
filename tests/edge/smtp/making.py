"""What a test of sending needs: accounts, envelopes, messages, and a look at each final dot."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mail_proxy.domain.account import Account
from mail_proxy.domain.attempt import Envelope
from mail_proxy.domain.compose import Wire
from mail_proxy.domain.secret import Secret

CONTENT = b"Subject: hello\r\n\r\nhello\r\n"


def account(port: int, *, host: str = "127.0.0.1", password: str | None = None, **settings: Any) -> Account:
    secret = None if password is None else Secret(password)
    defaults: dict[str, Any] = {"pk": 1, "tenant_id": "acme", "id": "main", "password": secret}
    return Account(host=host, port=port, **{**defaults, **settings})


def envelope(*addresses: str, sender: str = "sender@example.com") -> Envelope:
    return Envelope(sender, tuple(enumerate(addresses or ("someone@example.com",))))


def wire(content: bytes = CONTENT, **needs: bool) -> Wire:
    return Wire((content,), len(content), **needs)


@dataclass
class Source:
    """Bytes that come in pieces; `broken` comes in place of the end."""

    pieces: Sequence[bytes]
    broken: Exception | None = None
    closed: bool = False
    taken: int = 0
    """Pieces that were asked for so far."""

    @property
    def size(self) -> int:
        return sum(map(len, self.pieces))

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            for piece in self.pieces:
                self.taken += 1
                yield piece
            if self.broken is not None:
                raise self.broken
        finally:
            self.closed = True


@dataclass
class Dots:
    """Counts the final dots that are about to go out; `refusal` keeps them from it."""

    refusal: Exception | None = None
    seen: list[int] = field(default_factory=list)

    async def __call__(self) -> None:
        self.seen.append(len(self.seen))
        if self.refusal is not None:
            raise self.refusal
