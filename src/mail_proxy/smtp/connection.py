"""An SMTP connection after the login: commands go out in blocks, replies are read from what arrives."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from typing_extensions import override

from mail_proxy.domain.reply import Reply, printable

MAX_LINE = 8 * 1024
MAX_REPLY = 64 * 1024
CLOSING = 421
"""RFC 5321 section 3.8: the server closes the connection, whatever the command was."""

# Some servers end lines with a bare line feed, and some say nothing after the code.
_LINE = re.compile(rb"([2-5]\d\d)(?:([ -])([^\n]*)|\r?)\n")

# Bytes that may wait in this process for a slow server before the writer is paused.
_HIGH_WATER = 128 * 1024


class LossKind(Enum):
    """Why a connection is of no more use."""

    CLOSED = "closed"
    """It ended, or the server said that it will end it."""
    TIMEOUT = "timeout"
    GARBAGE = "garbage"
    """What came is no SMTP, or came unasked."""


@dataclass(frozen=True, slots=True)
class Loss:
    """The end of a connection. `reply` is the server's last word, where it had one."""

    kind: LossKind
    text: str
    reply: Reply | None = None


class RawReply(NamedTuple):
    """A reply as it arrived, its lines joined."""

    code: int
    text: bytes

    @property
    def accepted(self) -> bool:
        """True for 2xx."""
        return 200 <= self.code < 300

    @property
    def refused(self) -> bool:
        """True for 4xx and 5xx."""
        return self.code >= 400

    @property
    def reply(self) -> Reply:
        """The reply as a value that can be shown and kept."""
        return Reply.parse(self.code, self.text.decode("utf-8", "replace"))


class ConnectionLost(Exception):
    """The connection is of no more use. `received` are the replies that came before it ended."""

    def __init__(self, loss: Loss, received: tuple[RawReply, ...] = ()) -> None:
        super().__init__(loss.text)
        self.loss = loss
        self.received = received


class _NotSmtp(Exception):
    """What came cannot be a reply."""


class _ReplyReader:
    """Cuts what arrives into replies (RFC 5321 section 4.2.1), in whichever pieces it comes, in bounded memory."""

    __slots__ = ("_lines", "_rest", "_size")

    def __init__(self) -> None:
        self._rest = b""
        self._lines: list[bytes] = []
        self._size = 0

    @property
    def halfway(self) -> bool:
        """True when the beginning of a reply has come, and not its end."""
        return bool(self._rest or self._lines)

    def feed(self, data: bytes) -> Iterator[RawReply]:
        """Yield the replies that are complete now. Raises `_NotSmtp` for anything else."""
        if self._rest:
            data = self._rest + data
        start = 0
        while (line := _LINE.match(data, start)) is not None:
            code, separator, text = line.groups(b"")
            start = line.end()
            text = text[:-1] if text.endswith(b"\r") else text
            if len(text) > MAX_LINE:
                raise _NotSmtp(f"a line of more than {MAX_LINE} bytes")
            if separator == b"-":
                self._add(text)
            elif self._lines:
                self._add(text)
                yield RawReply(int(code), b"\n".join(self._lines))
                self._lines.clear()
                self._size = 0
            else:
                yield RawReply(int(code), text)
        self._rest = rest = data[start:]
        if b"\n" in rest:
            shown = printable(rest.partition(b"\n")[0].decode("utf-8", "replace"), 100)
            raise _NotSmtp(f"what is no SMTP reply: {shown!r}")
        if len(rest) > MAX_LINE:
            raise _NotSmtp(f"a line of more than {MAX_LINE} bytes")

    def _add(self, text: bytes) -> None:
        self._lines.append(text)
        self._size += len(text) + 6
        if self._size > MAX_REPLY:
            raise _NotSmtp(f"a reply of more than {MAX_REPLY} bytes")


