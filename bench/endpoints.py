"""Endpoints of tenants, good ones and dead ones, in a child: `python -m bench.endpoints FILE`.

The port of those that answer is printed, then of each kind of dead ones: one that takes the request and says nothing,
one that answers 500, and one that sends its answer byte by byte. Each event that arrives is a line in the file: event
id, tenant, when it came about, and when it arrived; an empty report is one without a tenant.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import IO

import uvloop

Serve = Callable[[asyncio.StreamWriter, bytes], Awaitable[bool]]

_ANSWER = b'{"ok": true}'
_HEAD = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


async def _listen(serve: Serve) -> int:
    """Listen for requests and return the port; `serve` answers one, and says whether the connection goes on."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
                if not await serve(writer, await reader.readexactly(int(length))):
                    break
        writer.transport.abort()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=1 << 21, backlog=1024)
    port: int = server.sockets[0].getsockname()[1]
    return port


async def _hang(_writer: asyncio.StreamWriter, _body: bytes) -> bool:
    await asyncio.Event().wait()
    return False


async def _fail(writer: asyncio.StreamWriter, _body: bytes) -> bool:
    writer.write(_HEAD % (b"500 Internal Server Error", 2) + b"{}")
    return True


async def _drip(writer: asyncio.StreamWriter, _body: bytes) -> bool:
    writer.write(_HEAD % (b"200 OK", 1000))
    for _ in range(1000):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(1)
    return False


async def _serve(arrived: IO[str]) -> None:
    async def take(writer: asyncio.StreamWriter, body: bytes) -> bool:
        now = time.time()
        entries = json.loads(body)["delivery_report"] or [{"event_id": 0, "tenant_id": "", "sent_ts": now}]
        for entry in entries:
            arrived.write(f"{entry['event_id']} {entry['tenant_id']} {entry['sent_ts']} {now}\n")
        writer.write(_HEAD % (b"200 OK", len(_ANSWER)) + _ANSWER)
        arrived.flush()
        return True

    for serve in (take, _hang, _fail, _drip):
        print(await _listen(serve), flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Serve until killed."""
    with Path(sys.argv[1]).open("a", encoding="ascii") as arrived:
        uvloop.run(_serve(arrived))


if __name__ == "__main__":
    main()
