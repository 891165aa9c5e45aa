"""`mail-proxy NAME config …`: the settings of an instance, and where each comes from."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from mail_proxy.cli.instances import Instance, InstanceError, Wanted, environment_of, parsed_settings
from mail_proxy.cli.named.place import Reached, speaks
from mail_proxy.cli.named.tree import Commands
from mail_proxy.cli.options import examples, forms
from mail_proxy.cli.showing import Column, Form, show_rows
from mail_proxy.cli.told import warn_of_process_list
from mail_proxy.runtime import environment

MASKED = "********"
ELSEWHERE = {
    "api_token": "token --regenerate makes a new one",
    "data_dir": "it is the instance's folder",
}


@click.group(cls=Commands, short_help="Show and change settings.")
def config() -> None:
    """Settings of the instance: docs/settings.md tells what each does."""


@config.command(
    "show",
    short_help="Show every setting and where it comes from.",
    epilog=examples("mail-proxy myserver config show", "mail-proxy myserver config show max_retries --json"),
)
@click.argument("names", metavar="[NAME]…", nargs=-1)
@forms
@speaks
def show(reached: Reached, names: tuple[str, ...], *, form: Form) -> None:
    """Show every setting, or some, with its value and where that comes from; secrets are masked.

    It is the default, or comes from config.toml, from the database, or from what the start was told.
    """
    settings = reached.proxy.settings()["settings"]
    wanted = {each.lower().removeprefix("gmp_") for each in names}
    unknown = wanted - {each["name"] for each in settings}
    if unknown:
        raise InstanceError(_not_a_setting(min(unknown)))
    found = [each for each in settings if not wanted or each["name"] in wanted]
    columns = (Column("name"), Column("value", _value), Column("source", _source))
    show_rows(found, columns, form, "There are no settings.")


@config.command(
    "set",
    short_help="Change settings.",
    epilog=examples(
        "mail-proxy myserver config set MAX_RETRIES=3 SYNC_INTERVAL=60",
        "mail-proxy myserver config set SCHEDULER_ACTIVE=false",
        "mail-proxy myserver config set MAX_RETRIES=",
        "mail-proxy myserver config set CLIENT_SYNC_TOKEN=-",
    ),
)
@click.argument("pairs", metavar="NAME=VALUE…", nargs=-1, required=True)
@speaks
def set_(reached: Reached, pairs: tuple[str, ...]) -> None:
    """Write settings into config.toml, where they count from the next start on; with no value the default does.

    SCHEDULER_ACTIVE counts at once. Whatever cannot be right is refused before anything is written. A value of - is
    read from stdin, for secrets.
    """
    values = dict(parsed_settings(pairs))
    _refuse_what_is_kept_elsewhere(values)
    for name, value in values.items():
        if value == "-":
            values[name] = _from_stdin(name)
        elif any(word in name for word in ("TOKEN", "PASSWORD", "KEY")):
            warn_of_process_list(name, f"{name}=-, which reads it from stdin")
    sending = values.pop("SCHEDULER_ACTIVE", None)
    chosen = reached.place.instance
    _refuse_what_cannot_be(chosen, {**values, **({} if sending is None else {"SCHEDULER_ACTIVE": sending})})
    if sending is not None:
        active = sending.strip().lower() in {"true", "1", "yes", "on", "y", "t"}
        reached.proxy.change(scheduler_active=active)
        click.echo(f"Sending is {'active' if active else 'suspended'}, from now on.")
    if values:
        _write(chosen, values)
        click.echo(f"{', '.join(sorted(values))}: written into {chosen.config}")
        if reached.runs:
            click.echo(f"It counts from the next start on: mail-proxy restart {chosen.name}", err=True)


def _value(row: Mapping[str, Any]) -> object:
    return (MASKED if row["is_set"] else None) if row["secret"] else row["value"]


def _source(row: Mapping[str, Any]) -> object:
    """Say where a value comes from: what a start is told reaches the instance by its environment."""
    return "start" if row["source"] == "environment" else row["source"]


def _refuse_what_is_kept_elsewhere(values: Mapping[str, str]) -> None:
    for name in values:
        if name.lower() in ELSEWHERE:
            raise InstanceError(f"{name} is not set here: {ELSEWHERE[name.lower()]}")


def _refuse_what_cannot_be(chosen: Instance, values: Mapping[str, str]) -> None:
    """Raise `InstanceError` for settings with which the instance would not start."""
    from mail_proxy.runtime.settings import Settings, SettingsError  # noqa: PLC0415 - takes a while

    given = environment_of(
        chosen, Wanted(settings={name: text for name, text in values.items() if text}), environment.current()
    )
    try:
        Settings.load(given)
    except SettingsError as error:
        raise InstanceError("; ".join(error.problems)) from None


def _write(chosen: Instance, values: Mapping[str, str]) -> None:
    from mail_proxy.runtime.config_file import ConfigFile, ConfigRefused, ConfigUnsure  # noqa: PLC0415

    file = ConfigFile(chosen.config)
    try:
        for name, value in values.items():
            file.replace(name.lower(), value, lambda _held: True)
    except (ConfigRefused, ConfigUnsure) as error:
        raise InstanceError(str(error)) from None
    except OSError as error:
        raise InstanceError(f"{chosen.config} cannot be written: {error.strerror}") from None


def _from_stdin(name: str) -> str:
    if sys.stdin.isatty():
        return str(click.prompt(name, hide_input=True))
    value = sys.stdin.readline().rstrip("\r\n")
    if not value:
        raise InstanceError(f"{name}=- reads a line from stdin, and there is none")
    return value


def _not_a_setting(name: str) -> str:
    from difflib import get_close_matches  # noqa: PLC0415

    from mail_proxy.runtime.settings import names  # noqa: PLC0415

    known: Sequence[str] = sorted(each.removeprefix("GMP_").lower() for each in names())
    near = get_close_matches(name, known, 1)
    return f"{name} is not a setting{f'; did you mean {near[0]}?' if near else ''}"
