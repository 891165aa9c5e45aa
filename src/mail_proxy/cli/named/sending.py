"""`mail-proxy NAME TENANT send` and `watch`: a message on its way, and all that happens."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email import message_from_bytes
from email.policy import default as modern
from pathlib import Path
from typing import Any
from uuid import uuid4

import click

from mail_proxy.cli.instances import InstanceError
from mail_proxy.cli.named.accounts import default_of
from mail_proxy.cli.named.messages import about, tell_recipients
from mail_proxy.cli.named.place import Reached, shown_field, speaks
from mail_proxy.cli.named.tree import AccountId
from mail_proxy.cli.options import AS_JSON, examples
from mail_proxy.cli.showing import console, in_local_time, printable, show_json, shown_time
from mail_proxy.cli.told import complain

PRIORITIES = ("immediate", "high", "medium", "low")
ENDS = frozenset(("sent", "failed", "expired", "cancelled"))
COLOURS = {"sent": "green", "deferred": "yellow", "failed": "red", "expired": "red", "uncertain": "yellow"}
WAIT = 20.0
"""Seconds that a look for events waits where there is none."""
SILENCE = 3.0
"""Seconds after which it is told why a message is not sent yet."""
MOVING = frozenset(("finished", "being_sent", "batch_activated"))
"""Reasons that mean that it is on its way."""


@click.command(
    short_help="Send a complete message from a file.",
    epilog=examples(
        "mail-proxy myserver acme send letter.eml --wait",
        "mail-proxy myserver acme send letter.eml --at +1h --priority low",
        "cat letter.eml | mail-proxy myserver acme send - --to anna@example.org",
    ),
)
@click.argument("file", metavar="FILE.eml", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--id", "message_id", metavar="ID", help="Its id, under which it is taken once; default: a new one.")
@click.option("--from", "sender", metavar="ADDRESS", help="The sender instead of the one that the message names.")
@click.option("--to", "recipients", metavar="ADDRESS", multiple=True, help="A recipient instead of those it names.")
@click.option("--account", metavar="ID", type=AccountId(), help="The account that sends it.")
@click.option("--priority", type=click.Choice(PRIORITIES), help="How urgent it is. [default: medium]")
@click.option("--batch", metavar="CODE", help="The campaign it belongs to.")
@click.option("--at", metavar="TIME", help="Not before then: +10m, 2026-07-01T12:00:00Z.")
@click.option("--wait", is_flag=True, help="Follow it to its end; exit code 1 where somebody did not get it.")
@AS_JSON
@speaks
def send(  # noqa: PLR0913 - its options
    reached: Reached,
    *,
    file: str,
    message_id: str | None,
    sender: str | None,
    recipients: tuple[str, ...],
    account: str | None,
    priority: str | None,
    batch: str | None,
    at: str | None,
    wait: bool,
    as_json: bool,
) -> int:
    """Send the bytes of a file as they are: From, To, Cc and Bcc say from whom and to whom, and Bcc is taken out."""
    from mail_proxy.cli.times import point  # noqa: PLC0415

    fields: dict[str, Any] = {
        "id": message_id or uuid4().hex,
        "account_id": account,
        "priority": priority,
        "batch_code": batch,
        "deferred_ts": point(at, "--at"),
    }
    _warn_of_past(fields["deferred_ts"])
    message = _submission(file, sender, recipients, {name: each for name, each in fields.items() if each is not None})
    cursor = reached.proxy.events.page("latest", limit=1)["next_cursor"] if wait else None
    receipt = reached.proxy.messages.add(message, strict=False)
    if receipt["rejected"]:
        refused = receipt["rejected"][0]
        hint = f"; say --account ID, or choose one: {default_of(reached)}" if _needs_default(refused) else ""
        raise InstanceError(f"{file} is not taken: {shown_field(refused['field'] or '')}: {refused['reason']}{hint}")
    id_ = message["id"]
    if as_json and not wait:
        known = {"duplicate": bool(receipt["duplicates"]), "replaced": bool(receipt["replaced"])}
        show_json({"id": id_, "queued": receipt["queued"], **known})
    elif not as_json:
        became = "known already" if receipt["duplicates"] else "replaced" if receipt["replaced"] else "queued"
        click.echo(f"{printable(id_)} is {became}.")
    if not reached.runs and reached.place.database is None:
        click.echo(f"{reached.name} does not run: other instances on its database may send it.", err=True)
    elif not reached.runs:
        click.echo(f"{reached.name} does not run: it is sent once that is started.", err=True)
        return 1 if wait else 0
    if not wait:
        return 0
    with _progress(as_json=as_json) as tell:
        end = _follow(reached, id_, cursor, tell, time.monotonic() + SILENCE)
    return _tell_end(end, as_json=as_json)


@click.command(
    short_help="Show what happens, as it happens.",
    epilog=examples(
        "mail-proxy myserver acme watch", "mail-proxy myserver acme watch --json | jq 'select(.event == \"failed\")'"
    ),
)
@click.option("--all", "from_start", is_flag=True, help="Begin with what has happened already.")
@click.option("--json", "as_json", is_flag=True, help="An event a line, as JSON.")
@speaks
def watch(reached: Reached, *, from_start: bool, as_json: bool) -> None:
    """Show the tenant's events as they happen, until Ctrl-C."""
    reached.must_run("so that nothing happens")
    after = None if from_start else "latest"
    if not as_json and sys.stdout.isatty():
        click.echo(f"Watching {reached.tenant_id}; Ctrl-C ends it.", err=True)
    for event in reached.proxy.events.follow(after):
        if as_json:
            import json  # noqa: PLC0415

            click.echo(json.dumps(event))
        else:
            click.echo(_line(event))
        sys.stdout.flush()


