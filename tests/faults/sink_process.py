"""A mail server that keeps a ledger: `python sink_process.py FILE`; its port is printed, it ends with its input.

Each line of the ledger is `KIND TIME SESSION ID`: `dot` when a message is there, `250` when its client has been told.
A message is taken with its dot, whatever becomes of the connection. The time is the system's monotonic clock. A line
`pause SECONDS` on its input sets how long a dot waits for its reply.

Addresses that begin with `never` are refused, those with `once` or `twice` put off so often before they are accepted.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections import Counter
from itertools import count

_DOT = b"\r\n.\r\n"
_ID = re.compile(rb"(?mi)^X-Genro-Mail-ID: ([^\r]*)\r$")
_WAYWARD = re.compile(rb"(?i)RCPT TO:<((never|once|twice)[^>]*)>")
_PUT_OFF = {b"once": 1, b"twice": 2}
_REPLIES = {
    b"EHLO": b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 SIZE 50000000\r\n",
    b"DATA": b"354 go ahead\r\n",
    b"QUIT": b"221 2.0.0 bye\r\n",
}
_OK = b"250 2.0.0 ok\r\n"
_NEVER = b"550 5.1.1 no such user\r\n"
_LATER = b"450 4.2.0 greylisted\r\n"
_NOBODY = b"554 5.5.1 no valid recipients\r\n"

_sessions = count(1)


class Ledger:
    """The file, and how long a dot waits for its reply."""

    def __init__(self, path: str) -> None:
        self.pause = 0.0
        self._put_off: Counter[bytes] = Counter()
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, kind: str, session: int, mail_id: str) -> None:
        """Write one line, in one piece."""
        os.write(self._file, f"{kind} {time.monotonic():.6f} {session} {mail_id}\n".encode())

    def refusal(self, line: bytes) -> bytes | None:
        """Return what is said to a recipient that is not accepted, this time or ever; None for all others."""
        found = _WAYWARD.match(line)
        if found is None:
            return None
        address, kind = found[1], found[2].lower()
        if kind == b"never":
            return _NEVER
        self._put_off[address] += 1
        return _LATER if self._put_off[address] <= _PUT_OFF[kind] else None

    def obey(self, line: str) -> None:
        """Do what a line of the input says."""
        word, value = line.split()
        assert word == "pause", line
        self.pause = float(value)


class Session(asyncio.Protocol):
    """One client."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._number = next(_sessions)
        self._buffer = bytearray()
        self._in_data = False
        self._recipients = 0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(b"220 sink ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while self._message() if self._in_data else self._command():
            pass

    def _command(self) -> bool:
        line, found, rest = bytes(self._buffer).partition(b"\r\n")
        if not found:
            return False
        self._buffer[:] = rest
        verb = line[:4].upper()
        self._transport.write(self._reply(verb, line))
        self._in_data = verb == b"DATA" and self._recipients > 0
        if verb == b"QUIT":
            self._transport.close()
        return verb != b"QUIT"

    def _reply(self, verb: bytes, line: bytes) -> bytes:
        if verb == b"MAIL":
            self._recipients = 0
        elif verb == b"RCPT":
            refusal = self._ledger.refusal(line)
            self._recipients += refusal is None
            return refusal or _OK
        elif verb == b"DATA" and not self._recipients:
            return _NOBODY
        return _REPLIES.get(verb, _OK)

    def _message(self) -> bool:
        end = self._buffer.find(_DOT)
        if end < 0:
            return False
        (mail_id,) = _ID.findall(self._buffer[: end + 2])
        del self._buffer[: end + len(_DOT)]
        self._in_data = False
        self._ledger.note("dot", self._number, mail_id.decode())
        if self._ledger.pause:
            asyncio.get_running_loop().call_later(self._ledger.pause, self._answer, mail_id.decode())
        else:
            self._answer(mail_id.decode())
        return True

    def _answer(self, mail_id: str) -> None:
        if not self._transport.is_closing():
            self._transport.write(_OK)
            self._ledger.note("250", self._number, mail_id)


async def main(path: str) -> None:
    """Serve until the input ends."""
    ledger, loop = Ledger(path), asyncio.get_running_loop()
    server = await loop.create_server(lambda: Session(ledger), "127.0.0.1", 0, backlog=1000)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 - whoever started it reads this
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        ledger.obey(line.decode())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
