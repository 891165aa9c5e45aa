"""A real SMTP server that also keeps each octet that came, and a transport to it, in a thread of their own."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from aiosmtpd.smtp import SMTP, Envelope, Session

from mail_proxy.domain.attempt import Attempt
from mail_proxy.domain.attempt import Envelope as Outgoing
from mail_proxy.domain.compose import Wire
from mail_proxy.smtp.pool import SmtpTransport
from tests.edge.smtp.making import Dots, account
from tests.support.loop_turns import stop_listening
from tests.support.smtp_servers import abort

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Taken:
    """One message as the server understood it."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes


@dataclass(frozen=True, slots=True)
class Seen:
    """One message as the octets say, read without any library. `others` are commands that send nothing."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    others: tuple[str, ...]


@dataclass
class Recorder:
    """Takes what comes, and remembers how it came."""

    port: int = 0
    taken: list[Taken] = field(default_factory=list)
    octets: bytearray = field(default_factory=bytearray)

    # aiosmtpd calls these by name.

    async def handle_EHLO(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        return [*responses[:-1], "250-PIPELINING", responses[-1]]

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        content = cast("bytes", envelope.original_content)
        self.taken.append(Taken(envelope.mail_from or "", tuple(envelope.rcpt_tos), content))
        return "250 2.0.0 taken"

    def seen(self) -> list[Seen]:
        """Read the octets: commands up to DATA, a message up to the dot, and so on."""
        found: list[Seen] = []
        left = bytes(self.octets)
        while b"DATA\r\n" in left:
            commands, _, left = left.partition(b"DATA\r\n")
            lines = commands.decode("utf-8").removesuffix("\r\n").split("\r\n")
            content, _, left = left.partition(b"\r\n.\r\n")
            (sender,) = [line for line in lines if line.startswith("MAIL")]
            paths = [line for line in lines if line.startswith("RCPT")]
            found.append(
                Seen(
                    _matched(r"MAIL FROM:<([^<>\r\n]*)>(?: SIZE=\d+)?(?: BODY=8BITMIME)?(?: SMTPUTF8)?", sender),
                    tuple(_matched(r"RCPT TO:<([^<>\r\n]+)>", path) for path in paths),
                    re.sub(rb"(?m)^\.", b"", content + b"\r\n"),
                    tuple(line for line in lines if line != sender and line not in paths),
                )
            )
        assert left in {b"", b"QUIT\r\n"}
        return found


def _matched(pattern: str, line: str) -> str:
    found = re.fullmatch(pattern, line)
    assert found, line
    return found[1]


class _Protocol(SMTP):
    def __init__(self, recorder: Recorder) -> None:
        super().__init__(recorder, enable_SMTPUTF8=True, hostname="recorder.example", loop=asyncio.get_running_loop())
        self.line_length_limit = 1001
        self._recorder = recorder

    def data_received(self, data: bytes) -> None:
        self._recorder.octets += data
        super().data_received(data)


class Line:
    """A transport and a recorder at its other end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, recorder: Recorder, transport: SmtpTransport) -> None:
        self._loop = loop
        self._recorder = recorder
        self._transport = transport

    def send(self, outgoing: Outgoing, wire: Wire) -> tuple[Attempt, list[Taken], list[Seen]]:
        """Send one message; return what became of it, what the server took, and what the octets say."""
        return _run(self._loop, self._send(outgoing, wire))

    async def _send(self, outgoing: Outgoing, wire: Wire) -> tuple[Attempt, list[Taken], list[Seen]]:
        self._recorder.taken.clear()
        self._recorder.octets.clear()
        attempt = await self._transport.send(account(self._recorder.port), outgoing, wire, Dots())
        return attempt, list(self._recorder.taken), self._recorder.seen()


def _run(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(work, loop).result(30)


@contextmanager
def recorded_line() -> Iterator[Line]:
    """Run a recorder with a transport to it, whose session stays open from one message to the next."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="recorder")
    thread.start()
    recorder = Recorder()
    protocols: list[_Protocol] = []

    def protocol() -> _Protocol:
        protocols.append(_Protocol(recorder))
        return protocols[-1]

    async def start() -> tuple[asyncio.Server, SmtpTransport]:
        server = await loop.create_server(protocol, "127.0.0.1", 0)
        recorder.port = server.sockets[0].getsockname()[1]
        return server, SmtpTransport(local_hostname="client.example")

    async def stop() -> None:
        await transport.close()
        await stop_listening(server)
        for each in protocols:
            if each.transport is not None:
                abort(cast("asyncio.Transport", each.transport))
        await server.wait_closed()

    server, transport = _run(loop, start())
    try:
        yield Line(loop, recorder, transport)
    finally:
        _run(loop, stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
