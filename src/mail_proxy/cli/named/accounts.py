"""`mail-proxy NAME TENANT accounts …`: SMTP accounts of a tenant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

import click

from mail_proxy.cli.asking import Question, ask, confirm, secret_of, somebody_is_there, summary
from mail_proxy.cli.instances import InstanceError
from mail_proxy.cli.named.fields import checker, given, number
from mail_proxy.cli.named.place import Reached, speaks
from mail_proxy.cli.named.tree import AccountId, Commands
from mail_proxy.cli.options import AS_JSON, examples, forms
from mail_proxy.cli.showing import Column, Form, show_fields, show_json, show_rows

ID = click.argument("account_id", metavar="ID", type=AccountId())
TLS = ("auto", "starttls", "implicit", "none")
BEHAVIOURS = ("defer", "reject")
COLUMNS = (
    Column("id"),
    Column("host"),
    Column("port"),
    Column("user"),
    Column("tls"),
    Column("is_default"),
    Column("per_minute", lambda row: row["limit_per_minute"]),
    Column("per_hour", lambda row: row["limit_per_hour"]),
    Column("per_day", lambda row: row["limit_per_day"]),
    Column("hold", lambda row: (row["hold"] or row["server"] or {}).get("reason")),
)


@click.group(cls=Commands, short_help="List, make, change, test and remove SMTP accounts.")
def accounts() -> None:
    """SMTP accounts of the tenant: the servers that take its mail."""


@accounts.command("list", short_help="List accounts.", epilog=examples("mail-proxy myserver acme accounts list"))
@forms
@speaks
def list_accounts(reached: Reached, *, form: Form) -> None:
    """List accounts, oldest first; `hold` says why one is not used for now."""
    hint = f"{reached.tenant_id} has no accounts yet: {reached.place} accounts add"
    show_rows(reached.proxy.accounts.list(), COLUMNS, form, hint)


@accounts.command(short_help="Show an account.", epilog=examples("mail-proxy myserver acme accounts show main"))
@ID
@AS_JSON
@speaks
def show(reached: Reached, account_id: str, *, as_json: bool) -> None:
    """Show an account's settings, secrets left out."""
    found = _of(reached, account_id)
    show_fields({name: value for name, value in found.items() if name != "ok"}, as_json=as_json)


def settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that changes an account the options that are its settings."""
    return _settings(command, lambda _value: "")


def new_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that makes an account the same options, with their defaults."""
    return _settings(command, lambda value: f" [default: {value}]")


def _settings(command: Callable[..., None], default: Callable[[str], str]) -> Callable[..., None]:
    for option in reversed(
        (
            click.option("--host", help="Name or address of the SMTP server."),
            click.option("--port", type=int, help=f"Its port.{default('587')}"),
            click.option("--user", help="User for the login; '' for none."),
            click.option("--password", help="Password for the login; - reads it from stdin."),
            click.option("--tls", type=click.Choice(TLS), help=f"How the connection is encrypted.{default('auto')}"),
            click.option("--limit-minute", type=int, metavar="N", help="Transactions in any minute; 0: no limit."),
            click.option("--limit-hour", type=int, metavar="N", help="Transactions in any hour; 0: no limit."),
            click.option("--limit-day", type=int, metavar="N", help="Transactions in any day; 0: no limit."),
            click.option(
                "--limit-behavior",
                type=click.Choice(BEHAVIOURS),
                help=f"Beyond a limit: wait, or fail.{default('defer')}",
            ),
            click.option("--batch-size", type=int, metavar="N", help="Messages taken up at a time, at the most."),
            click.option(
                "--ttl", type=float, metavar="SECONDS", help=f"How long an idle session is kept.{default('300')}"
            ),
            click.option("--max-connections", type=int, metavar="N", help="Sessions at a time."),
            click.option("--fallback", metavar="ID", type=AccountId(), help="The account that takes its place."),
            click.option(
                "--default", "is_default", is_flag=True, default=None, help="For messages that name no account."
            ),
        )
    ):
        command = option(command)
    return command


