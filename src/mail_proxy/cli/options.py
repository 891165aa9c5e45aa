"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from mail_proxy.cli.showing import Form

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Show it as JSON.")


def forms(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command `--json` and `--csv`, and tell it the `form`."""

    @click.option("--json", "as_json", is_flag=True, help="Show them as JSON, with all fields.")
    @click.option("--csv", "as_csv", is_flag=True, help="Show them as CSV.")
    @wraps(command)
    def run(*args: Any, as_json: bool, as_csv: bool, **kwargs: Any) -> None:  # noqa: ANN401 - whatever the command takes
        if as_json and as_csv:
            raise click.UsageError("--json and --csv exclude each other")
        command(*args, form=Form.JSON if as_json else Form.CSV if as_csv else Form.LINES, **kwargs)

    return run


def examples(*lines: str) -> str:
    """Return what stands below a command's help."""
    return "\n".join(("\b", "Examples:" if len(lines) > 1 else "Example:", *(f"  {each}" for each in lines)))
