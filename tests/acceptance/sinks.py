"""Where the mail of these tests ends: a real SMTP server (aiosmtpd) that keeps a ledger of what it took."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from typing import cast

from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.support.loop_turns import a_few_turns, stop_listening


@dataclass(frozen=True, slots=True)
class Arrival:
    """One message as it was taken. `at` is in Unix seconds, `mail_id` what its X-Genro-Mail-ID says."""

    at: float
    mail_id: str
    sender: str
    recipients: tuple[str, ...]
    content: bytes

    @property
    def parsed(self) -> Message:
        """The message as the standard library reads it."""
        return message_from_bytes(self.content)


@dataclass
class Sink:
    """Takes mail for everybody whom its rules let in."""

    port: int = 0
    rcpt: Callable[[str], str | None] = lambda _address: None
    """The reply to RCPT for an address; None accepts it."""
    dot: Callable[[], str | None] = lambda: None
    """The reply to the final dot; None takes the message."""
    pause: float = 0.0
    """Seconds from the final dot to its reply."""
    on_arrival: Callable[[int], None] = lambda _count: None
    """Told of each message that was taken, before the client is."""
    arrivals: list[Arrival] = field(default_factory=list)
    asked: list[tuple[float, str]] = field(default_factory=list)
    """When each RCPT came (monotonic seconds), and for whom."""
    sessions: int = 0
    """Open at this moment."""
    most_sessions: int = 0
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def ledger(self) -> Counter[str]:
        """How often each message came."""
        return Counter(arrival.mail_id for arrival in self.arrivals)

    @property
    def ids(self) -> list[str]:
        """The messages in the order in which they came."""
        return [arrival.mail_id for arrival in self.arrivals]

    async def wait_for(self, count: int, seconds: float = 30.0) -> None:
        """Return once so many messages have come."""

        async def enough() -> None:
            while len(self.arrivals) < count:
                self._news.clear()
                await self._news.wait()

        try:
            await asyncio.wait_for(enough(), seconds)
        except asyncio.TimeoutError:
            raise AssertionError(f"{len(self.arrivals)} of {count} messages came within {seconds:g} s") from None

    # aiosmtpd calls these by name.

    async def handle_EHLO(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        return [*responses[:-1], "250-PIPELINING", responses[-1]]

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, rcpt_options: list[str]
    ) -> str:
        self.asked.append((time.monotonic(), address))
        refusal = self.rcpt(address)
        if refusal is None:
            envelope.rcpt_tos.append(address)
        return refusal or "250 2.1.5 ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        refusal = self.dot()
        if refusal is None:
            content, sender = cast("bytes", envelope.original_content), envelope.mail_from or ""
            self.arrivals.append(Arrival(time.time(), _mail_id(content), sender, tuple(envelope.rcpt_tos), content))
            self._news.set()
            self.on_arrival(len(self.arrivals))
        if self.pause:
            await asyncio.sleep(self.pause)
        return refusal or "250 2.0.0 taken"


def _mail_id(content: bytes) -> str:
    """Read the one header that is looked at often; a message without it, or with two, fails the test."""
    head = content[: content.index(b"\r\n\r\n") + 2]
    (value,) = re.findall(rb"(?m)^X-Genro-Mail-ID: (.*)\r\n", head)
    return str(value.decode("ascii"))


class _Protocol(SMTP):
    """Counts the sessions of a sink."""

    def __init__(self, sink: Sink) -> None:
        super().__init__(sink, enable_SMTPUTF8=True, hostname="sink.example", loop=asyncio.get_running_loop())
        self.sink = sink

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.sink.sessions += 1
        self.sink.most_sessions = max(self.sink.most_sessions, self.sink.sessions)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.sink.sessions -= 1
        super().connection_lost(error)


@asynccontextmanager
async def running_sink(at: socket.socket | None = None) -> AsyncIterator[Sink]:
    """Run a sink, on a free port or on a socket that is bound already."""
    sink = Sink()
    protocols: list[_Protocol] = []

    def protocol() -> _Protocol:
        protocols.append(_Protocol(sink))
        return protocols[-1]

    loop = asyncio.get_running_loop()
    if at is None:
        listener = await loop.create_server(protocol, "127.0.0.1", 0)
    else:
        listener = await loop.create_server(protocol, sock=at)
    sink.port = listener.sockets[0].getsockname()[1]
    try:
        yield sink
    finally:
        await stop_listening(listener)
        for client in protocols:
            if client.transport is not None:
                cast("asyncio.Transport", client.transport).abort()
        await listener.wait_closed()
        await a_few_turns()


def reserved_port() -> socket.socket:
    """Return a socket that is bound and does not listen: connections are refused, and nobody else gets the port."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", 0))
    return bound
