"""The commands about instances: list, start, stop, restart, status, delete."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import click

from mail_proxy.cli.instances import (
    Instance,
    InstanceError,
    Refused,
    Running,
    Wanted,
    every,
    existing,
    instance,
    parsed_settings,
)
from mail_proxy.cli.options import AS_JSON
from mail_proxy.cli.showing import Column, Form, show_fields, show_rows
from mail_proxy.cli.told import complain, has_password, told, warn_of_process_list, warn_of_secrets
from mail_proxy.runtime import environment

SECONDS_TO_STOP = 40.0
"""More than `GMP_SHUTDOWN_GRACE` is by default, and what is written after it."""


NAME = click.argument("name", metavar="NAME")


@click.command(
    "list",
    short_help="List the instances of this machine.",
    epilog="\b\nExamples:\n  mail-proxy list\n  mail-proxy list --json",
)
@AS_JSON
@told
def list_instances(as_json: bool) -> None:  # noqa: FBT001 - click gives it by name
    """List the instances in ~/.mail-proxy (or GMP_HOME): whether they run, where, and what waits in them."""
    rows = [_row(each) for each in every(environment.current())]
    columns = [Column(each) for each in ("name", "state", "address", "pid", "pending")]
    empty = "There are no instances yet: mail-proxy start NAME makes one."
    show_rows(rows, columns, Form.JSON if as_json else Form.LINES, empty)


@click.command(
    short_help="Run an instance; one that is new is made.",
    epilog="""\b
Examples:
  mail-proxy start myserver
  mail-proxy start myserver --background
  mail-proxy start myserver --port 8025 --set MAX_RETRIES=3
  mail-proxy start big --database-url postgresql://mail@db/mail --workers 4
