"""Which connections are encrypted, and what is asked of the server's certificate."""

from __future__ import annotations

import asyncio
import ssl
from enum import Enum
from pathlib import Path

from typing_extensions import assert_never

from mail_proxy.domain.account import Account, TlsMode
from mail_proxy.domain.attempt import Step
from mail_proxy.smtp.dialling import is_loopback


class Protection(Enum):
    """What an account's connection is to have."""

    IMPLICIT = "implicit"
    """TLS from the first byte (RFC 8314)."""
    REQUIRED = "required"
    """STARTTLS, or no session."""
    OFFERED = "offered"
    """STARTTLS where the server offers it."""
    CLEAR = "clear"


def protection(account: Account) -> Protection:
    """Decide what the account's connection is to have; `auto` never lets credentials out in clear."""
    match account.tls:
        case TlsMode.IMPLICIT:
            return Protection.IMPLICIT
        case TlsMode.STARTTLS:
            return Protection.REQUIRED
        case TlsMode.NONE:
            return Protection.CLEAR
        case TlsMode.AUTO:
            if account.implicit_tls:
                return Protection.IMPLICIT
            if account.has_credentials and not is_loopback(account.host):
                return Protection.REQUIRED
            return Protection.OFFERED
        case _:
            assert_never(account.tls)


def steps(account: Account, *, encrypted: bool) -> tuple[Step, ...]:
    """Return what the opening of a session goes through, in order."""
    if protection(account) is Protection.IMPLICIT:
        way: tuple[Step, ...] = (Step.CONNECT, Step.TLS, Step.GREETING, Step.HELLO)
    elif encrypted:
        way = (Step.CONNECT, Step.GREETING, Step.HELLO, Step.TLS)
    else:
        way = (Step.CONNECT, Step.GREETING, Step.HELLO)
    if account.oauth is not None:
        way = (Step.TOKEN, *way)
    return (*way, Step.LOGIN) if account.has_credentials else way


class TlsContexts:
    """One context for verified connections and one for the others, each made when it is first needed."""

    def __init__(self, extra_ca: Path | None = None) -> None:
        self._extra_ca = extra_ca
        self._contexts: dict[bool, ssl.SSLContext] = {}

    async def context(self, *, verify: bool) -> ssl.SSLContext:
        """Return a context for TLS 1.2 or newer; one that verifies trusts the system's authorities and the extra."""
        context = self._contexts.get(verify)
        if context is None:
            # Reading the system's certificates takes tens of milliseconds.
            context = await asyncio.to_thread(self._make, verify)
            self._contexts[verify] = context
        return context

    def _make(self, verify: bool) -> ssl.SSLContext:  # noqa: FBT001 - to_thread passes it on by position
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if verify:
            if self._extra_ca is not None:
                context.load_verify_locations(cafile=self._extra_ca)
        else:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context
