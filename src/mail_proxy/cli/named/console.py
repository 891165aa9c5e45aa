"""The shell of `connect`: what is in it, how it shows what it is told, and forms for what is made by hand."""

from __future__ import annotations

import code
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import click
from typing_extensions import override

from mail_proxy.cli.named import accounts, messages, tenants
from mail_proxy.cli.named.instance import numbers
from mail_proxy.cli.named.place import Reached
from mail_proxy.cli.showing import Column, Form, printable, show_fields, show_rows
from mail_proxy.client import ClientError, MailProxyClient

SHOWN = 50
"""Messages of an iterator that the shell shows when it is asked for nothing else."""


class ShellProxy(MailProxyClient):
    """The client with what only the shell has."""

    def stats(self) -> Sequence[Mapping[str, Any]]:
        """Return each tenant in numbers."""
        return list(numbers(self))


class _Console(code.InteractiveConsole):
    """A shell that tells in a sentence what the service did not do."""

    @override
    def showtraceback(self) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, ClientError):
            click.echo(f"{type(error).__name__}: {printable(str(error))}", err=True)
        else:
            super().showtraceback()


def run(reached: Reached) -> None:
    """Run the shell until its user ends it; from a pipe, run what comes by it."""
    inside = {
        "proxy": reached.proxy,
        "new_tenant": lambda: _made(lambda: tenants.form(reached)),
        "new_account": lambda tenant_id=None: _made(lambda: accounts.form(_of(reached, tenant_id))),
        "new_message": lambda tenant_id=None: _made(lambda: _new_message(_of(reached, tenant_id))),
        "ClientError": ClientError,
    }
    if not sys.stdin.isatty():
        exec(compile(sys.stdin.read(), "<stdin>", "exec"), inside)  # noqa: S102 - a Python shell is for running Python
        return
    _complete(inside)
    before, sys.displayhook = sys.displayhook, _show
    try:
        _Console(inside).interact(_banner(reached), exitmsg="")
    finally:
        sys.displayhook = before


def _of(reached: Reached, tenant_id: str | None) -> Reached:
    """Return the instance with a tenant: the named one, or one that is asked for."""
    ids = [each["id"] for each in reached.proxy.tenants.list()]
    if tenant_id is None:
        tenant_id = ids[0] if len(ids) == 1 else str(click.prompt("Tenant", type=click.Choice(ids)))
    return replace(reached, proxy=reached.proxy.of_tenant(tenant_id), place=reached.place.of_tenant(tenant_id))


def _new_message(reached: Reached) -> str:
    """Ask for a message, submit it, and return its id."""
    fields = {name: click.prompt(text) for name, text in (("from", "From"), ("to", "To"), ("subject", "Subject"))}
    fields["body"] = click.prompt("Text")
    click.confirm(f"Send it for {reached.tenant_id}?", default=True, abort=True)
    receipt = reached.proxy.messages.add(fields)
    found = next(iter(reached.proxy.messages.list(page=1)))
    click.echo("Queued." if receipt["queued"] else "Known already.")
    return found["id"]


def _made(form: Callable[[], object]) -> object:
    try:
        return form()
    except click.Abort:
        click.echo("\nNothing was made.")
        return None


def _complete(inside: Mapping[str, Any]) -> None:
    """Complete names with Tab, where this Python has readline."""
    try:
        import readline  # noqa: PLC0415
        import rlcompleter  # noqa: PLC0415
    except ImportError:
        return
    readline.set_completer(rlcompleter.Completer(dict(inside)).complete)
    readline.parse_and_bind("bind ^I rl_complete" if "libedit" in (readline.__doc__ or "") else "tab: complete")


def _show(value: object) -> None:
    """Show what an expression comes to: things of the API as tables, all else as Python does."""
    import builtins  # noqa: PLC0415

    if value is None:
        return
    builtins._ = value  # type: ignore[attr-defined]
    rows: list[Any] = []
    if isinstance(value, Iterator):
        rows = list(islice(value, SHOWN))
    elif isinstance(value, list):
        rows = value
    if rows and all(isinstance(each, dict) for each in rows):
        show_rows(rows, _columns(rows[0]), Form.LINES, "")
    elif isinstance(value, Iterator):
        click.echo("nothing" if not rows else repr(rows))
    elif isinstance(value, dict):
        show_fields(value, as_json=False)
    else:
        click.echo(repr(value))


def _columns(row: Mapping[str, Any]) -> Sequence[Column]:
    known = {"attempts": messages.COLUMNS, "host": accounts.COLUMNS, "client_base_url": tenants.COLUMNS}
    return next((columns for name, columns in known.items() if name in row), [Column(name) for name in row])


def _banner(reached: Reached) -> str:
    how = "runs" if reached.runs else "does not run: nothing is sent while you are here, and it cannot be started"
    return (
        f"{reached.name} {how}.\n"
        "proxy.status() .stats() .run_now()   proxy.tenants .accounts .messages .events .command_log\n"
        'proxy.of_tenant("acme").messages.errors()   new_tenant() new_account() new_message()   Ctrl-D ends it.'
    )