@accounts.command(
    short_help="Make an account.",
    epilog=examples(
        "mail-proxy myserver acme accounts add",
        "mail-proxy myserver acme accounts add main --host smtp.acme.com --port 587 --user mailer --password -",
    ),
)
@click.argument("account_id", metavar="[ID]", required=False)
@new_settings
@AS_JSON
@speaks
def add(reached: Reached, /, account_id: str | None, *, as_json: bool, **options: Any) -> None:  # noqa: ANN401 - see `settings`
    """Make an SMTP account. Without an ID, it is asked for on a terminal."""
    fields = _fields(options)
    if account_id is None:
        if not somebody_is_there() or as_json:
            raise click.UsageError("Missing argument 'ID'")
        form(reached, fields)
        return
    if account_id in _ids(reached):
        raise InstanceError(f"there is an account {account_id} already; accounts update {account_id} changes it")
    if "host" not in fields:
        raise click.UsageError("Missing option '--host'")
    reached.proxy.accounts.put(account_id, **{"port": 587, **fields})
    if as_json:
        show_json({"id": account_id, "tenant_id": reached.tenant_id})
        return
    click.echo(f"{account_id} is made.")
    click.echo(f"Try it: {reached.place} accounts test {account_id}", err=True)
    _tell_of_default(reached)


@accounts.command(
    short_help="Change an account.",
    epilog=examples("mail-proxy myserver acme accounts update main --limit-hour 500"),
)
@ID
@settings
@speaks
def update(reached: Reached, /, account_id: str, **options: Any) -> None:  # noqa: ANN401 - see `settings`
    """Change an account: what is left out stays. With a new host or port the password has to be given anew."""
    fields = _fields(options)
    if not fields:
        raise click.UsageError("say what to change: accounts update --help lists it")
    _of(reached, account_id)
    reached.proxy.accounts.put(account_id, **fields)
    click.echo(f"{account_id} is changed.")


@accounts.command(short_help="Connect and log in.", epilog=examples("mail-proxy myserver acme accounts test main"))
@ID
@AS_JSON
@speaks
def test(reached: Reached, account_id: str, *, as_json: bool) -> int:
    """Connect and log in, without a message, and say how far that came. Exit code 1 where it did not get through."""
    _of(reached, account_id)
    if as_json:
        tested = reached.proxy.accounts.test(account_id)
        show_json(tested)
        return 0 if tested["ok"] else 1
    return _tell_test(reached, account_id)


@accounts.command(short_help="Remove an account.", epilog=examples("mail-proxy myserver acme accounts delete main"))
@ID
@click.option("--force", is_flag=True, help="Without asking; messages that wait for it are cancelled.")
@speaks
def delete(reached: Reached, account_id: str, *, force: bool) -> None:
    """Remove an account. Refused while messages wait for it."""
    gone = _of(reached, account_id)
    if not force:
        cancels = "cancels the messages that wait for it"
        confirm(f"Remove the account {account_id} of {reached.tenant_id}?", force_also=cancels)
    reached.proxy.accounts.delete(account_id, force=force)
    click.echo(f"{account_id} is removed.")
    if gone["is_default"]:
        _tell_of_default(reached)


def form(reached: Reached, fields: Mapping[str, object] | None = None) -> str:
    """Ask for an account, make it, offer a test; return its id. `fields` are not asked for. Raises `click.Abort`."""
    answers = _asked_for(reached, fields or {})
    account_id = str(answers.pop("id"))
    reached.proxy.accounts.put(account_id, **answers)
    click.echo(f"{account_id} is made.")
    _tell_of_default(reached)
    if click.confirm("Try it: connect and log in, without a message?", default=True):
        _tell_test(reached, account_id)
    return account_id


