"""`mail-proxy NAME TENANT messages …`: what became of the tenant's mail, and what is done about it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from itertools import islice
from typing import Any

import click

from mail_proxy.cli.asking import confirm
from mail_proxy.cli.instances import InstanceError
from mail_proxy.cli.named.place import Reached, speaks
from mail_proxy.cli.named.tenants import of
from mail_proxy.cli.named.tree import AccountId, Commands
from mail_proxy.cli.options import AS_JSON, examples, forms
from mail_proxy.cli.showing import (
    Column,
    Form,
    in_local_time,
    moment,
    printable,
    show_fields,
    show_json,
    show_rows,
    shown_time,
)

ID = click.argument("message_id", metavar="ID")
IDS = click.argument("message_ids", metavar="[ID]…", nargs=-1)
ACCOUNT = click.option("--account", metavar="ID", type=AccountId(), help="By account.")
BATCH = click.option("--batch", metavar="CODE", help="By campaign.")
STATES = ("waiting", "sending", "sent", "failed", "expired", "cancelled")
SKIPPED = {
    "not_found": ("was not found", "were not found"),
    "not_failed": ("has not failed", "have not failed"),
    "cancelled": ("was cancelled", "were cancelled"),
    "expired": ("is too old: its expires_ts has passed", "are too old: their expires_ts has passed"),
    "no_account": ("has no account any more", "have no account any more"),
    "body_removed": ("has no body any more", "have no body any more"),
}
"""Why messages are not sent once more, of one and of several."""
FINISHED = "finished"
MISSED = ("failed", "expired")
OLDER_WORDS = ("pending", "deferred", "error")


def _recipients(row: Mapping[str, Any]) -> str:
    addresses = [each["address"] for each in row["recipients"]]
    more = f" and {len(addresses) - 2} more" if len(addresses) > 2 else ""
    return ", ".join(addresses[:2]) + more


COLUMNS = (
    Column("id"),
    Column("state", lambda row: row["status"] if row["status"] == "deferred" else row["state"]),
    Column("account", lambda row: row["account_id"]),
    Column("to", _recipients),
    Column("subject", lambda row: row["message"].get("subject") or row["message"].get("raw_subject")),
    moment("created", "created_ts"),
    Column("attempts"),
    Column("about", lambda row: row["error"] or row["deferred_reason"]),
)


@click.group(cls=Commands, short_help="List, show, explain, retry and delete messages.")
def messages() -> None:
    """Messages of the tenant."""


@messages.command(
    "list",
    short_help="List messages, newest first.",
    epilog=examples(
        "mail-proxy myserver acme messages list --status failed",
        "mail-proxy myserver acme messages list --batch newsletter-2026-07 --limit 10000 --csv > newsletter.csv",
    ),
)
@click.option(
    "--status", type=click.Choice([*STATES, *OLDER_WORDS]), help="By where they stand; error: failed, expired."
)
@ACCOUNT
@BATCH
@click.option("--recipient", metavar="TEXT", help="By part of a recipient's address.")
@click.option("--since", metavar="TIME", help="Accepted then or later: 2026-07-01, or -1d.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="How many at the most.")
@forms
@speaks
def list_messages(
    reached: Reached,
    *,
    status: str | None,
    account: str | None,
    batch: str | None,
    recipient: str | None,
    since: str | None,
    limit: int,
    form: Form,
) -> None:
    """List messages, newest first."""
    from mail_proxy.cli.times import point  # noqa: PLC0415

    found = reached.proxy.messages.list(
        account_id=account,
        batch_code=batch,
        page=min(limit, 1000),
        recipient=recipient,
        created_from=point(since, "--since"),
        **{"state" if status in STATES else "status": status},  # type: ignore[arg-type]
    )
    show_rows(islice(found, limit), COLUMNS, form, "There are no such messages.")


@messages.command(
    short_help="Show a message.",
    epilog=examples(
        "mail-proxy myserver acme messages show order-1042-confirmation",
        "mail-proxy myserver acme messages show order-1042-confirmation --history",
    ),
)
@ID
@click.option("--history", is_flag=True, help="What happened to it instead, oldest first.")
@AS_JSON
@speaks
def show(reached: Reached, message_id: str, *, history: bool, as_json: bool) -> None:
    """Show a message with the state of each recipient, or what happened to it."""
    with _known(reached, message_id):
        if not history:
            found = reached.proxy.messages.get(message_id)
            show_fields({name: value for name, value in found.items() if name != "ok"}, as_json=as_json)
            return
        events = reached.proxy.messages.history(message_id)
    columns = (
        moment("time", "ts"),
        Column("event", lambda row: row["type"]),
        moment("reported", "reported_ts"),
        Column("about", lambda row: about(row["report"] or {})),
    )
    show_rows(events, columns, Form.JSON if as_json else Form.LINES, "Nothing happened to it yet.")


@messages.command(
    short_help="Say why a message has not been sent yet.",
    epilog=examples("mail-proxy myserver acme messages explain order-1042-confirmation"),
)
@ID
@AS_JSON
@speaks
def explain(reached: Reached, message_id: str, *, as_json: bool) -> None:
    """Say in a sentence why a message has not been sent yet, or how it ended, and what holds it one by one."""
    with _known(reached, message_id):
        why = reached.proxy.messages.explain(message_id)
    if as_json:
        show_json({name: value for name, value in why.items() if name != "ok"})
        return
    click.echo(printable(in_local_time(why["sentence"])))
    for each in why["holds"]:
        if each["reason"] == FINISHED:  # the sentence says it
            continue
        until = "" if each["until"] is None else f", until {shown_time(each['until'])} at the earliest"
        since = "" if each["since"] is None else f", since {shown_time(each['since'])}"
        click.echo(f"  {each['reason']}: {printable(in_local_time(each['text']))}{since}{until}")
    if why["last_reply"]:
        attempts = f"{why['attempts']} attempt{'' if why['attempts'] == 1 else 's'}"
        click.echo(f"  Last word, after {attempts}: {printable(why['last_reply'])}")
    if any(each["reason"] == FINISHED for each in why["holds"]):
        _tell_who_missed_it(reached, message_id)
    if not reached.runs:
        click.echo(f"{reached.name} does not run: nothing is sent until it is started.", err=True)


def _tell_who_missed_it(reached: Reached, message_id: str) -> None:
    """Name the recipients who do not have a finished message, and say what can be done about it."""
    with _known(reached, message_id):
        message = reached.proxy.messages.get(message_id)
    missed = [each for each in message["recipients"] if each["state"] in MISSED]
    tell_recipients(missed)
    if missed and message["body_removed_ts"] is None:
        once_more = f"{reached.place} messages retry {shlex.quote(message_id)}"
        click.echo(f"To send it once more to whoever does not have it: {once_more}", err=True)


@messages.command(
    short_help="Send failed messages once more.",
    epilog=examples(
        "mail-proxy myserver acme messages retry order-1042-confirmation",
        "mail-proxy myserver acme messages retry --all --batch newsletter-2026-07",
    ),
)
@IDS
@click.option("--all", "everything", is_flag=True, help="All that failed or expired.")
@ACCOUNT
@BATCH
@speaks
def retry(
    reached: Reached, message_ids: tuple[str, ...], *, everything: bool, account: str | None, batch: str | None
) -> None:
    """Send messages that failed or expired once more, to those whom they did not reach."""
    matching = {"account_id": account, "batch_code": batch, "status": "error" if everything else None}
    filters = {name: value for name, value in matching.items() if value is not None}
    if bool(message_ids) == bool(filters):
        raise click.UsageError("say which: IDs, or --all, --account or --batch")
    queued, skipped, reasons = 0, 0, dict[str, int]()
    while True:
        answer = reached.proxy.messages.retry(*message_ids, **filters)
        queued, skipped = queued + answer["queued"], skipped + answer["skipped"]
        for reason, number in answer["reasons"].items():
            reasons[reason] = reasons.get(reason, 0) + number
        if answer["next_cursor"] is None:
            break
        filters["cursor"] = answer["next_cursor"]
    click.echo(f"{queued} {_are(queued)} in the queue again.")
    if skipped:
        raise InstanceError(f"{skipped} {_are(skipped)} not: {_why(reasons)}")


def _why(reasons: Mapping[str, int]) -> str:
    """Say for how many messages which reason holds; a word that is not known yet stands as it is."""
    subject = "it" if sum(reasons.values()) == 1 else None
    parts = []
    for reason, number in sorted(reasons.items()):
        one, several = SKIPPED.get(reason, (reason, reason))
        parts.append(f"{subject or number} {one if number == 1 else several}")
    return ", ".join(parts)


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


@messages.command(
    short_help="Cancel what waits, remove what is finished.",
    epilog=examples("mail-proxy myserver acme messages delete order-1042-confirmation"),
)
@click.argument("message_ids", metavar="ID…", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Without asking.")
@speaks
def delete(reached: Reached, message_ids: tuple[str, ...], *, force: bool) -> None:
    """Cancel messages that wait, and remove those that are finished; what is being sent stays as it is."""
    if not force:
        confirm(f"Delete {', '.join(message_ids[:3])}{' …' if len(message_ids) > 3 else ''} of {reached.tenant_id}?")
    answer = reached.proxy.messages.delete(*message_ids)
    click.echo(f"{answer['removed']} {_are(answer['removed'])} cancelled or gone.")
    problems = [
        f"{', '.join(answer[name])} {what}"  # type: ignore[literal-required]
        for name, what in (("not_found", "not found"), ("in_progress", "being sent at this moment"))
        if answer[name]  # type: ignore[literal-required]
    ]
    if problems:
        raise InstanceError("; ".join(problems))


@contextmanager
def _known(reached: Reached, message_id: str) -> Iterator[None]:
    """Say, where there is no such message, which one may be meant."""
    from mail_proxy.client import NotFound  # noqa: PLC0415 - takes a while

    try:
        yield
    except NotFound:
        of(reached, reached.tenant_id)
        recent = [each["id"] for each in islice(reached.proxy.messages.list(page=100), 100)]
        near = get_close_matches(message_id, recent, 1)
        hint = f"did you mean {near[0]}?" if near else f"{reached.place} messages list shows what there is"
        raise InstanceError(f"{reached.tenant_id} has no message {message_id}; {hint}") from None


def about(report: Mapping[str, Any]) -> str:
    """Say what an event's report tells beyond its name."""
    return "; ".join(_parts(report))


def _parts(report: Mapping[str, Any]) -> Iterator[str]:
    for name in ("error", "deferred_reason"):
        if report.get(name):
            yield str(report[name])
    if report.get("deferred_ts") is not None:
        yield f"again at {shown_time(report['deferred_ts'])}"
    refused = [each["address"] for each in report.get("recipients") or () if each["state"] in {"failed", "expired"}]
    if refused:
        yield f"not to {', '.join(refused)}"


def tell_recipients(recipients: Sequence[Mapping[str, Any]]) -> None:
    """Say of recipients what became of them, a line each."""
    for each in recipients:
        words = " ".join(str(part) for part in (each["code"], each["enhanced_code"], each["text"]) if part)
        click.echo(f"  {printable(each['address'])} {each['state']}: {printable(words) or 'no reason was given'}")
