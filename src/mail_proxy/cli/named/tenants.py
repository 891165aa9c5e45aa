"""`mail-proxy NAME tenants …`: who sends by the instance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

import click

from mail_proxy.cli.asking import Question, ask, confirm, secret_of, somebody_is_there, summary
from mail_proxy.cli.instances import InstanceError
from mail_proxy.cli.named.fields import checker, given, number
from mail_proxy.cli.named.place import Reached, speaks
from mail_proxy.cli.named.tree import Commands, TenantId
from mail_proxy.cli.options import AS_JSON, examples, forms
from mail_proxy.cli.showing import Column, Form, moment, show_fields, show_json, show_rows
from mail_proxy.domain.tenant import DEFAULT_ATTACHMENT_PATH, DEFAULT_SYNC_PATH

ID = click.argument("tenant_id", metavar="ID", type=TenantId())
COLUMNS = (
    Column("id"),
    Column("name"),
    Column("active"),
    Column("suspended", lambda row: row["suspended"] or row["suspended_batches"]),
    Column("base_url", lambda row: row["client_base_url"]),
    moment("created", "created_ts"),
)
METHODS = ("none", "bearer", "basic")


@click.group(cls=Commands, short_help="List, make, change and remove tenants.")
def tenants() -> None:
    """Tenants: organisations with accounts, messages and reports of their own."""


@tenants.command(
    "list",
    short_help="List tenants.",
    epilog=examples("mail-proxy myserver tenants list", "mail-proxy myserver tenants list --active-only --json"),
)
@click.option("--active-only", is_flag=True, help="Without those that are switched off or suspended.")
@forms
@speaks
def list_tenants(reached: Reached, *, active_only: bool, form: Form) -> None:
    """List tenants, by id."""
    found = [
        each for each in reached.proxy.tenants.list() if not active_only or (each["active"] and not each["suspended"])
    ]
    hint = f"{reached.name} has no tenants yet: mail-proxy {reached.name} tenants add"
    show_rows(found, COLUMNS, form, "No tenant is active." if active_only else hint)


@tenants.command(short_help="Show a tenant.", epilog=examples("mail-proxy myserver tenants show acme"))
@ID
@AS_JSON
@speaks
def show(reached: Reached, tenant_id: str, *, as_json: bool) -> None:
    """Show a tenant's settings, secrets left out."""
    show_tenant(of(reached, tenant_id), as_json=as_json)


def settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that changes a tenant the options that are its settings."""
    return _settings(command, lambda _value: "")


def new_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that makes a tenant the same options, with their defaults."""
    return _settings(command, lambda value: f" [default: {value}]")


def _settings(command: Callable[..., None], default: Callable[[str], str]) -> Callable[..., None]:
    for option in reversed(
        (
            click.option("--name", help="A name for people."),
            click.option("--base-url", metavar="URL", help="Where the tenant's own service is; '' takes it away."),
            click.option(
                "--sync-path", metavar="PATH", help=f"Where reports go, below it.{default(DEFAULT_SYNC_PATH)}"
            ),
            click.option(
                "--attachment-path",
                metavar="PATH",
                help=f"Where attachments are fetched, below it.{default(DEFAULT_ATTACHMENT_PATH)}",
            ),
            click.option("--auth-method", type=click.Choice(METHODS), help="How to log in there."),
            click.option("--auth-token", metavar="TOKEN", help="For bearer; - reads it from stdin."),
            click.option("--auth-user", metavar="USER", help="For basic."),
            click.option("--auth-password", metavar="PASSWORD", help="For basic; - reads it from stdin."),
            click.option("--rate-limit-hourly", type=int, metavar="N", help="Transactions in any hour; 0: no limit."),
            click.option("--rate-limit-daily", type=int, metavar="N", help="Transactions in any day; 0: no limit."),
            click.option(
                "--on-uncertain",
                type=click.Choice(["resend", "fail"]),
                help=f"What follows when a message may have been delivered.{default('resend')}",
            ),
            click.option(
                "--active/--inactive",
                "active",
                default=None,
                help=f"Whether its messages are taken.{default('active')}",
            ),
        )
    ):
        command = option(command)
    return command


