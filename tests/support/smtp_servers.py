"""SMTP servers for tests: a real one (aiosmtpd), and one that does exactly what a script says, however wrong."""

from __future__ import annotations

import asyncio
import base64
import ssl
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.support.loop_turns import a_few_turns, stop_listening

# The real one


@dataclass(frozen=True)
class Received:
    """One message as a server took it."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    encrypted: bool
    user: str | None


@dataclass
class RealServer:
    """An aiosmtpd server in this process. `refusals` maps addresses to the reply that RCPT gets."""

    port: int = 0
    refusals: dict[str, str] = field(default_factory=dict)
    messages: list[Received] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)
    """Mechanism and user of each attempt to log in."""
    ehlo_names: list[str] = field(default_factory=list)
    access_tokens: dict[str, str] = field(default_factory=dict)
    """By user, what XOAUTH2 takes."""
    stop: Callable[[], None] = lambda: None
    """Go away, in the middle of whatever is going on."""

    # aiosmtpd calls these by name.

    async def handle_EHLO(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        self.ehlo_names.append(hostname)
        return [*responses[:-1], "250-PIPELINING", responses[-1]]

    async def auth_XOAUTH2(self, server: SMTP, args: list[str]) -> AuthResult:  # noqa: N802
        """Refuse as Google and Microsoft do: a challenge with the reason, an empty line for it, then 535."""
        login = base64.b64decode(args[1]).decode()
        user, _, rest = login.removeprefix("user=").partition("\x01")
        self.logins.append(("XOAUTH2", user))
        token = self.access_tokens.get(user)
        if token is not None and rest == f"auth=Bearer {token}\x01\x01":
            return AuthResult(success=True, auth_data=user.encode())
        answered = await server.challenge_auth(b'{"status":"401","schemes":"bearer"}')
        assert answered == b"", "the challenge is answered with an empty line"
        return AuthResult(success=False, handled=False)

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, rcpt_options: list[str]
    ) -> str:
        if address in self.refusals:
            return self.refusals[address]
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        data: Any = session.auth_data if session.authenticated else None
        self.messages.append(
            Received(
                sender=(envelope.mail_from or "").replace("<>", ""),
                recipients=tuple(envelope.rcpt_tos),
                content=cast("bytes", envelope.original_content),
                encrypted=session.ssl is not None,
                user=data.decode() if isinstance(data, bytes) else None,
            )
        )
        return "250 2.0.0 taken"


def abort(transport: asyncio.WriteTransport) -> None:
    """Close at once, whatever was done to the transport before."""
    # Some Pythons (3.11.2) forget the protocol of a TLS transport that is closed twice, as aiosmtpd does.
    with suppress(AttributeError):
        transport.abort()


@asynccontextmanager
async def real_server(
    *,
    starttls: ssl.SSLContext | None = None,
    implicit_tls: ssl.SSLContext | None = None,
    users: Mapping[str, str] | None = None,
    auth_in_clear: bool = False,
    auth_excluded: Sequence[str] = (),
    access_tokens: Mapping[str, str] | None = None,
    size_limit: int = 33_554_432,
) -> AsyncIterator[RealServer]:
    """Run one; with `users` or `access_tokens` it takes mail only after a login, by default only over TLS."""
    server = RealServer(access_tokens=dict(access_tokens or {}))
    auth_excluded = (*auth_excluded, "XOAUTH2") if access_tokens is None else ("PLAIN", "LOGIN")
    protocols: list[SMTP] = []

    def authenticate(_server: SMTP, _session: Session, _envelope: Envelope, mechanism: str, login: Any) -> AuthResult:
        name = cast("LoginPassword", login).login.decode()
        server.logins.append((mechanism, name))
        right = (users or {}).get(name) == cast("LoginPassword", login).password.decode()
        return AuthResult(success=right, handled=False, auth_data=name.encode() if right else None)

    def protocol() -> SMTP:
        with warnings.catch_warnings():
            # It warns of logins in clear, which some tests are about.
            warnings.simplefilter("ignore", UserWarning)
            made = SMTP(
                server,
                data_size_limit=size_limit,
                enable_SMTPUTF8=True,
                hostname="real.example",
                tls_context=starttls,
                auth_required=users is not None or access_tokens is not None,
                auth_require_tls=not auth_in_clear and implicit_tls is None,
                auth_exclude_mechanism=list(auth_excluded),
                authenticator=authenticate if users is not None else None,
                loop=asyncio.get_running_loop(),
            )
        # Tests send lines that no mail client would.
        made.line_length_limit = 2**20
        protocols.append(made)
        return made

    listener = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0, ssl=implicit_tls)
    server.port = listener.sockets[0].getsockname()[1]

    def stop() -> None:
        listener.close()
        for client in protocols:
            if client.transport is not None:
                abort(cast("asyncio.Transport", client.transport))

    server.stop = stop
    try:
        yield server
    finally:
        await stop_listening(listener)
        stop()
        await listener.wait_closed()
        await a_few_turns()


# The scripted one


class Gone(Exception):
    """The client has closed the connection."""


class Peer(asyncio.Protocol):
    """One client of a scripted server, as the script sees it."""

    def __init__(self, run: Callable[[Peer], None]) -> None:
        self.heard: list[str] = []
        """All lines so far, without their ends."""
        self.gone = asyncio.get_running_loop().create_future()
        """Done when the connection has ended."""
        self._run = run
        self._buffer = bytearray()
        self._news = asyncio.Event()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._run(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.gone.done():
            self.gone.set_result(None)
        self._news.set()

    @property
    def waiting(self) -> bytes:
        """What has come and was not heard yet."""
        return bytes(self._buffer)

    async def hear_until(self, end: bytes) -> bytes:
        """Return what comes, up to and with `end`."""
        searched = 0
        while (found := self._buffer.find(end, searched)) < 0:
            searched = max(0, len(self._buffer) - len(end))
            await self._hear_more()
        return self._cut(found + len(end))

    async def hear_message(self) -> bytes:
        """Return what comes after DATA, up to and with the final dot."""
        while len(self._buffer) < 3:
            await self._hear_more()
        return self._cut(3) if self._buffer.startswith(b".\r\n") else await self.hear_until(b"\r\n.\r\n")

    async def _hear_more(self) -> None:
        if self.gone.done():
            raise Gone
        self._news.clear()
        await self._news.wait()

    def _cut(self, length: int) -> bytes:
        heard = bytes(self._buffer[:length])
        del self._buffer[:length]
        return heard

    async def hear(self) -> str:
        """Return the next line."""
        line = (await self.hear_until(b"\r\n"))[:-2].decode()
        self.heard.append(line)
        return line

    async def hear_end(self) -> None:
        """Return when the client has gone."""
        await asyncio.wait([self.gone])

    def say(self, *lines: str) -> None:
        """Send lines in one packet."""
        self.say_bytes("".join(f"{line}\r\n" for line in lines).encode())

    def say_bytes(self, data: bytes) -> None:
        """Send exactly these bytes."""
        if self.gone.done():
            raise Gone
        self.transport.write(data)

    async def flush(self) -> None:
        """Let what was said go out as a packet of its own."""
        for _ in range(3):
            await asyncio.sleep(0)

    def drop(self) -> None:
        """Close the connection at once."""
        abort(self.transport)

    def close(self) -> None:
        """Close the connection after what was said has gone out."""
        self.transport.close()

    async def encrypt(self, context: ssl.SSLContext) -> None:
        """Be the server of a TLS handshake."""
        loop = asyncio.get_running_loop()
        self._buffer.clear()
        encrypted = await loop.start_tls(self.transport, self, context, server_side=True)
        assert encrypted is not None
        self.transport = encrypted


Script = Callable[[Peer], Awaitable[None]]


@dataclass
class ScriptedServer:
    """A server whose n-th client meets the n-th script, and all later ones the last."""

    scripts: Sequence[Script]
    port: int = 0
    peers: list[Peer] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def heard(self) -> list[list[str]]:
        """The lines of each client."""
        return [peer.heard for peer in self.peers]

    @property
    def verbs(self) -> list[list[str]]:
        """The commands of each client, without what follows the verb."""
        return [[line.partition(" ")[0].upper() for line in peer.heard] for peer in self.peers]


@asynccontextmanager
async def scripted_server(*scripts: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[ScriptedServer]:
    """Run one; a script that fails, fails the test."""
    server = ScriptedServer(scripts)

    async def follow(peer: Peer, script: Script) -> None:
        try:
            await script(peer)
        except (Gone, ConnectionError, ssl.SSLError):
            return
        finally:
            peer.transport.close()

    def run(peer: Peer) -> None:
        script = server.scripts[min(len(server.peers), len(server.scripts) - 1)]
        server.peers.append(peer)
        server.tasks.append(asyncio.get_running_loop().create_task(follow(peer, script)))

    listener = await asyncio.get_running_loop().create_server(lambda: Peer(run), "127.0.0.1", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        await stop_listening(listener)
        for peer in server.peers:
            abort(peer.transport)
        for task in server.tasks:
            if not task.done():
                task.cancel()
        outcomes = await asyncio.gather(*server.tasks, return_exceptions=True)
        await asyncio.gather(*(peer.gone for peer in server.peers))
        await listener.wait_closed()
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome


Said = str | Script
"""A reply, or something else that happens in its place."""

EXTENSIONS = ("PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 10000000")


@dataclass
class Dialogue:
    """A script: an ordinary conversation, in which each reply can be replaced. Multi-line replies hold CRLF."""

    greeting: Said = "220 scripted.example ESMTP"
    extensions: Sequence[str] = EXTENSIONS
    ehlo: Said | None = None
    """In place of the list of extensions."""
    mail: Said = "250 2.1.0 ok"
    rcpt: Callable[[str], Said] = lambda _address: "250 2.1.5 ok"
    data: Said = "354 go ahead"
    dot: Said = "250 2.0.0 taken"
    rset: Said = "250 2.0.0 ok"
    quit: Said = "221 2.0.0 bye"
    auth: Said = "235 2.7.0 welcome"
    starttls: Said = "220 2.0.0 go ahead"
    context: ssl.SSLContext | None = None
    messages: list[bytes] = field(default_factory=list)
    """What came after DATA: dot-stuffed, with the final dot."""
    transactions: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    """Sender and accepted recipients of each message that came."""

    async def __call__(self, peer: Peer) -> None:
        await self._say(peer, self.greeting)
        verb, sender = "", ""
        recipients: list[str] = []
        while verb != "QUIT":
            verb, _, rest = (await peer.hear()).partition(" ")
            verb = verb.upper()
            if verb == "MAIL":
                sender, recipients = _address(rest), []
            said = self.rcpt(_address(rest)) if verb == "RCPT" else self._reply_to(verb)
            if verb == "RCPT" and _begins(said, "2"):
                recipients.append(_address(rest))
            await self._say(peer, said)
            if verb == "STARTTLS" and self.context is not None:
                await peer.encrypt(self.context)
            if verb == "DATA" and _begins(said, "354"):
                self.messages.append(await peer.hear_message())
                self.transactions.append((sender, tuple(recipients)))
                await self._say(peer, self.dot)

    def _reply_to(self, verb: str) -> Said:
        replies: dict[str, Said] = {
            "EHLO": self.ehlo or self._extensions(),
            "HELO": "250 ok",
            "NOOP": "250 ok",
            "AUTH": self.auth,
            "STARTTLS": self.starttls,
            "MAIL": self.mail,
            "DATA": self.data,
            "RSET": self.rset,
            "QUIT": self.quit,
        }
        return replies.get(verb, "500 5.5.1 what?")

    async def _say(self, peer: Peer, said: Said) -> None:
        if isinstance(said, str):
            peer.say(said)
        else:
            await said(peer)

    def _extensions(self) -> str:
        lines = ["scripted.example", *self.extensions]
        return "\r\n".join([f"250-{line}" for line in lines[:-1]] + [f"250 {lines[-1]}"])


def _address(rest: str) -> str:
    return rest[rest.index("<") + 1 : rest.rindex(">")]


def _begins(said: Said, code: str) -> bool:
    return isinstance(said, str) and said.startswith(code)
