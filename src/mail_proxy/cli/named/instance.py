"""`mail-proxy NAME COMMAND`: the instance as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from mail_proxy.cli.instances import InstanceError
from mail_proxy.cli.named.place import Reached, current_place, speaks, token_of
from mail_proxy.cli.options import AS_JSON, examples, forms
from mail_proxy.cli.showing import Column, Form, moment, show_fields, show_rows
from mail_proxy.cli.told import told

if TYPE_CHECKING:
    from mail_proxy.client import MailProxyClient


@click.command(
    short_help="Show the instance.",
    epilog=examples("mail-proxy myserver info", "mail-proxy myserver info --json"),
)
@AS_JSON
@speaks
def info(reached: Reached, *, as_json: bool) -> None:
    """Show what the instance is, whether it runs and sends, and what is wrong: accounts on hold, servers left alone."""
    chosen = reached.place.instance
    running = chosen.running() if reached.runs else None
    about = dict(reached.proxy.status())
    about.pop("ok", None)
    if not reached.runs:  # what it would say of itself while it runs
        for name in ("loops", "uptime_seconds", "servers_left_alone", "workers", "oldest_waiting_ts"):
            about.pop(name, None)
    fields = {
        "name": chosen.name,
        "state": "running" if reached.runs else "stopped",
        "address": None if running is None else running.address,
        "pid": None if running is None else running.pid,
        "folder": str(chosen.folder),
        **about,
        "tenants": len(reached.proxy.tenants.list()),
    }
    show_fields(fields, as_json=as_json)


@click.command(
    short_help="Show each tenant in numbers.",
    epilog=examples("mail-proxy myserver stats", "mail-proxy myserver stats --csv > tenants.csv"),
)
@forms
@speaks
def stats(reached: Reached, *, form: Form) -> None:
    """Show each tenant in numbers: accounts, messages that are not finished, events that are not reported, failures.

    Messages are exact below 10 000, events are counted up to 1000: also those of a tenant without an endpoint, to which
    nothing is reported.
    """
    columns = (
        Column("tenant"),
        Column("active"),
        Column("suspended"),
        Column("accounts"),
        Column("on_hold"),
        Column("pending_messages"),
        Column("pending_events"),
        moment("last_report", "last_report_ts"),
        Column("failures"),
        Column("last_error"),
    )
    show_rows(numbers(reached.proxy), columns, form, f"{reached.name} has no tenants yet.")


def numbers(proxy: MailProxyClient) -> Iterator[Mapping[str, Any]]:
    """Go through all tenants in numbers."""
    reporting = {each["tenant_id"]: each for each in proxy.tenants.reporting()}
    for tenant in proxy.tenants.list():
        of_tenant = proxy.of_tenant(tenant["id"])
        accounts, how = of_tenant.accounts.list(), reporting.get(tenant["id"])
        yield {
            "tenant": tenant["id"],
            "active": tenant["active"],
            "suspended": tenant["suspended"] or tenant["suspended_batches"],
            "accounts": len(accounts),
            "on_hold": sum(each["hold"] is not None for each in accounts),
            "pending_messages": of_tenant.status()["pending_messages"],
            "pending_events": None if how is None else how["pending_events"],
            "last_report_ts": None if how is None else how["last_sync_ts"],
            "failures": None if how is None else how["consecutive_failures"],
            "last_error": None if how is None else how["last_error"],
        }


@click.command(
    short_help="Show the admin token, or make a new one.",
    epilog=examples(
        "mail-proxy myserver token",
        'curl -H "X-API-Token: $(mail-proxy myserver token)" http://127.0.0.1:8000/status',
        "mail-proxy myserver token --regenerate",
    ),
)
@click.option("--regenerate", is_flag=True, help="Make a new one; the old one ends at once.")
def token(*, regenerate: bool) -> None:
    """Show the admin token, alone on a line. It is in the instance's config.toml."""
    (_new_token if regenerate else _token)()


@told
def _token() -> None:
    click.echo(token_of(current_place().instance))


@speaks
def _new_token(reached: Reached) -> None:
    made = reached.proxy.new_token()
    click.echo(made)
    click.echo("It counts from now on, and is in config.toml; the old one does not any more.", err=True)


