"""A session with a server: connect, TLS, EHLO, login, then as many transactions as it lasts for."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import aiosmtplib

from mail_proxy.domain.account import Account, AuthMethod
from mail_proxy.domain.attempt import AccountRefused, HostFailed, Phase, Step
from mail_proxy.domain.compose import Wire
from mail_proxy.domain.secret import Secret
from mail_proxy.ports.transport import AccessTokens, BeforeDot
from mail_proxy.smtp.connection import Connection, ConnectionLost
from mail_proxy.smtp.dialling import AddressRefusal, AddressRefused, address_literal, any_address, dial
from mail_proxy.smtp.echoes import unechoed
from mail_proxy.smtp.errors import NotOpened, failure_of
from mail_proxy.smtp.extensions import Extensions
from mail_proxy.smtp.login import log_in
from mail_proxy.smtp.recipients import Recipients
from mail_proxy.smtp.stopwatch import Stopwatch
from mail_proxy.smtp.timeouts import Timeouts
from mail_proxy.smtp.tls import Protection, TlsContexts, protection
from mail_proxy.smtp.transaction import Mail, Result, transact

_NOT_TAKEN = 535
"""RFC 4954 section 6: the credentials are not valid."""

# RFC 5321 section 3.2: a server that does not know EHLO is greeted with HELO.
_EHLO_UNKNOWN = frozenset({500, 501, 502, 504})


class Session:
    """One session, ready for mail."""

    def __init__(
        self,
        connection: Connection,
        extensions: Extensions,
        timeouts: Timeouts,
        tls_version: str | None,
        opening: Stopwatch | None = None,
    ) -> None:
        self.extensions = extensions
        self.tls_version = tls_version
        self.worked = False
        """True once the server has answered a transaction here: if it now ends, it is stale, not broken."""
        self.idle_since = 0.0
        self._connection = connection
        self._timeouts = timeouts
        self._open_ended = False
        self._opening = opening

    def first_used(self) -> Stopwatch | None:
        """What it took to open it, told to whoever uses it first; None to all after that."""
        opening, self._opening = self._opening, None
        return opening

    @property
    def usable(self) -> bool:
        """True while another transaction can begin here."""
        return self._connection.usable

    @property
    def closed(self) -> asyncio.Future[None]:
        """Done when the connection is closed."""
        return self._connection.closed

    async def transact(
        self, sender: str, recipients: Recipients, wire: Wire, before_dot: BeforeDot, took: Stopwatch
    ) -> Result:
        """Give a message to some recipients; see `transaction.transact`."""
        result = await transact(
            self._connection,
            self.extensions,
            self._timeouts,
            Mail(sender, recipients, wire),
            before_dot,
            took,
            reset_first=self._open_ended,
        )
        self._open_ended = result.open_ended
        if result.loss is None:
            self.worked = True
        return result

    async def alive(self) -> bool:
        """Ask a session that was idle whether it still lives."""
        try:
            (reply,) = await self._connection.ask(b"RSET\r\n", 1, self._timeouts.check)
        except ConnectionLost:
            return False
        self._open_ended = False
        return reply.accepted

    def part(self) -> None:
        """Say QUIT and close, without waiting for it."""
        self._connection.part(self._timeouts.quit)

    def abort(self) -> None:
        """Close at once."""
        self._connection.abort()


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens sessions. `local_hostname` is said in EHLO; None says the address that the connection comes from.

    `address_refusal` is asked about each address before it is connected to, for a host that its tenant has set.
    """

    contexts: TlsContexts
    timeouts: Timeouts
    resolver: Executor
    local_hostname: str | None
    address_refusal: AddressRefusal = any_address
    tokens: AccessTokens | None = None

    async def open(self, account: Account) -> Session:
        """Return a session that is logged in; raises `NotOpened`, and nothing else for what server or network do.

        `StoreUnavailable` comes from the tokens of accounts that need one.

        It runs in a task of its own, because below Python 3.12 `asyncio.wait_for`, which aiosmtplib makes use of, may
        swallow a cancellation.
        """
        opening = asyncio.get_running_loop().create_task(self._open(account), name=f"open session {account.id}")
        try:
            await asyncio.wait([opening])
        except asyncio.CancelledError:
            opening.add_done_callback(_abort_late)
            while not opening.done():
                opening.cancel()
                await asyncio.sleep(0)
            raise
        return opening.result()

    async def _open(self, account: Account) -> Session:
        took = Stopwatch()
        if account.unreadable:
            step = Step.LOGIN if account.auth is not AuthMethod.XOAUTH2 else Step.TOKEN
            text = f"{step.value}: what is stored for it cannot be opened with any key; give it anew"
            raise NotOpened(AccountRefused(text), step)
        if account.oauth is None:
            return await self._logged_in(account, account.password, took)
        with took.during(Phase.TOKEN):
            token = await self._token(account)
        try:
            return await self._logged_in(account, token, took)
        except NotOpened as error:
            reply = error.failure.reply
            if error.step is not Step.LOGIN or reply is None or reply.code != _NOT_TAKEN:
                raise
        # It may have been revoked before its time. On a new connection: many servers end the one that was refused.
        with took.during(Phase.TOKEN):
            token = await self._token(account, refused=token)
        return await self._logged_in(account, token, took)

    async def _token(self, account: Account, refused: Secret | None = None) -> Secret:
        """Return an access token. It is asked for before the server is connected to, which need not wait for it."""
        if self.tokens is None:
            raise NotOpened(AccountRefused(f"{Step.TOKEN.value}: this transport cannot"), Step.TOKEN)
        token = await self.tokens.token(account, refused)
        if isinstance(token, Secret):
            return token
        raise NotOpened(token, Step.TOKEN)

    async def _logged_in(self, account: Account, secret: Secret | None, took: Stopwatch) -> Session:
        raw = await self._connected(account, took)
        client = await self._greeted(account, raw, took)
        try:
            with _translated(Step.HELLO, took):
                await _say_hello(client)
            encrypted = await self._encrypted(client, account, took)
            if account.has_credentials and secret is not None:
                with _translated(Step.LOGIN, took), unechoed(account.user, secret):
                    await log_in(client, account, secret, encrypted=encrypted)
            return self._take_over(client, took)
        except BaseException:
            if client.transport is not None:
                _full(client.transport).abort()
            client.close()
            raise

    async def _connected(self, account: Account, took: Stopwatch) -> socket.socket:
        """Return a socket that is connected to the host, at an address that may be connected to."""
        with _translated(Step.CONNECT, took):
            try:
                refusal = self.address_refusal if account.host_by_tenant else any_address
                return await dial(account.host, account.port, self.timeouts.connect, self.resolver, refusal)
            except AddressRefused as refused:
                text = f"{Step.CONNECT.value}: the host must not be {refused}; ask the operator"
                raise NotOpened(AccountRefused(text), Step.CONNECT) from None

    async def _greeted(self, account: Account, raw: socket.socket, took: Stopwatch) -> aiosmtplib.SMTP:
        """Hand the socket over to aiosmtplib, and return when the server has greeted."""
        implicit = protection(account) is Protection.IMPLICIT
        try:
            client = aiosmtplib.SMTP(
                hostname=account.host.strip("[]"),
                sock=raw,
                local_hostname=self.local_hostname or address_literal(raw.getsockname()[0]),
                timeout=self.timeouts.command,
                use_tls=implicit,
                start_tls=False,
                tls_context=await self.contexts.context(verify=account.verify_tls) if implicit else None,
            )
        except BaseException:
            raw.close()
            raise
        with _translated(Step.TLS if implicit else Step.GREETING, took):
            await client.connect()
        return client

    async def _encrypted(self, client: aiosmtplib.SMTP, account: Account, took: Stopwatch) -> bool:
        """Start TLS where the account wants it, and tell whether the connection has it now."""
        wanted = protection(account)
        if wanted is Protection.IMPLICIT:
            return True
        if wanted is Protection.CLEAR:
            return False
        if not client.supports_extension("starttls"):
            if wanted is Protection.REQUIRED:
                text = f"{Step.TLS.value}: the server does not offer STARTTLS, and nothing may be sent in clear"
                raise NotOpened(AccountRefused(text), Step.TLS)
            return False
        context = await self.contexts.context(verify=account.verify_tls)
        with _translated(Step.TLS, took):
            try:
                # What the server said before the handshake is thrown away (RFC 3207 section 4.2).
                await client.starttls(tls_context=context)
            except aiosmtplib.SMTPResponseException as refused:
                # RFC 3207 section 4.1: after a refusal the session may go on in clear, if there is nothing to protect.
                if wanted is Protection.REQUIRED or account.has_credentials or not 430 <= refused.code < 600:
                    raise
                return False
        with _translated(Step.HELLO, took):
            await _say_hello(client)
        return True

    def _take_over(self, client: aiosmtplib.SMTP, took: Stopwatch) -> Session:
        transport = client.transport
        if transport is None or transport.is_closing():
            raise NotOpened(HostFailed("the server closed the connection after the login"), Step.LOGIN)
        tls = transport.get_extra_info("ssl_object")
        extensions = Extensions.of(client.esmtp_extensions)
        connection = Connection(_full(transport))
        return Session(connection, extensions, self.timeouts, None if tls is None else tls.version(), took)


def _abort_late(opening: asyncio.Task[Session]) -> None:
    """Close a session that nobody waits for any more."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().abort()


async def _say_hello(client: aiosmtplib.SMTP) -> None:
    try:
        await client.ehlo()
    except aiosmtplib.SMTPHeloError as refused:
        if refused.code not in _EHLO_UNKNOWN:
            raise
        await client.helo()


@contextmanager
def _translated(step: Step, took: Stopwatch) -> Iterator[None]:
    try:
        with took.during(Phase[step.name]):
            yield
    except NotOpened:
        raise
    except Exception as error:
        failure = failure_of(error, step)
        if failure is None:
            raise
        raise NotOpened(failure, step) from error


def _full(transport: asyncio.BaseTransport) -> asyncio.Transport:
    """Return a transport as what it is; aiosmtplib shows less of it."""
    return cast("asyncio.Transport", transport)
