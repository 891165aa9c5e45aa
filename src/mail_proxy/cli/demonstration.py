"""A whole instance for a few seconds: three messages, and what becomes of them, as it happens."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import click
from rich.console import Console
from rich.text import Text

import mail_proxy
from mail_proxy.api.application import create_app
from mail_proxy.api.composition import services_from
from mail_proxy.cli.serving import REFUSALS, run_in_fast_loop
from mail_proxy.outbound.client import OutboundClient, Request
from mail_proxy.outbound.guard import Trusted
from mail_proxy.runtime.app import App, open_app
from mail_proxy.runtime.http_server import HttpServer, listening_socket
from mail_proxy.runtime.logs import configure_logging
from mail_proxy.runtime.settings import Settings
from mail_proxy.secrets.tokens import new_token
from mail_proxy.smtp.capture import SmtpCatcher

DEFERRED_BY = 3.0
"""Seconds until the second message may go."""
GIVE_UP = 25.0
"""Seconds after which the demo ends even if something is missing; its exit code says so."""
REFUSED = "nobody@example.net"
MESSAGES = ("plain", "later", "mixed")

COLOURS = {
    "queued": "cyan",
    "deferred": "yellow",
    "caught": "blue",
    "sent": "green",
    "failed": "red",
    "reported": "magenta",
}


@dataclass(slots=True)
class Timeline:
    """What has happened, line by line: milliseconds since the first message, what, which message, and details."""

    console: Console
    began: float = 0.0
    reported: dict[str, set[str]] = field(default_factory=dict)
    """Types of events that were reported, for each message."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the end of every message was reported."""

    def tell(self, what: str, message_id: str, details: str) -> None:
        """Add a line: in colour on a terminal, plain in a pipe."""
        ms = (time.monotonic() - self.began) * 1000
        line = Text(f"{ms:8.0f} ms  ")
        line.append(f"{what:<9}", COLOURS.get(what, ""))
        line.append(f"  {message_id:<9}", "bold")
        line.append(f"  {details}")
        self.console.print(line, soft_wrap=True)

    def note(self, message_id: str, event: str) -> None:
        """Take note of an event that was reported."""
        self.reported.setdefault(message_id, set()).add(event)
        if all("sent" in self.reported.get(each, ()) for each in MESSAGES):
            self.ended.set()


def demo() -> int:
    """Run the demo; return the exit code, 0 when everything came out as it should."""
    configure_logging("error", stream=sys.stderr)
    timeline = Timeline(Console(highlight=False, color_system="auto" if sys.stdout.isatty() else None))
    try:
        with tempfile.TemporaryDirectory(prefix="mail-proxy-demo-") as folder:
            run_in_fast_loop(partial(_run, timeline, Path(folder)))
    except REFUSALS as error:
        click.echo(f"mail-proxy: {error}", err=True)
        return 1
    except KeyboardInterrupt:
        return 130
    if not timeline.ended.is_set():
        click.echo(f"mail-proxy: not everything was reported within {GIVE_UP:.0f} seconds", err=True)
        return 1
    return 0


async def _run(timeline: Timeline, folder: Path) -> None:
    def caught(_sender: str, recipients: tuple[str, ...], content: bytes) -> None:
        timeline.tell("caught", _mail_id(content), f"by the mail server, for {', '.join(recipients)}")

    def refusals(address: str) -> tuple[int, str] | None:
        return (550, "5.1.1 no such user here") if address == REFUSED else None

    token = new_token()
    settings = Settings.load({"GMP_API_TOKEN": token, "GMP_DB_PATH": str(folder / "demo.db"), "GMP_PORT": "0"})
    listening, callback = listening_socket("127.0.0.1", 0), listening_socket("127.0.0.1", 0)
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    callback_address = f"http://127.0.0.1:{callback.getsockname()[1]}"
    async with SmtpCatcher(caught, refusals) as catcher, open_app(settings, address) as app:
        api = HttpServer(create_app(services_from(app)), listening)
        receiver = HttpServer(_receiver(timeline), callback)
        app.supervisor.add("http", api.run)
        app.supervisor.add("callback receiver", receiver.run)
        async with anyio.create_task_group() as group:
            group.start_soon(app.run, name="instance")
            await app.supervisor.started()
            try:
                async with OutboundClient(Trusted()) as http:
                    client = _Client(http, address, token)
                    await _set_up(timeline, client, catcher.port, callback_address, folder)
                    await _send(timeline, client)
                    with anyio.move_on_after(GIVE_UP):
                        await _follow(timeline, client)
                _conclude(timeline, app)
            finally:
                app.stop()
                api.stop()
                receiver.stop()