@click.command(
    "run-now",
    short_help="Look at once for what is due.",
    epilog=examples("mail-proxy myserver run-now", "mail-proxy myserver acme run-now"),
)
@speaks
def run_now(reached: Reached) -> None:
    """Have the instance look at once for what is due, to send and to report, instead of at its next turn.

    What is due later stays so. For a tenant, it also ends the time in which that wants no empty reports.
    """
    reached.must_run("and sends nothing")
    reached.proxy.run_now()
    click.echo("It is looking.")


@click.group("command-log", short_help="Who asked for which change.")
def command_log() -> None:
    """Show who asked for which change, when, and what came of it: docs/api.md tells what is in an entry."""


SINCE = click.option("--since", metavar="TIME", help="From then on: 2026-07-01, 2026-07-01T12:00:00Z, or -7d.")
UNTIL = click.option("--until", metavar="TIME", help="Before then.")
OF_TENANT = click.option("--tenant", metavar="ID", help="About that tenant.")


@command_log.command(
    "list",
    short_help="List entries, newest first.",
    epilog=examples(
        "mail-proxy myserver command-log list",
        "mail-proxy myserver command-log list --tenant acme --since -7d --method DELETE",
    ),
)
@SINCE
@UNTIL
@OF_TENANT
@click.option("--method", type=click.Choice(["POST", "PUT", "DELETE"]), help="By method.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="How many at the most.")
@forms
@speaks
def list_entries(
    reached: Reached,
    *,
    since: str | None,
    until: str | None,
    tenant: str | None,
    method: str | None,
    limit: int,
    form: Form,
) -> None:
    """List calls that may have changed something, newest first."""
    from itertools import islice  # noqa: PLC0415

    from mail_proxy.cli.times import point  # noqa: PLC0415

    entries = reached.proxy.command_log.list(
        page=min(limit, 1000),
        tenant_id=tenant,
        method=method,
        since=point(since, "--since"),
        until=point(until, "--until"),
    )
    columns = (
        moment("time", "ts"),
        Column("caller", lambda row: row["caller"] if row["caller"] == "admin" else row["tenant_id"]),
        Column("tenant", lambda row: row["tenant_id"]),
        Column("method"),
        Column("route"),
        Column("about", lambda row: [*row["path"].values(), *((row["payload"] or {}).get("ids") or ())]),
        Column("status"),
        Column("code"),
        Column("address"),
    )
    show_rows(islice(entries, limit), columns, form, "There is nothing of that kind in the command log.")


@command_log.command(
    short_help="Write all entries as JSON lines, oldest first.",
    epilog=examples(
        "mail-proxy myserver command-log export log.ndjson",
        "mail-proxy myserver command-log export --since -1d | jq .route",
    ),
)
@click.argument("file", metavar="[FILE]", type=click.Path(dir_okay=False), default="-")
@SINCE
@UNTIL
@OF_TENANT
@speaks
def export(reached: Reached, *, file: str, since: str | None, until: str | None, tenant: str | None) -> None:
    """Write entries as JSON lines, oldest first, to a file or to stdout. A file is there when it is whole."""
    from mail_proxy.cli.files import written_whole  # noqa: PLC0415
    from mail_proxy.cli.times import point  # noqa: PLC0415

    lines = reached.proxy.command_log.export(
        tenant_id=tenant, since=point(since, "--since"), until=point(until, "--until")
    )
    number = 0
    with written_whole(file) as out:
        for line in lines:
            out.write(line + b"\n")
            number += 1
    click.echo(f"{number} entries" + ("" if file == "-" else f" are in {file}."), err=True)


@command_log.command(
    short_help="Remove old entries.",
    epilog=examples("mail-proxy myserver command-log purge --until -30d"),
)
@click.option("--until", required=True, metavar="TIME", help="Remove what is from before then: 2026-07-01, -30d.")
@click.option("--force", is_flag=True, help="Without asking.")
@speaks
def purge(reached: Reached, *, until: str, force: bool) -> None:
    """Remove entries from before a time, before their retention has passed. That it was done is in the log as well."""
    from mail_proxy.cli.asking import confirm  # noqa: PLC0415
    from mail_proxy.cli.showing import shown_time  # noqa: PLC0415
    from mail_proxy.cli.times import point  # noqa: PLC0415

    before = point(until, "--until")
    if before is None:
        raise InstanceError("--until: give a time")
    if not force:
        confirm(f"Remove what {reached.name} has logged before {shown_time(before)}?")
    click.echo(f"{reached.proxy.command_log.purge(before)} entries are gone.")