class Connection(asyncio.Protocol):
    """Asks and reads replies over a transport that another protocol has set up.

    One question at a time. Whatever goes wrong ends the connection at once, and every later call says why; so does a
    reply that nobody asked for, because no later one could be trusted to belong to its command.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._reader = _ReplyReader()
        self._loss: Loss | None = None
        self._replies: list[RawReply] = []
        self._wanted = 0
        self._waiter: asyncio.Future[None] | None = None
        self._paused = False
        self._parting = False
        # One timer serves all waits: it is only looked at when it fires, so that a wait costs no timer of its own.
        self._patience = 0.0
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self.closed: asyncio.Future[None] = self._loop.create_future()
        if transport.is_closing():
            self._lose(LossKind.CLOSED, "the server closed the connection")
            self.closed.set_result(None)
            return
        transport.set_protocol(self)
        transport.set_write_buffer_limits(high=_HIGH_WATER)

    # Asking

    @property
    def usable(self) -> bool:
        """True while a question can be asked."""
        return (
            self._loss is None and not self._parting and not self._transport.is_closing() and not self._reader.halfway
        )

    def check(self) -> None:
        """Raise `ConnectionLost` when the connection has ended meanwhile."""
        if self._loss is None and self._transport.is_closing():
            self._lose(LossKind.CLOSED, "the connection was closed")
        if self._loss is not None:
            raise ConnectionLost(self._loss)

    async def ask(self, commands: bytes, count: int, patience: float) -> list[RawReply]:
        """Write commands in one block and return their `count` replies.

        `patience` (seconds) holds for each reply. Raises `ConnectionLost` with the replies that came; a 421 is a loss.
        """
        self.check()
        self._wanted = count
        self._transport.write(commands)
        try:
            await self._wait(patience)
        finally:
            replies, self._replies = self._replies, []
            self._wanted = 0
        # When all have come they count, even if the connection ended right after the last one.
        if len(replies) < count and self._loss is not None:
            raise ConnectionLost(self._loss, tuple(replies))
        return replies

    async def feed(self, data: bytes, patience: float) -> None:
        """Write a piece of a message, and wait while the server is slower than we are, up to `patience` seconds.

        Raises `ConnectionLost` also when the server speaks meanwhile; `loss.reply` is what it said.
        """
        self.check()
        self._transport.write(data)
        if self._paused:
            await self._wait(patience)
            self.check()

    async def _wait(self, patience: float) -> None:
        self._patience = patience
        self._await_until(self._loop.time() + patience)
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
            self._deadline = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # Parting

    def part(self, grace: float) -> None:
        """Say QUIT and close on the answer, or after `grace` seconds."""
        if not self.usable or self._waiter is not None:
            self.abort()
            return
        self._parting = True
        self._transport.write(b"QUIT\r\n")
        self._await_until(self._loop.time() + grace)

    def abort(self, text: str = "the connection was given up") -> None:
        """Close at once. What has not left this process yet never will."""
        self._lose(LossKind.CLOSED, text)

    # Time

    def _await_until(self, deadline: float) -> None:
        self._deadline = deadline
        if self._timer is not None:
            if self._timer_at <= deadline:
                return
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_at(deadline, self._look_at_time)

    def _look_at_time(self) -> None:
        self._timer = None
        if self._deadline is None:
            return
        if self._loop.time() < self._deadline:
            self._await_until(self._deadline)
        else:
            self._lose(LossKind.TIMEOUT, f"no answer within {self._patience:g} s")

    # What the transport tells

    @override
    def data_received(self, data: bytes) -> None:
        if self._loss is not None:
            return
        if self._parting:
            # Not `close`: over TLS it would begin a farewell of its own, from inside the one that is being read.
            self._lose(LossKind.CLOSED, "the session was ended")
            return
        try:
            for reply in self._reader.feed(data):
                self._take(reply)
        except _NotSmtp as error:
            self._lose(LossKind.GARBAGE, f"the server sent {error}")

    def _take(self, raw: RawReply) -> None:
        if self._loss is not None:
            return
        if raw.code == CLOSING:
            self._lose(LossKind.CLOSED, "the server closes the connection", raw.reply)
        elif len(self._replies) >= self._wanted:
            self._lose(LossKind.GARBAGE, "the server spoke without being asked", raw.reply)
        else:
            self._replies.append(raw)
            if len(self._replies) == self._wanted:
                self._wake()
            else:
                self._deadline = self._loop.time() + self._patience

    @override
    def eof_received(self) -> bool | None:
        self._lose(LossKind.CLOSED, "the server closed the connection")
        return None

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        why = f": {exc}" if exc is not None else ""
        self._lose(LossKind.CLOSED, f"the connection was lost{why}")
        if not self.closed.done():
            self.closed.set_result(None)

    @override
    def pause_writing(self) -> None:
        self._paused = True

    @override
    def resume_writing(self) -> None:
        self._paused = False
        if not self._wanted:
            self._wake()

    def _lose(self, kind: LossKind, text: str, reply: Reply | None = None) -> None:
        if self._loss is not None:
            return
        self._loss = Loss(kind, printable(text), reply)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._transport.abort()
        self._wake()
