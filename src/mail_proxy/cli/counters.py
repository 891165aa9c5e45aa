"""The other side of a measurement: a mail server and an endpoint for reports that only count.

`python -m mail_proxy.cli.counters sink|callback DESCRIPTOR HOST` prints its port, or ends with code 1 where it cannot
listen on that address; the count is in the file that it was given open, 8 bytes. It ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from threading import Thread
from typing import Any

import click

from mail_proxy.runtime.http_server import AddressInUse, HttpServer, listening_socket, new_event_loop
from mail_proxy.smtp.capture import SmtpCatcher

ASGIMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[ASGIMessage]]
Send = Callable[[ASGIMessage], Awaitable[None]]


def shared_count(descriptor: int) -> Callable[[int], None]:
    """Return a function that adds to a number in a file, which others read at any time."""
    os.ftruncate(descriptor, 8)
    view = mmap.mmap(descriptor, 8)
    total = 0

    def add(count: int) -> None:
        nonlocal total
        total += count
        view[:8] = total.to_bytes(8, "little")

    return add


async def sink(add: Callable[[int], None], host: str) -> None:
    """Take mail."""

    def caught(_sender: str, _recipients: tuple[str, ...], _content: bytes) -> None:
        add(1)

    async with SmtpCatcher(caught, host=host) as catcher:
        click.echo(catcher.port)
        await asyncio.Event().wait()


async def callback(add: Callable[[int], None], host: str) -> None:
    """Take reports."""

    async def application(_scope: ASGIMessage, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            part = await receive()
            body += part.get("body", b"")
            more = part.get("more_body", False)
        entries = json.loads(body)["delivery_report"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": b'{"ok": true}'})
        add(len(entries))

    listening = listening_socket(host, 0)
    click.echo(listening.getsockname()[1])
    await HttpServer(application, listening).run(lambda: None)


def _end_with_whoever_started_it() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    which, counted, address = sys.argv[1:]
    Thread(target=_end_with_whoever_started_it, daemon=True).start()
    loop = new_event_loop()
    try:
        loop.run_until_complete({"sink": sink, "callback": callback}[which](shared_count(int(counted)), address))
    except (OSError, AddressInUse):
        sys.exit(1)
