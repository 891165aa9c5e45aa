"""Where settings are given, and by which names: the environment, `config.toml` in the data folder, a key file."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mail_proxy.runtime.config_file import NAME as CONFIG_FILE
from mail_proxy.runtime.config_file import ConfigFile, ConfigRefused
from mail_proxy.runtime.environment import HOME_OF_INSTANCES
from mail_proxy.runtime.service_links import is_service_link

PREFIX = "GMP_"
_DATA_DIR, _DB_PATH = f"{PREFIX}DATA_DIR", f"{PREFIX}DB_PATH"
SAME_AS = {"GMP_DATABASE_URL": "GMP_DB_PATH", "MAIL_PROXY_ENCRYPTION_KEY": "GMP_ENCRYPTION_KEY"}
"""Other names that a setting is read from."""


def variable(field: str) -> str:
    """Return the name that a setting has in the environment."""
    return f"{PREFIX}{field.upper()}"


@dataclass(frozen=True, slots=True)
class Known:
    """The settings that there are."""

    variables: frozenset[str]
    """By their names in the environment, other names included."""
    lists: frozenset[str]
    """Those with several values, by their names in the file."""

    def not_a_setting(self, name: str, *, in_file: bool = False) -> str:
        """Say that there is no such setting, and which one may have been meant."""
        known = {each.removeprefix(PREFIX): each for each in sorted(self.variables)}
        near = difflib.get_close_matches(name.upper().removeprefix(PREFIX), known, n=1)
        meant = [near[0].lower() if in_file else known[near[0]]] if near else []
        return f"{name} is not a setting." + "".join(f" Did you mean {each}?" for each in meant)


@dataclass(slots=True)
class Given:
    """The values by their first names, where each comes from, and what is wrong with how they are given."""

    values: dict[str, str]
    problems: list[str]
    sources: dict[str, str]
    links: tuple[str, ...] = ()
    """Variables that look like settings and are Kubernetes' own."""
    config_file: Path | None = None

    def shown_name(self, field: str) -> str:
        """Return the name of a setting as it has it where it was given."""
        name = variable(field)
        if self.config_file is not None and self.sources.get(name) == CONFIG_FILE:
            return f"{self.config_file}: {field}"
        return name


def read(environ: Mapping[str, str], key_file: Path, known: Known) -> Given:
    """Return what the environment, `config.toml` and the key file say, the first of them that says something."""
    ours = {
        name: text
        for name, text in environ.items()
        if (name.startswith(PREFIX) or name in SAME_AS) and name != HOME_OF_INSTANCES
    }
    links = sorted(name for name, text in ours.items() if is_service_link(name, text))
    values = {name: text for name, text in ours.items() if name in known.variables and name not in links}
    problems = list(_one_name_each(values))
    problems += [
        known.not_a_setting(name) for name in sorted(ours) if name not in known.variables and name not in links
    ]
    values = {name: text for name, text in values.items() if text.strip()}
    given = Given(values, problems, dict.fromkeys(values, "environment"), tuple(links))
    _read_config(given, known)
    problems += _contradictions(set(values))
    key = f"{PREFIX}ENCRYPTION_KEY"
    if key not in values and key_file.is_file():
        try:
            values[key] = key_file.read_text(encoding="ascii")
            given.sources[key] = str(key_file)
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"{key}: the file {key_file} cannot be read ({type(error).__name__}).")
    return given


def _one_name_each(values: dict[str, str]) -> Iterator[str]:
    """Put what is given under another name under the first one; say where both are given and differ."""
    for other, name in SAME_AS.items():
        text = values.pop(other, "")
        if text and values.get(name) and values[name] != text:
            yield f"{other} and {name} are the same setting but have different values: give one of them."
        elif text:
            values[name] = text


def _read_config(given: Given, known: Known) -> None:
    """Add what `config.toml` says of settings that the environment leaves open."""
    folder = _folder_named_by(given.values)
    file = ConfigFile(folder / CONFIG_FILE)
    if not file.exists():
        return
    given.config_file = file.path
    try:
        found = file.read()
    except ConfigRefused as refused:
        given.problems.append(str(refused))
        return
    texts = {name: _as_text(value, several=name in known.lists) for name, value in found.items()}
    given.problems += [
        f"{file.path}: {name} {problem}" for name, text in texts.items() for problem in _wrong(name, text, known)
    ]
    values = {variable(name): text for name, text in texts.items() if text and text.strip()}
    given.problems += _one_name_each(values)
    if _DB_PATH in values:
        given.values.setdefault(_DATA_DIR, str(folder))
        values[_DB_PATH] = _from_folder(folder, values[_DB_PATH])
    for name, text in values.items():
        if name not in given.values and name in known.variables:
            given.values[name] = text
            given.sources[name] = CONFIG_FILE


def _wrong(name: str, text: str | None, known: Known) -> Iterator[str]:
    if name != name.lower() or variable(name) not in known.variables:
        yield known.not_a_setting(name, in_file=True).removeprefix(f"{name} ")
    elif variable(name) == _DATA_DIR:
        yield "cannot be set here: it says where this file is."
    elif text is None:
        yield "must be a text, a number, or true or false."


def _from_folder(folder: Path, location: str) -> str:
    return location if "://" in location else str(folder / location)


def _folder_named_by(values: Mapping[str, str]) -> Path:
    """Return the data folder that the environment names, as `Settings.data_folder` does."""
    if _DATA_DIR in values:
        return Path(values[_DATA_DIR].strip())
    location = values.get(_DB_PATH, "").strip()
    return Path(location).parent if location and "://" not in location else Path()


def _as_text(value: object, *, several: bool) -> str | None:
    """Write a value of the file as the environment would have it; None for what no setting can be."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case int() | float():
            return repr(value)
        case list() if several:
            parts = [_as_text(each, several=False) for each in value]
            return None if None in parts else ",".join(str(part) for part in parts)
        case _:
            return None


def _contradictions(given: set[str]) -> Iterator[str]:
    for endpoint in ("CLIENT_SYNC", "ATTACHMENT"):
        token, user, password = (f"{PREFIX}{endpoint}_{name}" for name in ("TOKEN", "USER", "PASSWORD"))
        if token in given and given & {user, password}:
            yield f"{token} excludes {user} and {password}: there is one way to log in."
        if (user in given) != (password in given):
            yield f"{user} and {password} need each other."
