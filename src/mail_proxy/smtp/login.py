"""Which mechanism an account logs in with (RFC 4954)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import aiosmtplib
from typing_extensions import assert_never

from mail_proxy.domain.account import Account, AuthMethod, TlsMode
from mail_proxy.domain.attempt import AccountRefused, Step
from mail_proxy.domain.secret import Secret
from mail_proxy.smtp.dialling import is_loopback
from mail_proxy.smtp.errors import NotOpened

# The strongest first: CRAM-MD5 does not show the password to the server.
_STRENGTH = (AuthMethod.CRAM_MD5, AuthMethod.PLAIN, AuthMethod.LOGIN)


def mechanisms(wanted: AuthMethod, offered: Sequence[str]) -> tuple[AuthMethod, ...]:
    """Return the mechanisms to try, in order. `auto` has a second one, for servers whose CRAM-MD5 only seems to work.

    They are never more than two, because a server may lock an account after a few failures.
    """
    possible = tuple(method for method in _STRENGTH if method.value in offered)
    if wanted is not AuthMethod.AUTO:
        return (wanted,) if wanted.value in offered else ()
    return possible[:2] if possible[:1] == (AuthMethod.CRAM_MD5,) else possible[:1]


async def log_in(client: aiosmtplib.SMTP, account: Account, secret: Secret, *, encrypted: bool) -> None:
    """Log in where nobody can listen, or where the account says itself that it is to be in clear.

    `secret` is the password, with XOAUTH2 the access token. Raises `NotOpened`, or what aiosmtplib raises.
    """
    user = account.user
    if user is None:
        raise ValueError("an account without credentials cannot log in")
    overheard = not (encrypted or is_loopback(account.host))
    if overheard and account.tls is not TlsMode.NONE:
        raise NotOpened(AccountRefused("logging in: not without TLS"), Step.LOGIN)
    offered = client.server_auth_methods
    methods = mechanisms(account.auth, offered)
    if not methods:
        names = ", ".join(offered) or "no login at all"
        wanted = "plain, login or cram-md5" if account.auth is AuthMethod.AUTO else account.auth.value
        raise NotOpened(AccountRefused(f"logging in: {wanted} is wanted, the server offers {names}"), Step.LOGIN)
    first, *others = methods[:1] if overheard else methods
    try:
        await _mechanism(client, first)(user, secret.reveal())
    except aiosmtplib.SMTPAuthenticationError as refused:
        if not others or not 500 <= refused.code < 600:
            raise
        await _mechanism(client, others[0])(user, secret.reveal())


def _mechanism(client: aiosmtplib.SMTP, method: AuthMethod) -> Callable[[str, str], Awaitable[object]]:
    match method:
        case AuthMethod.CRAM_MD5:
            return client.auth_crammd5
        case AuthMethod.PLAIN:
            return client.auth_plain
        case AuthMethod.LOGIN:
            return client.auth_login
        case AuthMethod.XOAUTH2:
            # A refusal comes as a challenge first, which is answered with an empty line.
            return client.auth_xoauth2
        case AuthMethod.AUTO:
            raise ValueError("auto is no mechanism")
        case _:
            assert_never(method)
