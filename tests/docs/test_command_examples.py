"""Every `mail-proxy …` that a page shows is a command that there is, with options that it has."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence

import click
import pytest

from mail_proxy.cli.commands import OF_INSTANCE, OF_TENANT, main
from tests.docs.pages import Page, pages

_SHOWN = re.compile(r"(?:^|[\s`(])(?:\S*/)?mail-proxy (?P<rest>[^`#|>&)\n]*)")


def _commands(page: Page) -> Iterator[str]:
    """Yield what follows `mail-proxy` in the page's shell blocks and code."""
    lines = [
        line for block in page.blocks if block.language == "sh" for line in block.text.replace("\\\n", " ").splitlines()
    ]
    for text in (*lines, *page.code):
        for found in _SHOWN.finditer(text):
            if "…" not in found["rest"] and found["rest"].strip():
                yield found["rest"]


def _resolved(words: Sequence[str]) -> tuple[click.Command | None, list[str]]:
    """Find the command that the words lead to; return it with the words that are left."""
    by_place: tuple[Mapping[str, click.Command], ...] = (
        main.commands,
        {each.name or "": each for each in OF_INSTANCE},
        {each.name or "": each for each in OF_TENANT},
    )
    for before, commands in enumerate(by_place):
        if len(words) > before and words[before] in commands:
            command: click.Command = commands[words[before]]
            rest = list(words[before + 1 :])
            while isinstance(command, click.Group) and rest and rest[0] in command.commands:
                command = command.commands[rest.pop(0)]
            return command, rest
    return None, list(words)


@pytest.mark.parametrize("page", [pytest.param(each, id=each.name) for each in pages()])
def test_every_command_of_a_page_exists_with_its_options(page: Page) -> None:
    wrong = []
    for shown in _commands(page):
        words = shlex.split(shown.replace("'", "").replace('"', ""), comments=False)
        if words[0].startswith("-") or not re.fullmatch(r"[\w.<>-]+", words[0]):
            continue  # an option of the whole, or the name of the program in a sentence
        command, rest = _resolved(words)
        if command is None:
            names = [word for word in words if not word.startswith("-")]
            if names in (["NAME"], ["NAME", "TENANT"]) or words[0] not in {"NAME", "myserver"}:
                continue  # the help of what is behind a name; or the program's name in a sentence
            wrong.append(shown)
            continue
        options = {option for parameter in command.params for option in parameter.opts + parameter.secondary_opts}
        options |= {"-h", "--help"}
        wrong += [shown for word in rest if word.startswith("--") and word.partition("=")[0] not in options]
    assert wrong == []