@dataclass(frozen=True, slots=True)
class _Client:
    http: OutboundClient
    address: str
    token: str

    async def post(self, path: str, body: object) -> dict[str, Any]:
        """POST JSON and return the answer's; raises `RuntimeError` for anything but success."""
        return await self._ask("POST", path, json.dumps(body).encode())

    async def get(self, path: str) -> dict[str, Any]:
        """GET JSON; raises `RuntimeError` for anything but success."""
        return await self._ask("GET", path, None)

    async def _ask(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        headers = (("X-API-Token", self.token), ("Content-Type", "application/json"))
        response = await self.http.request(Request(method, self.address + path, 10.0, 1_000_000, headers, body))
        if response.status != 200:
            raise RuntimeError(f"{path} answered {response.status}: {response.body.decode(errors='replace')}")
        answer: dict[str, Any] = json.loads(response.body)
        return answer


async def _set_up(timeline: Timeline, client: _Client, smtp_port: int, callback: str, folder: Path) -> None:
    await client.post("/tenant", {"id": "acme", "name": "ACME Corp", "client_base_url": callback})
    await client.post("/account", {"id": "main", "tenant_id": "acme", "host": "127.0.0.1", "port": smtp_port})
    say = partial(timeline.console.print, soft_wrap=True)
    say(f"The instance listens on [bold]{client.address}[/], its database is {folder / 'demo.db'}.")
    say(f"Tenant [bold]acme[/] has the account [bold]main[/] at the mail server 127.0.0.1:{smtp_port},")
    say(f"and wants its reports at {callback}/mail-proxy/sync.\n")


async def _send(timeline: Timeline, client: _Client) -> None:
    common = {"from": "ACME <shop@example.com>", "body": "Hello from the demo.\n"}
    messages: list[dict[str, object]] = [
        {"id": "plain", "to": ["ann@example.net"], "subject": "A plain message"},
        {
            "id": "later",
            "to": ["bob@example.net"],
            "subject": "One that waits",
            "deferred_ts": round(time.time() + DEFERRED_BY, 3),
        },
        {"id": "mixed", "to": ["eve@example.net", REFUSED], "subject": "One good, one refused recipient"},
    ]
    timeline.began = time.monotonic()
    receipt = await client.post("/commands/add-messages", {"messages": [{**common, **each} for each in messages]})
    timeline.tell("queued", "", f"{receipt['queued']} messages are on disk, and the application goes on")
    timeline.tell("deferred", "later", f"as asked, by {DEFERRED_BY:.0f} s")


async def _follow(timeline: Timeline, client: _Client) -> None:
    """Watch the messages' histories, as an application would, until the end of each was reported."""
    shown: set[int] = set()
    while not timeline.ended.is_set():
        for message_id in MESSAGES:
            history = await client.get(f"/messages/{message_id}/events?tenant_id=acme")
            for event in history["events"]:
                if event["event_id"] is not None and event["event_id"] not in shown:
                    shown.add(event["event_id"])
                    _tell_recipients(timeline, message_id, event)
        with anyio.move_on_after(0.02):
            await timeline.ended.wait()


def _tell_recipients(timeline: Timeline, message_id: str, event: dict[str, Any]) -> None:
    for recipient in event["report"]["recipients"]:
        words = [str(recipient["code"] or ""), recipient["enhanced_code"] or "", recipient["text"] or ""]
        said = " ".join(filter(None, words))
        timeline.tell(recipient["state"], message_id, f"to {recipient['address']}: {said}")


ASGIMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[ASGIMessage]]
Send = Callable[[ASGIMessage], Awaitable[None]]


def _receiver(timeline: Timeline) -> Callable[[ASGIMessage, Receive, Send], Awaitable[None]]:
    """Return an endpoint for reports as a tenant has one: it takes note and acknowledges."""

    async def receive_report(_scope: ASGIMessage, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            part = await receive()
            body += part.get("body", b"")
            more = part.get("more_body", False)
        for entry in json.loads(body)["delivery_report"]:
            timeline.tell("reported", entry["id"], f"to the tenant as '{entry['event']}', event {entry['event_id']}")
            timeline.note(entry["id"], entry["event"])
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"ok": true}'})

    return receive_report


def shown_command() -> str:
    """Return this command as it can be typed where it was started."""
    command = Path(sys.argv[0])
    if shutil.which(command.name) == str(command):
        return command.name
    return str(command.relative_to(Path.cwd()) if command.is_relative_to(Path.cwd()) else command)


def _mail_id(content: bytes) -> str:
    for line in content.split(b"\r\n"):
        name, _, value = line.partition(b": ")
        if name == b"X-Genro-Mail-ID":
            return value.decode()
    return "?"


def first_message(package: Path) -> str:
    """Return where a reader of this package finds the commands: an installed one comes without README.md."""
    return "README.md" if (package.parent.parent / "README.md").is_file() else "on the same page"


def _conclude(timeline: Timeline, app: App) -> None:
    say = partial(timeline.console.print, soft_wrap=True)
    metrics = app.meter.render().decode()
    counts = [line for line in metrics.splitlines() if line.startswith(("gmp_sent_total", "gmp_errors_total"))]
    say("\nThe instance's own metrics:")
    for line in counts:
        say(Text(f"  {line}"))
    say("\n[bold]What next[/]")
    say("  An instance that stays, with its files in a folder of its own:")
    say(Text(f"    GMP_API_TOKEN=change-me GMP_DATA_DIR=/tmp/mail-proxy {shown_command()} serve"))
    say("  Its API, to try in the browser: http://127.0.0.1:8000/docs")
    say(f"  The first message with curl: {first_message(Path(mail_proxy.__file__).parent)}")
