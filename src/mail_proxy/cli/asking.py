"""Asking people: each answer is checked at once, passwords are not shown, and nothing is done before they agree."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import click

from mail_proxy.cli.instances import InstanceError
from mail_proxy.cli.showing import cell


@dataclass(frozen=True)
class Question:
    """One thing to ask for. `field`: what it is for the API; an empty answer leaves it out, unless it is `needed`."""

    field: str
    text: str
    default: str | None = None
    read: Callable[[str], object] = str
    hidden: bool = False
    needed: bool = False
    when: Callable[[Mapping[str, object]], bool] = lambda _answers: True


Check = Callable[[str, object], str | None]
"""Says what is wrong with a value of a field, or None."""


def somebody_is_there() -> bool:
    """Say whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def ask(questions: Sequence[Question], check: Check, given: Mapping[str, object]) -> dict[str, object]:
    """Ask for what was not given; return all of it."""
    answers = dict(given)
    for each in questions:
        if each.field not in answers and each.when(answers):
            value = _asked(each, check)
            if value is not None:
                answers[each.field] = value
    return answers


def confirm(question: str, *, default: bool = False, force_also: str = "") -> None:
    """Go on only if somebody says yes. Raises `click.Abort`, or `InstanceError` where nobody can be asked.

    `force_also`: what `--force` does besides not asking.
    """
    if not somebody_is_there():
        besides = f"; it also {force_also}" if force_also else ""
        raise InstanceError(f"{question} Say --force where nobody can be asked{besides}")
    click.confirm(question, default=default, abort=True)


def summary(title: str, answers: Mapping[str, object], hidden: Sequence[str] = ()) -> None:
    """Show what would be written, secrets left out."""
    click.echo(f"\n{title}")
    width = max((len(each) for each in answers), default=0)
    for name, value in answers.items():
        click.echo(f"  {name.ljust(width)}  {'********' if name in hidden else cell(value)}")


def secret_of(given: str | None, what: str, name: str) -> str | None:
    """Return a secret that an option gave: `-` reads a line from stdin; one in clear is warned of."""
    from mail_proxy.cli.told import warn_of_process_list  # noqa: PLC0415

    if given is None:
        return None
    if given == "-":
        if sys.stdin.isatty():
            return str(click.prompt(what, hide_input=True))
        return sys.stdin.readline().rstrip("\r\n")
    warn_of_process_list(f"the {what.lower()}", f"{name} -, which reads it from stdin")
    return given


def _asked(question: Question, check: Check) -> object:
    default = question.default if question.needed or question.default is not None else ""
    while True:
        text = str(
            click.prompt(
                question.text,
                default=default,
                hide_input=question.hidden,
                show_default=bool(default) and not question.hidden,
            )
        ).strip()
        if not text and not question.needed:
            return None
        try:
            value = question.read(text)
        except ValueError as error:
            click.echo(f"  {error}")
            continue
        problem = check(question.field, value)
        if problem is None:
            return value
        click.echo(f"  {problem}")
