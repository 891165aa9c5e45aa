"""What cannot be done is told in one sentence on stderr: exit code 1 where it failed, 2 where it was asked wrongly."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import click

from mail_proxy.cli.instances import InstanceError

P = ParamSpec("P")


def told(command: Callable[P, int | None]) -> Callable[P, None]:
    """Tell what cannot be done in one sentence on stderr, with exit code 1."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            sys.exit(command(*args, **kwargs) or 0)
        except InstanceError as error:
            complain(str(error))
            sys.exit(1)

    return run


def complain(sentence: str) -> None:
    """Tell something on stderr."""
    click.echo(f"mail-proxy: {sentence}", err=True)


def warn_of_process_list(what: str, instead: str) -> None:
    """Say that a secret was in a command line, which everybody on the machine can read."""  # G16
    complain(f"{what} was in the process list, for everybody on this machine to read: better {instead}")
