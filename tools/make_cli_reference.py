"""`python tools/make_cli_reference.py`: makes docs/cli-reference.md of the commands. `make format` runs it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click

from mail_proxy.cli.commands import OF_INSTANCE, OF_TENANT, main

PAGE = Path(__file__).parents[1] / "docs" / "cli-reference.md"
_HEAD = """# Command line: every command

Made of the commands' own help by `tools/make_cli_reference.py`. [Command line](cli.md) tells how they work together.
Each has `-h`, `--help`. `--json` shows all that there is, for programs.
"""
_PARTS = (
    ("mail-proxy", "The machine", tuple(main.commands.values())),
    ("mail-proxy NAME", "An instance", OF_INSTANCE),
    ("mail-proxy NAME TENANT", "A tenant of an instance", OF_TENANT),
)


def reference() -> str:
    """Return the page."""
    parts = [_HEAD]
    for path, title, commands in _PARTS:
        parts.append(f"## {title}\n")
        for command in commands:
            parts += _sections(path, command)
    return "\n".join(parts)


def _sections(path: str, command: click.Command) -> Iterator[str]:
    here = f"{path} {command.name}"
    if isinstance(command, click.Group):
        for each in command.commands.values():
            yield from _sections(here, each)
        return
    context = click.Context(command, info_name=command.name)
    arguments = [each.make_metavar(context) for each in command.params if isinstance(each, click.Argument)]
    yield f"### `{' '.join((here, *arguments))}`\n"
    yield f"{_text(command)}\n"
    examples = [line.strip() for line in (command.epilog or "").splitlines() if line.startswith("  ")]
    yield "\n".join(("```sh", *examples, "```\n"))
    options = [each for each in command.params if isinstance(each, click.Option)]
    if options:
        yield "\n".join(("| option | does |", "|---|---|", *(_row(each, context) for each in options), ""))


def _row(option: click.Option, context: click.Context) -> str:
    shown, does = option.get_help_record(context) or ("", "")
    cells = [each.replace("|", "\\|") for each in (f"`{shown}`", " ".join(does.split()))]
    return f"| {cells[0]} | {cells[1]} |"


def _text(command: click.Command) -> str:
    """Return a command's help, each paragraph in one line."""
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(command.help or ""))
    return "\n\n".join(" ".join(each.split()) for each in paragraphs).replace("\b ", "")


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
