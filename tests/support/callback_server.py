"""A receiver of callbacks: a real HTTP server whose answers a test scripts, well-behaved or not.

As a child process, `python -m tests.support.callback_server --record FILE` prints its port as the first line, answers
every report positively and writes each entry that it received to FILE, one JSON object a line, before it answers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from typing_extensions import Self, assert_never

from tests.support.loop_turns import a_few_turns, stop_listening

_LONGEST_REQUEST = 64 * 1024 * 1024


class Manner(Enum):
    """How an answer is given."""

    WHOLE = "whole"
    HANG = "hang"
    """Take the request and say nothing."""
    RESET = "reset"
    """Take the request and tear the connection down."""
    CUT = "cut"
    """Promise more bytes than come, then end the connection."""
    ENDLESS = "endless"
    """Send the body again and again, without end."""
    DRIP = "drip"
    """Send the body byte by byte, every 10 ms."""
    RAW = "raw"
    """Send the body alone, as if it were a whole answer with its headers; then end the connection."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One scripted answer. `delay` in seconds goes before it, and `after` if it is given: then it waits for that."""

    status: int = 200
    body: bytes = b'{"ok": true}'
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    after: asyncio.Event | None = None
    manner: Manner = Manner.WHOLE


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came. Names of headers are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The entries of the report."""
        entries: list[dict[str, Any]] = json.loads(self.body)["delivery_report"]
        return entries


class CallbackServer:
    """Answers from its script, then as `by_default` says. An async context manager; listens at a free port."""

    def __init__(
        self, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None, record: IO[str] | None = None
    ) -> None:
        self.by_default = Reply()
        self.by_path: dict[str, Reply] = {}
        """Answers to requests whose path begins so; the script and `by_default` are for the others."""
        self.answering: Callable[[Received], Reply] | None = None
        """Answers to everything where it is given, whatever else is."""
        self.requests: list[Received] = []
        self.connections = 0
        """How many were made so far."""
        self.port = 0
        self._host = host
        self._tls = tls
        self._record = record
        self._script: deque[Reply] = deque()
        self._news = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        return f"{'https' if self._tls else 'http'}://{self._host}:{self.port}"

    @property
    def entries(self) -> list[dict[str, Any]]:
        """All entries that came, in order, repeated ones included."""
        return [entry for request in self.requests for entry in request.entries]

    def script(self, *replies: Reply) -> None:
        """Give these answers to the next requests."""
        self._script.extend(replies)

    async def wait_for(self, requests: int) -> None:
        """Return once that many requests have come in all."""
        async with self._news:
            await self._news.wait_for(lambda: len(self.requests) >= requests)

    async def start(self, port: int = 0) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accepted, self._host, port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening, and end what is under way."""
        if self._server is not None:
            await stop_listening(self._server)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await a_few_turns()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer), name="callback connection")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _task: writer.transport.abort())  # also where it was ended before it began

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await _read_request(reader)) is not None:
                self._remember(request)
                reply = self.reply_to(request)
                async with self._news:
                    self._news.notify_all()
                if reply.after is not None:
                    await reply.after.wait()
                await asyncio.sleep(reply.delay)
                if not await _give(reply, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client went away, as it may

    def drop(self) -> None:
        """Cut every connection there is; new ones are taken."""
        for task in self._tasks:
            task.cancel()

    def reply_to(self, request: Received) -> Reply:
        """Choose the answer to a request."""
        if self.answering is not None:
            return self.answering(request)
        for beginning, reply in self.by_path.items():
            if request.path.startswith(beginning):
                return reply
        return self._script.popleft() if self._script else self.by_default

    def _remember(self, request: Received) -> None:
        self.requests.append(request)
        if self._record is not None:
            self._record.writelines(json.dumps(entry) + "\n" for entry in request.entries)
            self._record.flush()


async def _read_request(reader: asyncio.StreamReader) -> Received | None:
    """Read one request with a Content-Length or in chunks; None at the end of the connection."""
    line = await reader.readline()
    if not line:
        return None
    method, path, _ = line.decode("ascii").split(" ", 2)
    headers: dict[str, str] = {}
    while (line := await reader.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    if headers.get("transfer-encoding") == "chunked":
        body = await _read_chunks(reader)
    else:
        body = await reader.readexactly(min(int(headers.get("content-length", "0")), _LONGEST_REQUEST))
    return Received(method, path, headers, body)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while size := int((await reader.readline()).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return bytes(body)


async def _give(reply: Reply, writer: asyncio.StreamWriter) -> bool:
    """Answer; True if the connection goes on."""
    head = {"Content-Type": "application/json", **reply.headers}
    match reply.manner:
        case Manner.WHOLE:
            writer.write(_head(reply, head | {"Content-Length": str(len(reply.body))}) + reply.body)
            await writer.drain()
            return True
        case Manner.HANG:
            await asyncio.Event().wait()
        case Manner.RESET:
            pass
        case Manner.CUT:
            writer.write(_head(reply, head | {"Content-Length": str(len(reply.body) + 100)}) + reply.body)
            await writer.drain()
            writer.write_eof()
        case Manner.ENDLESS:
            writer.write(_head(reply, head | {"Connection": "close"}))
            while True:
                writer.write(reply.body)
                await writer.drain()
        case Manner.DRIP:
            writer.write(_head(reply, head | {"Content-Length": str(len(reply.body))}))
            for byte in reply.body:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.01)
            return True
        case Manner.RAW:
            writer.write(reply.body)
            await writer.drain()
            writer.write_eof()
            await asyncio.sleep(0.05)  # else the client could see a reset before the bytes
        case _:
            assert_never(reply.manner)
    return False


def _head(reply: Reply, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {reply.status} Scripted", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def _serve_forever(arguments: argparse.Namespace, record: IO[str]) -> None:
    server = CallbackServer(record=record)
    server.by_default = Reply(arguments.status, delay=arguments.delay)
    server.script(*[Reply(500)] * arguments.fail_first)
    await server.start(arguments.port)
    print(server.port, flush=True)  # noqa: T201 - the parent reads it
    await asyncio.Event().wait()


def main() -> None:
    """Run until killed."""
    parser = argparse.ArgumentParser(description="Receive callbacks.")
    parser.add_argument("--record", type=Path, required=True, help="file that received entries are added to")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--status", type=int, default=200)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--fail-first", type=int, default=0, help="answer 500 to that many requests first")
    arguments = parser.parse_args()
    with arguments.record.open("a", encoding="utf-8") as record:
        try:
            asyncio.run(_serve_forever(arguments, record))
        except KeyboardInterrupt:
            sys.exit(0)


if __name__ == "__main__":
    main()
