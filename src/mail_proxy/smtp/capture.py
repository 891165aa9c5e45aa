"""Two places where mail ends instead of being delivered: a transport without a network, and a server that only catches.

The transport serves the tests of the flows; the server is the other side of the demo and of the benchmarks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

from typing_extensions import Self, override

from mail_proxy.domain.account import Account
from mail_proxy.domain.attempt import (
    AccountRefused,
    Answer,
    Attempt,
    Envelope,
    Failure,
    HostFailed,
    Probed,
    ProbeResult,
    Stage,
)
from mail_proxy.domain.compose import Wire
from mail_proxy.domain.reply import Reply
from mail_proxy.ports.transport import BeforeDot, Transport
from mail_proxy.smtp.dot_stuffing import unstuff

Rule = Callable[[str], Answer | Reply | None]
"""What is said about a recipient: None accepts it, a `Reply` is the one to RCPT, an `Answer` names its stage."""

Refusals = Callable[[str], tuple[int, str] | None]
"""What a catcher answers to RCPT for an address: code and text, or None to accept it."""

ACCEPTED = Answer(Reply(250, "2.0.0", "captured"), Stage.DOT)


def accept_everyone(_address: str) -> None:
    """Accept any recipient."""


@dataclass(frozen=True, slots=True)
class Captured:
    """One message that was taken. `accepted` are the addresses that it was taken for."""

    account: Account
    envelope: Envelope
    accepted: tuple[str, ...]
    content: bytes


class CaptureTransport(Transport):
    """Keeps what is sent in memory, and answers by a rule.

    While `failure` is set, every attempt ends with it before anything is taken; while `silent` is set, the answer to
    the final dot is lost. Attempts wait at their start until `gate` is set, which it is at first.
    """

    def __init__(self, rule: Rule = accept_everyone) -> None:
        self.rule = rule
        self.failure: Failure | None = None
        self.silent = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = 0
        """Attempts so far, those that wait at the gate included."""
        self.messages: list[Captured] = []
        self.closed = False

    @override
    async def send(self, account: Account, envelope: Envelope, wire: Wire, before_dot: BeforeDot) -> Attempt:
        """Take the message for those recipients that the rule accepts."""
        self.begun += 1
        await self.gate.wait()
        if self.failure is not None:
            return Attempt(failure=self.failure)
        said = {n: _answer(self.rule(address)) for n, address in envelope.recipients}
        to_data = [n for n, answer in said.items() if answer.stage is Stage.DOT]
        if not to_data:
            return Attempt(said, transactions=1)
        content = await _joined(wire)
        await before_dot()
        if self.silent:
            refused = {n: answer for n, answer in said.items() if n not in to_data}
            return Attempt(refused, uncertain=frozenset(to_data), transactions=1)
        accepted = tuple(address for n, address in envelope.recipients if said[n].accepted)
        if accepted:
            self.messages.append(Captured(account, envelope, accepted, content))
        return Attempt(said, transactions=1)

    @override
    def session_count(self) -> int:
        return 0

    @override
    async def probe(self, account: Account) -> ProbeResult:
        """Answer as the next attempt would be."""
        match self.failure:
            case HostFailed() | AccountRefused():
                return self.failure
            case _:
                return Probed(tls_version=None)

    @override
    async def close(self) -> None:
        """Take note that it was closed."""
        self.closed = True


def _answer(said: Answer | Reply | None) -> Answer:
    match said:
        case None:
            return ACCEPTED
        case Answer():
            return said
        case Reply():
            return ACCEPTED if said.accepted else Answer(said, Stage.RCPT)


async def _joined(wire: Wire) -> bytes:
    pieces = []
    for part in wire.parts:
        if isinstance(part, bytes):
            pieces.append(part)
        else:
            pieces += [chunk async for chunk in part.chunks()]
    content = b"".join(pieces)
    return content if content.endswith(b"\r\n") else content + b"\r\n"


class SmtpCatcher:
    """An SMTP server on this machine that takes mail and hands it to a function (RFC 5321, RFC 2920).

    `async with SmtpCatcher(on_message) as catcher: ... catcher.port`. `on_message(sender, recipients, content)` is
    called before the sender is told 250, so that what it was told has arrived.
    """

    def __init__(
        self,
        on_message: Callable[[str, tuple[str, ...], bytes], None],
        refusals: Refusals = accept_everyone,
        *,
        host: str = "127.0.0.1",
        size_limit: int = 50 * 1024 * 1024,
    ) -> None:
        self.on_message = on_message
        self.refusals = refusals
        self.size_limit = size_limit
        self.port = 0
        self._host = host
        self._server: asyncio.Server | None = None
        self._sessions: set[_CatcherSession] = set()
        self.closed = False

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _CatcherSession(self, self._sessions), self._host, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closed = True
        if self._server is not None:
            self._server.close()
        closing = [session.close() for session in self._sessions]
        if closing:
            await asyncio.wait(closing)
        if self._server is not None:
            await self._server.wait_closed()


class _CatcherSession(asyncio.Protocol):
    """One client of a catcher. Commands are taken from the buffer as they are complete, replies go out together."""

    def __init__(self, catcher: SmtpCatcher, sessions: set[_CatcherSession]) -> None:
        self._catcher = catcher
        self._sessions = sessions
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._buffer = bytearray()
        self._in_data = False
        self._too_much = False
        self._searched = 0
        """Where the search for the final dot goes on."""
        self._sender: str | None = None
        self._recipients: list[str] = []
        self._replies: list[bytes] = []

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._sessions.add(self)
        if self._catcher.closed:  # it was being accepted when the catcher went
            self._transport.abort()
            return
        self._transport.write(b"220 catcher ESMTP\r\n")

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._sessions.discard(self)
        self._closed.set_result(None)

    def close(self) -> asyncio.Future[None]:
        """Close at once; return what is done when that has happened."""
        self._transport.abort()
        return self._closed

    @override
    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._message() if self._in_data else self._command():
            pass
        if self._replies:
            self._transport.write(b"".join(self._replies))
            self._replies.clear()
        if self._in_data and len(self._buffer) > self._catcher.size_limit:
            self._forget_content()
        elif not self._in_data and len(self._buffer) > _MAX_COMMAND:
            self._transport.abort()

    def _command(self) -> bool:
        """Take one command from the buffer; False when there is none."""
        end = self._buffer.find(b"\r\n")
        if end < 0 or self._transport.is_closing():
            return False
        line = self._buffer[:end].decode("utf-8", "replace")
        del self._buffer[: end + 2]
        verb, _, rest = line.partition(" ")
        answer = self._VERBS.get(verb.upper(), _CatcherSession._unknown)
        self._replies.append(answer(self, rest))
        if verb.upper() == "QUIT":
            self._transport.write(b"".join(self._replies))
            self._replies.clear()
            self._transport.close()
        return True

    def _message(self) -> bool:
        """Take the message from the buffer once its final dot is there; False until then."""
        buffer = self._buffer
        if buffer.startswith(b".\r\n") and not self._too_much:
            content, end = b"", 3
        else:
            found = buffer.find(_FINAL_DOT, self._searched)
            if found < 0:
                self._searched = max(0, len(buffer) - len(_FINAL_DOT))
                return False
            content, end = unstuff(bytes(buffer[: found + 2])), found + len(_FINAL_DOT)
        del buffer[:end]
        if self._too_much:
            self._replies.append(b"552 5.3.4 too much\r\n")
        else:
            self._catcher.on_message(self._sender or "", tuple(self._recipients), content)
            self._replies.append(b"250 2.0.0 caught\r\n")
        self._forget()
        return True

    def _forget_content(self) -> None:
        """Keep of a message that is too big only what the final dot may begin in."""
        self._too_much = True
        del self._buffer[: -len(_FINAL_DOT)]
        self._searched = 0

    def _forget(self) -> None:
        self._in_data = False
        self._too_much = False
        self._searched = 0
        self._sender = None
        self._recipients = []

    def _ehlo(self, _rest: str) -> bytes:
        self._forget()
        size = str(self._catcher.size_limit).encode()
        return b"250-catcher\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 SIZE " + size + b"\r\n"

    def _helo(self, _rest: str) -> bytes:
        self._forget()
        return b"250 catcher\r\n"

    def _mail(self, rest: str) -> bytes:
        if self._sender is not None:
            return b"503 5.5.1 one sender at a time\r\n"
        self._sender = _path(rest, "FROM:")
        return b"250 2.1.0 ok\r\n" if self._sender is not None else b"501 5.5.4 MAIL FROM:<address>\r\n"

    def _rcpt(self, rest: str) -> bytes:
        address = _path(rest, "TO:")
        if self._sender is None or not address:
            return b"503 5.5.1 MAIL first, then RCPT TO:<address>\r\n"
        refusal = self._catcher.refusals(address)
        if refusal is not None:
            return f"{refusal[0]} {refusal[1]}\r\n".encode()
        self._recipients.append(address)
        return b"250 2.1.5 ok\r\n"

    def _data(self, _rest: str) -> bytes:
        if not self._recipients:
            return b"554 5.5.1 no valid recipients\r\n"
        self._in_data = True
        return b"354 go ahead\r\n"

    def _rset(self, _rest: str) -> bytes:
        self._forget()
        return b"250 2.0.0 ok\r\n"

    def _noop(self, _rest: str) -> bytes:
        return b"250 2.0.0 ok\r\n"

    def _quit(self, _rest: str) -> bytes:
        return b"221 2.0.0 bye\r\n"

    def _unknown(self, _rest: str) -> bytes:
        return b"502 5.5.1 unknown\r\n"

    _VERBS: ClassVar[Mapping[str, Callable[[_CatcherSession, str], bytes]]] = {
        "EHLO": _ehlo,
        "HELO": _helo,
        "MAIL": _mail,
        "RCPT": _rcpt,
        "DATA": _data,
        "RSET": _rset,
        "NOOP": _noop,
        "QUIT": _quit,
    }


_FINAL_DOT = b"\r\n.\r\n"
_MAX_COMMAND = 64 * 1024


def _path(rest: str, keyword: str) -> str | None:
    """Return the address of `FROM:<address> PARAMETERS`, "" for the null sender, None for anything else."""
    if not rest.upper().startswith(keyword):
        return None
    path = rest[len(keyword) :].lstrip()
    end = path.rfind(">")
    return path[1:end] if path.startswith("<") and end > 0 else None
