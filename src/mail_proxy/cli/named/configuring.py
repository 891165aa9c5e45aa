"""`mail-proxy NAME config …`: the settings of an instance, and where each comes from."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click

from mail_proxy.cli.instances import Instance, InstanceError, Wanted, environment_of, parsed_settings
from mail_proxy.cli.named.place import Place, current_place, reach
from mail_proxy.cli.named.tree import Commands
from mail_proxy.cli.options import examples, forms
from mail_proxy.cli.showing import Column, Form, cell, show_rows
from mail_proxy.cli.told import as_in_file, complain, for_instance, told, warn_of_secrets
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
@told
def show(names: tuple[str, ...], *, form: Form) -> None:
    """Show every setting, or some, with its value and where that comes from; secrets are masked.

    It is the default, or comes from config.toml, from the database, or from what the start was told. Of an instance
    that could not be started, it shows what is known without its database, or what is in config.toml.
    """
    wanted = {each.lower().removeprefix("gmp_") for each in names}
    unknown = wanted - _known()
    if unknown:
        raise InstanceError(_not_a_setting(min(unknown)))
    settings = [{**each, "source": _source(each)} for each in _settings(current_place())]
    found = [each for each in settings if not wanted or each["name"] in wanted]
    columns = (Column("name"), Column("value", _value), Column("source"))
    show_rows(found, columns, form, "There are no settings.")
    _tell_what_waits(current_place().instance, found)


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
@told
def set_(pairs: tuple[str, ...]) -> None:
    """Write settings into config.toml, where they count from the next start on; with no value the default does.

    SCHEDULER_ACTIVE counts at once. Whatever cannot be right is refused before anything is written. A value of - is
    read from stdin, for secrets.
    """
    values = dict(parsed_settings(pairs))
    _refuse_what_is_kept_elsewhere(values)
    warn_of_secrets(
        {name: value for name, value in values.items() if value != "-"},
        lambda name: f"{name}=-, which reads it from stdin",
    )
    for name, value in values.items():
        if value == "-":
            values[name] = _from_stdin(name)
    sending = values.pop("SCHEDULER_ACTIVE", None)
    chosen = current_place().instance
    _refuse_what_cannot_be(chosen, {**values, **({} if sending is None else {"SCHEDULER_ACTIVE": sending})})
    if values:
        _write(chosen, values)
        click.echo(f"{', '.join(sorted(values))}: written into {chosen.config}")
        if chosen.running() is not None:
            click.echo(f"It counts from the next start on: mail-proxy restart {chosen.name}", err=True)
    if sending is not None:
        active = sending.strip().lower() in {"", "true", "1", "yes", "on", "y", "t"}  # the default is true
        with reach(current_place()) as reached:
            reached.proxy.change(scheduler_active=active)
        click.echo(f"Sending is {'active' if active else 'suspended'}, from now on.")


def _settings(place: Place) -> Sequence[Mapping[str, Any]]:
    """Return the settings as the instance says them; where it cannot be asked, as far as they are known without it."""
    try:
        with reach(place) as reached:
            return reached.proxy.settings()["settings"]
    except InstanceError as error:
        complain(f"{str(error).removesuffix('.')}. What its database says is not shown.")
    return _settings_in_file(place.instance)


def key_is_given(place: Place) -> bool:
    """Say whether a setting gives the encryption key: of what runs, the start may have been told it."""
    if place.instance.running() is None:
        found = _settings_in_file(place.instance)
    else:
        with reach(place) as reached:
            found = reached.proxy.settings()["settings"]
    return any(each["name"] == "encryption_key" and each["is_set"] for each in found)


def _settings_in_file(chosen: Instance) -> Sequence[Mapping[str, Any]]:
    """Return every setting as a start would have it, or, where they are not enough for one, those in the file."""
    from mail_proxy.runtime.settings import Settings, SettingsError  # noqa: PLC0415 - takes a while
    from mail_proxy.runtime.shown_settings import may_be_shown, shown_settings  # noqa: PLC0415

    try:
        return [asdict(each) for each in shown_settings(Settings.load(_given(chosen, {})))]
    except SettingsError:
        return [
            {
                "name": name,
                "value": value if (shown := may_be_shown(name, value)) else None,
                "secret": not shown,
                "is_set": True,
                "source": chosen.config.name,
            }
            for name, value in chosen.settings().items()
        ]


def _tell_what_waits(chosen: Instance, found: Sequence[Mapping[str, Any]]) -> None:
    """Say of a running instance which values of its file count from the next start on; of secrets nobody can tell."""
    if chosen.running() is None:
        return
    in_file = {each["name"]: each for each in _settings_in_file(chosen)}
    for each in found:
        waits = in_file.get(each["name"])
        if waits is None or each["secret"] or each["source"] in {"database", "start"}:
            continue
        if waits["value"] != each["value"]:
            value = cell(_value(waits))
            complain(f"{each['name']}: {value} from the next start on: mail-proxy restart {chosen.name}")


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
    """Raise `InstanceError` for what these settings would make wrong; what is wrong already may stay so."""
    before = _problems(chosen, {})
    wrong = [each for each in _problems(chosen, values) if each not in before]
    if wrong:
        raise InstanceError(for_instance(chosen.name, "; ".join(wrong)))
    if not {"ENCRYPTION_KEY", "ENCRYPTION_KEYS_OLD"}.isdisjoint(values):
        _refuse_another_key(chosen, values)


def _refuse_another_key(chosen: Instance, values: Mapping[str, str]) -> None:
    """Raise `InstanceError` for what is no key, and for keys that do not open the instance's database."""
    from mail_proxy.cli.keys import problem_with_key  # noqa: PLC0415 - takes a while
    from mail_proxy.domain.secret import Secret  # noqa: PLC0415
    from mail_proxy.runtime.settings import Settings, SettingsError  # noqa: PLC0415
    from mail_proxy.secrets.keys import KeyRefused, old_keys, parse_key  # noqa: PLC0415

    given, old = (values.get(name, "").strip() for name in ("ENCRYPTION_KEY", "ENCRYPTION_KEYS_OLD"))
    parts = [Secret(each.strip()) for each in old.split(",") if each.strip()]
    try:
        if given:
            parse_key(given, "ENCRYPTION_KEY")
        old_keys(parts)
        settings = Settings.load(_given(chosen, values))
    except KeyRefused as error:
        raise InstanceError(as_in_file(str(error))) from None
    except SettingsError:  # without the rest of them there is no database to ask
        return
    key = (Secret(given) if given else None) if "ENCRYPTION_KEY" in values else settings.encryption_key
    problem = problem_with_key(
        settings, key, parts if "ENCRYPTION_KEYS_OLD" in values else settings.encryption_keys_old
    )
    if problem is not None and key is None:
        raise InstanceError(for_instance(chosen.name, problem))
    if problem is not None:
        raise InstanceError(
            f"the database of {chosen.name} was made with another encryption key, and would not open. To change the "
            "key, set ENCRYPTION_KEYS_OLD to the one before together with it: docs/operations.md says how"
        )