@tenants.command(
    short_help="Make a tenant.",
    epilog=examples(
        "mail-proxy myserver tenants add",
        'mail-proxy myserver tenants add acme --name "ACME Corp" --base-url https://acme.com',
        "mail-proxy myserver tenants add acme --base-url https://acme.com --auth-method bearer --auth-token -",
    ),
)
@click.argument("tenant_id", metavar="[ID]", required=False)
@new_settings
@AS_JSON
@speaks
def add(reached: Reached, /, tenant_id: str | None, *, as_json: bool, **options: Any) -> None:  # noqa: ANN401 - see `settings`
    """Make a tenant, and show its API token this once. Without an ID, it is asked for on a terminal."""
    fields = _fields(options)
    if tenant_id is None:
        if not somebody_is_there() or as_json:
            raise click.UsageError("Missing argument 'ID'")
        form(reached, fields)
        return
    if tenant_id in _ids(reached):
        raise InstanceError(f"there is a tenant {tenant_id} already; tenants update {tenant_id} changes it")
    if as_json:
        show_json({"id": tenant_id, "api_key": reached.proxy.tenants.add(tenant_id, **fields)})
    else:
        _make(reached, tenant_id, fields)


@tenants.command(
    short_help="Change a tenant.",
    epilog=examples(
        "mail-proxy myserver tenants update acme --rate-limit-hourly 1000",
        "mail-proxy myserver tenants update acme --inactive",
    ),
)
@ID
@settings
@speaks
def update(reached: Reached, /, tenant_id: str, **options: Any) -> None:  # noqa: ANN401 - see `settings`
    """Change a tenant's settings: what is left out stays. How to log in is given as a whole."""
    now = of(reached, tenant_id)
    fields = _fields(options, now["rate_limits"])
    if not fields:
        raise click.UsageError("say what to change: mail-proxy NAME tenants update ID --help lists it")
    reached.proxy.tenants.update(tenant_id, **fields)
    click.echo(f"{tenant_id} is changed.")


@tenants.command(
    short_help="Remove a tenant with all its data.", epilog=examples("mail-proxy myserver tenants delete acme")
)
@ID
@click.option("--force", is_flag=True, help="Without asking, and also what is unfinished or unreported.")
@speaks
def delete(reached: Reached, tenant_id: str, *, force: bool) -> None:
    """Remove a tenant with its accounts, messages and history. Refused while messages are unfinished or unreported."""
    of(reached, tenant_id)
    if not force:
        removes = "removes what is unfinished or unreported"
        confirm(f"Remove {tenant_id} with its accounts, messages and history?", force_also=removes)
    reached.proxy.tenants.delete(tenant_id, force=force)
    click.echo(f"{tenant_id} is removed.")


@tenants.command(short_help="Hold a tenant's messages.", epilog=examples("mail-proxy myserver tenants suspend acme"))
@ID
@speaks
def suspend(reached: Reached, tenant_id: str) -> None:
    """Hold a tenant: its messages are taken, and wait. What is being sent is finished."""
    of(reached, tenant_id)
    tell_held(reached.proxy.of_tenant(tenant_id).suspend())


@tenants.command(short_help="Free a tenant.", epilog=examples("mail-proxy myserver tenants activate acme"))
@ID
@speaks
def activate(reached: Reached, tenant_id: str) -> None:
    """Free a tenant with all its batches: what waits goes on."""
    of(reached, tenant_id)
    tell_held(reached.proxy.of_tenant(tenant_id).activate())


@tenants.command(
    "api-key",
    short_help="Give a tenant a new API token, or revoke it.",
    epilog=examples("mail-proxy myserver tenants api-key acme", "mail-proxy myserver tenants api-key acme --revoke"),
)
@ID
@click.option("--revoke", is_flag=True, help="End the token instead; the tenant's messages go on.")
@speaks
def api_key(reached: Reached, tenant_id: str, *, revoke: bool) -> None:
    """Make a new API token for a tenant and show it this once; the old one ends at once, on every instance."""
    of(reached, tenant_id)
    if revoke:
        reached.proxy.tenants.revoke_key(tenant_id)
        click.echo(f"The token of {tenant_id} has ended.", err=True)
        return
    click.echo(reached.proxy.tenants.new_key(tenant_id))
    click.echo(f"It is the only token of {tenant_id} now, and nothing can show it again.", err=True)


def form(reached: Reached, fields: Mapping[str, object] | None = None) -> str:
    """Ask for a tenant, make it, and return its id. `fields` are not asked for. Raises `click.Abort`."""
    answers = _asked_for(reached, fields or {})
    tenant_id = str(answers.pop("id"))
    _make(reached, tenant_id, answers)
    return tenant_id


def _make(reached: Reached, tenant_id: str, fields: Mapping[str, Any]) -> None:
    key = reached.proxy.tenants.add(tenant_id, **fields)
    click.echo(f"{tenant_id} is made.")
    click.echo(f"Its API token, shown this once, as nothing can show it again: {key}")
    click.echo(f"Now an SMTP account: mail-proxy {reached.name} {tenant_id} accounts add", err=True)