def _tell_of_default(reached: Reached) -> None:
    """Say what it means that none of several accounts is the default."""
    there = reached.proxy.accounts.list()
    if len(there) > 1 and not any(each["is_default"] for each in there):
        click.echo(
            f"None of the {len(there)} accounts of {reached.tenant_id} is the default: messages that name no account "
            f"are not taken. To choose one: {default_of(reached)}",
            err=True,
        )


def default_of(reached: Reached) -> str:
    """Return the command that makes an account the one for messages that name none."""
    return f"{reached.place} accounts update ID --default"


def _tell_test(reached: Reached, account_id: str) -> int:
    from mail_proxy.cli.showing import printable  # noqa: PLC0415

    tested = reached.proxy.accounts.test(account_id)
    if tested["ok"]:
        steps = ", ".join(tested["steps"] or ())
        click.echo(f"{click.style('It works', fg='green')}: {printable(steps)}.")
        return 0
    click.echo(f"{click.style('It does not work', fg='red')}: {printable(tested['error'] or 'no reason was given')}")
    return 1


def _ids(reached: Reached) -> list[str]:
    return [each["id"] for each in reached.proxy.accounts.list()]


def _of(reached: Reached, account_id: str) -> Mapping[str, Any]:
    from mail_proxy.client import NotFound  # noqa: PLC0415 - takes a while

    try:
        return reached.proxy.accounts.get(account_id)
    except NotFound:
        near = get_close_matches(account_id, _ids(reached), 1)
        hint = f"did you mean {near[0]}?" if near else f"{reached.place} accounts list shows those that are"
        raise InstanceError(f"{reached.tenant_id} has no account {account_id}; {hint}") from None


def _fields(options: Mapping[str, Any]) -> dict[str, object]:
    """Return options as fields of the API."""
    fields = given(
        host=options["host"],
        port=options["port"],
        user=options["user"] or None,
        password=secret_of(options["password"], "Password", "--password"),
        tls=options["tls"],
        limit_per_minute=options["limit_minute"],
        limit_per_hour=options["limit_hour"],
        limit_per_day=options["limit_day"],
        limit_behavior=options["limit_behavior"],
        batch_size=options["batch_size"],
        ttl=options["ttl"],
        max_connections=options["max_connections"],
        fallback_account_id=options["fallback"],
        is_default=options["is_default"],
    )
    if options["user"] == "":
        fields |= {"user": None, "password": None}
    elif options["user"] and "password" not in fields and somebody_is_there():
        fields["password"] = click.prompt("Password", hide_input=True)
    return fields


def _asked_for(reached: Reached, fields: Mapping[str, object]) -> dict[str, object]:
    """Ask for an account, show what was said, and ask whether to make it."""
    from mail_proxy.administration.requests import AccountIn  # noqa: PLC0415 - takes a while

    there = _ids(reached)
    of_account = checker(AccountIn)

    def check(field: str, value: object) -> str | None:
        if field == "id" and value in there:
            return f"there is an account {value} already"
        return of_account(field, value)

    answers = ask(
        (
            Question("id", "ID", None if there else "main", needed=True),
            Question("host", "SMTP server", needed=True),
            Question("port", "Port", "587", number),
            Question("user", "User (empty: no login)"),
            Question("password", "Password", hidden=True, needed=True, when=lambda answers: "user" in answers),
            Question("tls", f"Encryption: {', '.join(TLS)}", "auto"),
            Question("limit_per_minute", "At most so many messages a minute (0: no limit)", "0", number),
            Question("limit_per_hour", "At most so many messages an hour (0: no limit)", "0", number),
            Question("limit_per_day", "At most so many messages a day (0: no limit)", "0", number),
            Question(
                "limit_behavior",
                "What is beyond a limit: defer (wait), reject (fail)",
                "defer",
                when=lambda a: any(a.get(f"limit_per_{each}") for each in ("minute", "hour", "day")),
            ),
        ),
        check,
        fields,
    )
    summary(f"The account, of {reached.tenant_id}:", answers, ("password",))
    confirm("Make it?", default=True)
    return answers
