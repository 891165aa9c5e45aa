"""What cannot be done is told in one sentence on stderr: exit code 1 where it failed, 2 where it was asked wrongly."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from typing import ParamSpec

import click

from mail_proxy.cli.instances import InstanceError

P = ParamSpec("P")
_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]+@|[?&]\w*password=[^&]", re.IGNORECASE)
_SET_THE_KEY = "set ENCRYPTION_KEY to the key"
_VARIABLE = re.compile(r"\bGMP_(?!HOME\b)(?=[A-Z])")


def told(command: Callable[P, int | None]) -> Callable[P, None]:
    """Tell what cannot be done in one sentence on stderr, with the exit code that is due."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            sys.exit(command(*args, **kwargs) or 0)
        except InstanceError as error:
            complain(str(error))
            sys.exit(error.code)

    return run


def complain(sentence: str) -> None:
    """Tell something on stderr."""
    click.echo(f"mail-proxy: {sentence}", err=True)


def warn_of_process_list(what: str, instead: str) -> None:
    """Say that a secret was in a command line, which everybody on the machine can read."""  # G16
    complain(f"{what} was in the process list, for everybody on this machine to read: better {instead}")


def warn_of_secrets(values: Mapping[str, str], instead: Callable[[str], str]) -> None:
    """Warn of settings that were given in clear: of those that are secret, and of a URL with a password."""  # G16
    from mail_proxy.runtime.shown_settings import is_secret  # noqa: PLC0415 - takes a while

    for name, value in values.items():
        if has_password(value) or (value.strip() and is_secret(name.lower())):
            warn_of_process_list(name, instead(name))


def has_password(url: str) -> bool:
    """Say whether there is a password in a URL."""
    return _PASSWORD.search(url) is not None


def ended(words: str) -> str:
    """Return words as a sentence with its end."""
    return words if words.endswith((".", "?", "!")) else f"{words}."


def as_in_file(sentence: str) -> str:
    """Return a sentence with the names of settings as they stand in a file."""
    return _VARIABLE.sub("", sentence)


def for_instance(name: str, sentence: str) -> str:
    """Return what a server says of its settings for an instance, which is set up by its file and by no variables."""
    said = as_in_file(sentence).replace("mail-proxy NAME", f"mail-proxy {name}")
    if "config set" in said:
        return said
    if _SET_THE_KEY in said:
        return said.replace(_SET_THE_KEY, f"give the key: mail-proxy {name} config set ENCRYPTION_KEY=-")
    if "ENCRYPTION_KEY" in said:
        return f"{said.removesuffix('.')}; a setting gives it: mail-proxy {name} config set ENCRYPTION_KEY=-"
    if said.startswith("the database cannot be used"):
        return f"{said.removesuffix('.')}; another one: mail-proxy {name} config set DB_PATH=-"
    return said