""",
)
@NAME
@click.option("--host", metavar="ADDRESS", help="The address that the API listens on; 127.0.0.1 for a new instance.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="Its port; for a new instance the next free one from 8000 on.",
)
@click.option("--background", is_flag=True, help="Return when it is ready, and leave it running.")
@click.option(
    "--database-url", metavar="URL", help="Of a new instance: postgresql://…; without it, an SQLite file in its folder."
)
@click.option("--workers", type=click.IntRange(1, 64), metavar="N", help="Processes that share the port (PostgreSQL).")
@click.option("--reload", "reloads", is_flag=True, help="Start it anew when config.toml or the code changes.")
@click.option("--set", "pairs", multiple=True, metavar="NAME=VALUE", help="A setting, for this run.")
@told
def start(
    name: str,
    *,
    host: str | None,
    port: int | None,
    background: bool,
    database_url: str | None,
    workers: int | None,
    reloads: bool,
    pairs: tuple[str, ...],
) -> int:
    """Run an instance, in the foreground unless told otherwise. One that is new is made, and its token shown.

    Settings are in its config.toml; the environment's GMP_* variables are not looked at, but GMP_HOME.
    """
    from mail_proxy.cli import running  # noqa: PLC0415

    chosen = instance(name, environment.current())
    settings = parsed_settings(pairs, "--set ")
    _refuse_what_is_set_elsewhere(name, settings)
    if database_url is not None and has_password(database_url):
        warn_of_process_list("the password", f"put db_path into {chosen.config}")
    if settings:
        warn_of_secrets(settings, lambda each: f"mail-proxy {name} config set {each}=-, which reads it from stdin")
    wanted = Wanted(host, port, database_url, settings)
    if reloads and background:
        raise click.UsageError("--reload is for the foreground")
    is_new, wanted = running.prepare(chosen, wanted, every(environment.current()), environment.current(), workers)
    if reloads:
        from mail_proxy.cli.reloading import serve_and_reload  # noqa: PLC0415

        return serve_and_reload(chosen, wanted, environment.current(), workers)
    if not background:
        code = running.serve(chosen, wanted, environment.current(), workers)
        if is_new and code:
            complain(running.what_stays(chosen))
        return code
    try:
        found = running.start(chosen, wanted, environment.current(), workers)
    except InstanceError as error:
        raise running.with_what_stays(chosen, error) if is_new else error from None
    _tell(chosen, found, port)
    click.echo(f"What it writes is in {chosen.log}")
    return 0


@click.command(
    short_help="End an instance in good order.",
    epilog="\b\nExamples:\n  mail-proxy stop myserver\n  mail-proxy stop myserver --force",
)
@NAME
@click.option("--force", is_flag=True, help="Kill it if it does not end; what was accepted is kept.")
@told
def stop(name: str, *, force: bool) -> None:
    """End an instance in good order: transactions in progress are finished, everything else waits in its database."""
    _stop(existing(name, environment.current()), force=force)
    click.echo(f"{name} has ended.")


@click.command(
    short_help="End an instance and run it again in the background.",
    epilog="\b\nExamples:\n  mail-proxy restart myserver",
)
@NAME
@click.option("--force", is_flag=True, help="Kill it if it does not end; what was accepted is kept.")
@told
def restart(name: str, *, force: bool) -> None:
    """End an instance, if it runs, and run it again in the background with what its config.toml says.

    It is not ended where its settings or its encryption key would not let it start again.
    """
    from mail_proxy.cli import running  # noqa: PLC0415

    chosen = existing(name, environment.current())
    running.refuse_what_cannot_start_again(chosen, environment.current())
    if chosen.running() is not None:
        _stop(chosen, force=force)
    running.give_key(chosen, Wanted(), environment.current())
    found = running.start(chosen, Wanted(), environment.current(), None)
    _tell(chosen, found, None)


@click.command(
    short_help="Show how an instance is doing.",
    epilog="\b\nExamples:\n  mail-proxy status myserver\n  mail-proxy status myserver --json",
)
@NAME
@AS_JSON
@told
def status(name: str, *, as_json: bool) -> int:
    """Show whether an instance runs, where, and what waits in it. Exit code 0 while it runs and answers, else 1."""
    row = _row(existing(name, environment.current()))
    show_fields(row, as_json=as_json)
    return 0 if row["state"] == "running" else 1


@click.command(
    short_help="Remove an instance with all that it has.",
    epilog="\b\nExamples:\n  mail-proxy delete myserver",
)
@NAME
@click.option("--force", is_flag=True, help="Without asking.")
@told
def delete(name: str, *, force: bool) -> int:
    """Remove an instance that does not run: its folder, with the SQLite database, the encryption key and the token.

    A database on PostgreSQL stays.
    """
    from mail_proxy.cli.named.place import Place  # noqa: PLC0415

    chosen = existing(name, environment.current())
    try:
        elsewhere = Place(chosen).database is None
    except InstanceError:  # whatever its file is like, it can be removed
        elsewhere = False
    if chosen.running() is None and not force:
        if not sys.stdin.isatty():
            raise InstanceError(f"deleting {name} cannot be undone: say --force where nobody can be asked")
        what = "key and token" if elsewhere else "messages, key and token"
        click.confirm(f"Remove {chosen.folder} with its {what}?", abort=True)
    chosen.delete()
    click.echo(f"{name} is removed.")
    if elsewhere:
        click.echo("Its database on PostgreSQL stays, with the mail and the secrets that are in it.", err=True)
    return 0


SET_ELSEWHERE = {
    "HOST": "use --host",
    "PORT": "use --port",
    "DB_PATH": "use --database-url",
    "DATABASE_URL": "use --database-url",
    "DATA_DIR": "it is the instance's folder",
    "API_TOKEN": "mail-proxy {} token --regenerate makes a new one",
}
"""Settings that `--set` does not take, and what does."""


def _refuse_what_is_set_elsewhere(name: str, settings: Mapping[str, str]) -> None:
    for each in settings:
        if each in SET_ELSEWHERE:
            raise Refused(f"--set {each}: {SET_ELSEWHERE[each].format(name)}")


COMMANDS = (list_instances, start, stop, restart, status, delete)


def _tell(chosen: Instance, found: Running, asked: int | None) -> None:
    click.echo(f"{chosen.name} runs: {found.address} (pid {found.pid}), with documentation at /docs")
    if asked is None and chosen.port not in {0, int(found.address.rpartition(":")[2])}:
        click.echo(f"Port {chosen.port} was taken; the next start tries it again.", err=True)


def _stop(chosen: Instance, *, force: bool) -> None:
    if not chosen.stop(SECONDS_TO_STOP, force=force):
        raise InstanceError(f"{chosen.name} still runs after {SECONDS_TO_STOP:g} s: --force kills it")


def _row(chosen: Instance) -> dict[str, object]:
    from mail_proxy.cli.running import status_of  # noqa: PLC0415

    found = chosen.running()
    about: dict[str, object] = {} if found is None else dict(status_of(chosen, found))
    state = "stopped" if found is None else "running" if about else "no answer"
    return {
        "name": chosen.name,
        "state": state,
        "address": None if found is None else found.address,
        "pid": None if found is None else found.pid,
        "pending": about.get("pending_messages"),
        "folder": str(chosen.folder),
    }
