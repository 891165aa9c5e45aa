"""Handing messages to mail servers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from mail_proxy.domain.account import Account
from mail_proxy.domain.attempt import AccountRefused, Attempt, Envelope, HostFailed, ProbeResult
from mail_proxy.domain.compose import Wire
from mail_proxy.domain.secret import Secret

BeforeDot = Callable[[], Awaitable[None]]
"""Awaited just before a final dot goes out; if it raises, the dot does not go out and the error passes through."""


class AccessTokens(Protocol):
    """Access tokens for accounts that log in with XOAUTH2."""

    async def token(self, account: Account, refused: Secret | None = None) -> Secret | HostFailed | AccountRefused:
        """Return a token that is good for a while, or say why there is none. `refused`: one that was not taken.

        However many ask, the token server is asked once at a time for each account. Raises `StoreUnavailable`.
        """
        ...


class Transport(Protocol):
    """Delivers messages to one account's server. Never raises for what a server or the network does wrong."""

    def session_count(self) -> int:
        """How many sessions are open."""
        ...

    async def send(self, account: Account, envelope: Envelope, wire: Wire, before_dot: BeforeDot) -> Attempt:
        """Send one message to all recipients of the envelope and tell what was said about each."""
        ...

    async def probe(self, account: Account) -> ProbeResult:
        """Connect, TLS, EHLO, AUTH, QUIT: no message at stake."""
        ...

    async def close(self) -> None:
        """End idle sessions politely and the others at once."""
        ...
