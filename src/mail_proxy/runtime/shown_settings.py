"""Settings as they may be shown: each with its value and where that comes from, and no secret."""  # G16

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import get_args

from mail_proxy.domain.secret import Secret
from mail_proxy.runtime.setting_values import PostgresqlUrl, SqliteFile
from mail_proxy.runtime.settings import DEFAULT, Settings
from mail_proxy.secrets.keys import KEY_FILE_NAME

_PASSWORD = re.compile(r"(://[^/?@:]*):.*@", re.DOTALL)
Value = bool | int | float | str | list[str | float] | None


@dataclass(frozen=True, slots=True)
class Shown:
    """One setting. The value of a secret is None, whether it is set or not."""

    name: str
    value: Value
    secret: bool
    is_set: bool
    source: str


def shown_settings(settings: Settings) -> Sequence[Shown]:
    """Return every setting, in the order in which they are explained."""
    return [_shown(settings, name) for name in Settings.model_fields]


def may_be_shown(name: str, value: object) -> bool:
    """Say whether a value that a file gives is no secret; what is no setting may be anything."""
    field = Settings.model_fields.get(name)
    return field is not None and not _may_be_secret(field.annotation) and "://" not in str(value)


def is_secret(name: str) -> bool:
    """Say whether the values of a setting are secrets."""
    field = Settings.model_fields.get(name)
    return field is not None and _may_be_secret(field.annotation)


def _shown(settings: Settings, name: str) -> Shown:
    source = settings.source(name)
    filled_in = {
        "db_path": settings.database,
        "data_dir": settings.data_folder,
        "attachment_roots": settings.attachment_folders,
    }
    held: object = filled_in.get(name, getattr(settings, name))
    if name == "encryption_key" and held is None:
        there = (settings.data_folder / KEY_FILE_NAME).exists()
        return Shown(name, None, secret=True, is_set=there, source=KEY_FILE_NAME if there else DEFAULT)
    secret = _may_be_secret(Settings.model_fields[name].annotation)
    is_set = held not in {None, ()} if source == DEFAULT else True
    return Shown(name, None if secret else _value(held), secret=secret, is_set=is_set, source=source)


def _may_be_secret(annotation: object) -> bool:
    return annotation is Secret or any(_may_be_secret(each) for each in get_args(annotation))


def _value(held: object) -> Value:
    match held:
        case None:
            return None
        case IntEnum():
            return int(held)
        case SqliteFile(path):
            return str(path)
        case PostgresqlUrl(location):
            return _value(_PASSWORD.sub(r"\1:********@", location.reveal()))
        case Path() | IPv4Network() | IPv6Network():
            return str(held)
        case str():
            url, mark, _ = held.partition("?")  # the query of an address may be a secret
            return f"{url}?…" if mark else url
        case bool() | int() | float():
            return held
        case tuple():
            return [str(each) if isinstance(each, (IPv4Network, IPv6Network, Path)) else each for each in held]
        case _:
            raise TypeError(f"a setting of type {type(held).__name__} needs a way to be shown")