def _problems(chosen: Instance, values: Mapping[str, str]) -> Sequence[str]:
    """Say what is wrong with the settings of an instance and these besides."""
    from mail_proxy.runtime.settings import Settings, SettingsError  # noqa: PLC0415 - takes a while

    try:
        Settings.load(_given(chosen, values))
    except SettingsError as error:
        return error.problems
    return ()


def _given(chosen: Instance, values: Mapping[str, str]) -> Mapping[str, str]:
    wanted = Wanted(settings={name: text for name, text in values.items() if text})
    return environment_of(chosen, wanted, environment.current())


def _write(chosen: Instance, values: Mapping[str, str]) -> None:
    from mail_proxy.runtime.config_file import ConfigFile, ConfigRefused, ConfigUnsure  # noqa: PLC0415
    from mail_proxy.runtime.settings import typed  # noqa: PLC0415 - takes a while

    file = ConfigFile(chosen.config)
    try:
        for name, value in values.items():
            file.replace(name.lower(), typed(name.lower(), value), lambda _held: True)
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


def _known() -> frozenset[str]:
    from mail_proxy.runtime.settings import names  # noqa: PLC0415 - takes a while

    return frozenset(each.removeprefix("GMP_").lower() for each in names())


def _not_a_setting(name: str) -> str:
    from difflib import get_close_matches  # noqa: PLC0415

    near = get_close_matches(name, sorted(_known()), 1)
    return f"{name} is not a setting{f'; did you mean {near[0]}?' if near else ''}"