def of(reached: Reached, tenant_id: str) -> Mapping[str, Any]:
    """Return a tenant; raises `InstanceError`, with the nearest one, where there is none."""
    from mail_proxy.client import NotFound  # noqa: PLC0415 - takes a while

    try:
        return reached.proxy.tenants.get(tenant_id)
    except NotFound:
        near = get_close_matches(tenant_id, _ids(reached), 1)
        hint = f"did you mean {near[0]}?" if near else f"mail-proxy {reached.name} tenants list shows those that are"
        raise InstanceError(f"{reached.name} has no tenant {tenant_id}; {hint}") from None


def show_tenant(tenant: Mapping[str, Any], *, as_json: bool) -> None:
    """Show a tenant."""
    show_fields({name: value for name, value in tenant.items() if name != "ok"}, as_json=as_json)


def tell_held(held: Mapping[str, Any]) -> None:
    """Say what is held now, and how much waits."""
    batches = ", ".join(held["suspended_batches"])
    what = "is suspended" if held["suspended"] else f"has suspended batches: {batches}" if batches else "is active"
    click.echo(f"{held['tenant_id']} {what}; {held['pending_messages']} messages are not finished.")


def _ids(reached: Reached) -> list[str]:
    return [each["id"] for each in reached.proxy.tenants.list()]


def _fields(options: Mapping[str, Any], limits_now: Mapping[str, Any] | None = None) -> dict[str, object]:
    """Return options as fields of the API."""
    base_url, active = options["base_url"], options["active"]
    fields = given(
        name=options["name"],
        client_base_url=base_url or None,
        client_sync_path=options["sync_path"],
        client_attachment_path=options["attachment_path"],
        client_auth=_auth(options),
        on_uncertain=options["on_uncertain"],
        active=active,
    )
    if base_url == "":
        fields["client_base_url"] = None
    limits = given(hourly=options["rate_limit_hourly"], daily=options["rate_limit_daily"])
    if limits:
        fields["rate_limits"] = {**(limits_now or {}), **limits}
    return fields


def _auth(options: Mapping[str, Any]) -> Mapping[str, object] | None:
    token = secret_of(options["auth_token"], "Token", "--auth-token")
    password = secret_of(options["auth_password"], "Password", "--auth-password")
    method = options["auth_method"] or ("bearer" if token else "basic" if options["auth_user"] else None)
    return None if method is None else given(method=method, token=token, user=options["auth_user"], password=password)


def _asked_for(reached: Reached, fields: Mapping[str, object]) -> dict[str, object]:
    """Ask for a tenant, show what was said, and ask whether to make it."""
    from mail_proxy.administration.requests import ClientAuthIn, RateLimitsIn, TenantIn  # noqa: PLC0415 - takes a while

    there = _ids(reached)
    of_tenant, of_auth, of_limits = checker(TenantIn), checker(ClientAuthIn), checker(RateLimitsIn)

    def check(field: str, value: object) -> str | None:
        part, _, name = field.rpartition(".")
        if field == "id" and value in there:
            return f"there is a tenant {value} already"
        return (of_auth if part == "client_auth" else of_limits if part else of_tenant)(name, value)

    def has_url(answers: Mapping[str, object]) -> bool:
        return "client_base_url" in answers

    def by(method: str) -> Callable[[Mapping[str, object]], bool]:
        return lambda answers: answers.get("client_auth.method") == method

    questions = [
        Question("id", "ID", needed=True),
        Question("name", "Name, for people (may be empty)"),
        Question("client_base_url", "URL of its own service, for reports (may be empty)"),
        Question("client_sync_path", "Path for reports", DEFAULT_SYNC_PATH, when=has_url),
        Question("client_attachment_path", "Path for attachments", DEFAULT_ATTACHMENT_PATH, when=has_url),
    ]
    if "client_auth" not in fields:
        questions += [
            Question("client_auth.method", f"Login there: {', '.join(METHODS)}", "none", when=has_url),
            Question("client_auth.token", "Token", hidden=True, needed=True, when=by("bearer")),
            Question("client_auth.user", "User", needed=True, when=by("basic")),
            Question("client_auth.password", "Password", hidden=True, needed=True, when=by("basic")),
        ]
    if "rate_limits" not in fields:
        questions += [
            Question("rate_limits.hourly", "At most so many messages an hour (0: no limit)", "0", number),
            Question("rate_limits.daily", "At most so many messages a day (0: no limit)", "0", number),
        ]
    answers = ask(questions, check, fields)
    summary("The tenant:", answers, ("client_auth", "client_auth.token", "client_auth.password"))
    confirm("Make it?", default=True)
    return _nested(answers)


def _nested(answers: Mapping[str, object]) -> dict[str, object]:
    """Put what was asked for part by part (`rate_limits.hourly`) together."""
    found: dict[str, Any] = {}
    for name, value in answers.items():
        part, _, last = name.rpartition(".")
        if part:
            found.setdefault(part, {})[last] = value
        else:
            found[name] = value
    return found