def _submission(
    file: str, sender: str | None, recipients: tuple[str, ...], fields: Mapping[str, Any]
) -> dict[str, Any]:
    from mail_proxy.client.complete import recipients_of, sender_of, submission  # noqa: PLC0415 - takes a while

    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise InstanceError(f"{file} cannot be read: {error.strerror}") from None
    head = message_from_bytes(content.partition(b"\r\n\r\n")[0].partition(b"\n\n")[0] + b"\n\n", policy=modern)
    from_whom, to_whom = sender or sender_of(head), list(recipients) or recipients_of(head)
    if not from_whom:
        raise InstanceError(f"{file} has no From: say --from ADDRESS")
    if not to_whom:
        raise InstanceError(f"{file} has no To, Cc or Bcc: say --to ADDRESS")
    return submission(content, from_whom, to_whom, **fields)


def _warn_of_past(at: float | None) -> None:
    if at is not None and at < time.time():
        complain(f"--at: {shown_time(at)} is past: it goes out at once")


def _needs_default(refused: Mapping[str, Any]) -> bool:
    """Say whether there are accounts, of which none is the default."""
    return refused["code"] == "no_default_account" and str(refused["reason"]).startswith("is required")


def _follow(
    reached: Reached,
    id_: str,
    after: str | None,
    tell: Any,  # noqa: ANN401 - see `_progress`
    explain_at: float,
) -> Mapping[str, Any]:
    """Go through the tenant's events until the message has ended; return it.

    From a time on (monotonic) it tells once what holds the message.
    """
    explained = False
    while True:
        message = reached.proxy.messages.get(id_)
        if message["state"] in ENDS:
            return message
        tell(message)
        left = explain_at - time.monotonic()
        if not explained and left <= 0:
            explained = _tell_why(reached, id_)
        wait = WAIT if explained else min(max(left, 1.0), WAIT)
        if not reached.runs:  # nobody tells this process what others do
            wait = 1.0
        page = reached.proxy.events.page(after, limit=1000, wait=wait)
        after = page["next_cursor"]
        for event in page["events"]:
            if event.get("id") == id_:
                tell(event)


def _tell_why(reached: Reached, id_: str) -> bool:
    """Say on stderr what holds a message; False where nothing does."""
    why = reached.proxy.messages.explain(id_)
    if any(each["reason"] in MOVING for each in why["holds"]):
        return False
    click.echo(f"It waits: {printable(in_local_time(why['sentence']))} Ctrl-C ends the waiting.", err=True)
    return True


@contextmanager
def _progress(*, as_json: bool) -> Iterator[Any]:
    """Yield what tells where a message stands: in a line that moves on a terminal, a line an event in a pipe."""
    began = time.monotonic()

    def line(what: Mapping[str, Any]) -> str:
        word = str(what.get("event") or what.get("state"))
        more = about(what) or str(what.get("deferred_reason") or "")
        return printable(f"{word}{': ' if more else ''}{more}")

    if as_json:
        yield lambda _what: None
    elif not sys.stderr.isatty():
        yield lambda what: click.echo(line(what), err=True) if "event" in what else None
    else:
        from rich.text import Text  # noqa: PLC0415 - takes a while

        with console(stderr=True).status(Text("waiting")) as status:
            yield lambda what: status.update(Text(f"{line(what)}  ({time.monotonic() - began:.0f} s)"))


def _tell_end(message: Mapping[str, Any], *, as_json: bool) -> int:
    """Say how a message has ended; return the exit code."""
    reached_all = all(each["state"] == "sent" for each in message["recipients"])
    if as_json:
        show_json({name: value for name, value in message.items() if name != "ok"})
        return 0 if reached_all else 1
    seconds = (message["sent_ts"] or message["error_ts"] or message["created_ts"]) - message["created_ts"]
    state = click.style(message["state"], fg=COLOURS.get(message["state"]))
    reason = f": {printable(message['error'])}" if message["error"] else ""
    click.echo(f"{printable(message['id'])} is {state} after {seconds:.1f} s{reason}")
    tell_recipients([each for each in message["recipients"] if each["state"] != "sent"])
    return 0 if reached_all else 1


def _line(event: Mapping[str, Any]) -> str:
    """Write an event in one line."""
    ts = next((event[name] for name in ("sent_ts", "error_ts", "uncertain_ts") if event.get(name)), None)
    when = shown_time(time.time() if ts is None else ts)
    word = str(event.get("event"))
    to = ", ".join(each["address"] for each in (event.get("recipients") or ())[:2])
    more = about(event)
    styled = click.style(f"{word:<9}", fg=COLOURS.get(word))
    return (
        f"{when}  {styled}  {printable(str(event.get('id')))}  {printable(to)}{'  ' if more else ''}{printable(more)}"
    )
