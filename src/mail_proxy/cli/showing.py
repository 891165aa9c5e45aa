"""How commands show things: tables on a terminal, plain lines in a pipe, JSON and CSV where they are asked for.

Whatever came from outside is made printable: nobody's subject line moves the cursor of an operator's terminal.
"""  # G16

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

Row = Mapping[str, Any]
NOTHING = "-"
_UTC = re.compile(r"\b(2\d{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01]) (?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d) UTC\b")


class Form(Enum):
    """What is written."""

    LINES = "lines"
    JSON = "json"
    CSV = "csv"


@dataclass(frozen=True)
class Column:
    """A column of a table: its name, and what a row has in it."""

    name: str
    of: Callable[[Row], object] | None = None

    def value(self, row: Row) -> object:
        """Return what stands there."""
        return row.get(self.name) if self.of is None else self.of(row)


def moment(name: str, of: str | None = None) -> Column:
    """Return a column with the time that a field has in Unix seconds."""
    return Column(name, lambda row: shown_time(row.get(of or name)))


def shown_time(ts: float | None) -> str | None:
    """Write a time as ISO 8601, in the zone of this machine."""
    if ts is None:
        return None
    try:
        return datetime.fromtimestamp(ts).astimezone().isoformat(sep=" ", timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return f"{ts:.0f}"


def in_local_time(text: str) -> str:
    """Return a sentence of the API with its times in the zone of this machine, as all others are shown."""
    return _UTC.sub(lambda found: _local(found[1]), text)


def _local(utc: str) -> str:
    return shown_time(datetime.fromisoformat(f"{utc}+00:00").timestamp()) or utc


def show_rows(rows: Iterable[Row], columns: Sequence[Column], form: Form, empty: str) -> None:
    """Show rows: JSON has all that is in them, a table and CSV the columns. `empty` is told where there are none."""
    if form is Form.JSON:
        show_json(list(rows))
    elif form is Form.CSV:
        _write_csv(rows, columns)
    else:
        lines = [[cell(each.value(row)) for each in columns] for row in rows]
        if lines:
            _show_table([each.name for each in columns], lines)
        else:
            click.echo(empty, err=True)


def show_fields(fields: Row, *, as_json: bool) -> None:
    """Show one thing, a line for each field: a name, and its value; what is in parts has a line for each part."""
    if as_json:
        show_json(fields)
        return
    lines = list(_flat(fields))
    width = max((len(name) for name, _ in lines), default=0)
    for name, value in lines:
        shown = cell(value)
        if sys.stdout.isatty():
            click.echo(f"{click.style(name.ljust(width), bold=True)}  {shown}")
        else:
            click.echo(f"{name}\t{shown}")


def show_json(value: object) -> None:
    """Show a value as JSON, with every character that is not printable escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    click.echo("".join(each if each.isprintable() or each == "\n" else _escaped(each) for each in text))


def cell(value: object) -> str:
    """Write a value in one printable line."""
    match value:
        case None | "" | [] | {}:
            return NOTHING
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.3f}".rstrip("0").rstrip(".")
        case list() | tuple():
            return ", ".join(cell(each) for each in value)
        case _:
            return printable(str(value))


def printable(text: str) -> str:
    """Return a text with every character escaped that is not printable by itself."""
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def _escaped(char: str) -> str:
    return json.dumps(char)[1:-1] if char != "\x7f" else "\\u007f"


def _flat(fields: Row, prefix: str = "") -> Iterable[tuple[str, object]]:
    for name, value in fields.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
            for number, each in enumerate(value):
                yield from _flat(each, f"{prefix}{name}.{number}.")
        elif name.endswith("_ts") or name in {"since", "until", "ts", "next_sync_due", "api_key_expires_at"}:
            yield f"{prefix}{name}", shown_time(value)
        elif prefix or name != "ok":
            yield f"{prefix}{name}", value


def _write_csv(rows: Iterable[Row], columns: Sequence[Column]) -> None:
    """Write CSV (RFC 4180, with plain line ends). What a spreadsheet would take for a formula gets an apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([each.name for each in columns])
    rest = iter(rows)
    while True:
        click.echo(text.getvalue(), nl=False)
        text.seek(0)
        text.truncate()
        some = list(islice(rest, 500))
        if not some:
            return
        for row in some:
            writer.writerow([_csv_cell(each.value(row)) for each in columns])


def _csv_cell(value: object) -> str:
    shown = "" if value is None else cell(value)
    shown = "" if shown == NOTHING else shown
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) and not isinstance(value, (int, float)) else shown


def _show_table(names: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Show a table to people, and tabs between the columns to programs."""
    if not sys.stdout.isatty():
        for line in (names, *lines):
            click.echo("\t".join(line))
        return
    from rich.table import Table  # noqa: PLC0415 - takes a while
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, overflow="fold")
    for line in lines:
        table.add_row(*(Text(each, _STYLES.get(each, "")) for each in line))
    console(stderr=False).print(table)


def console(*, stderr: bool) -> Console:
    """Return a terminal of rich, without colours where the user wants none."""
    from rich.console import Console  # noqa: PLC0415 - takes a while

    context = click.get_current_context(silent=True)
    plain = context is not None and context.color is False
    return Console(stderr=stderr, highlight=False, color_system=None if plain else "auto")


_STYLES = {
    **dict.fromkeys(("sent", "running"), "green"),
    **dict.fromkeys(("failed", "expired", "no answer"), "red"),
    **dict.fromkeys(("waiting", "deferred", "sending"), "yellow"),
    **dict.fromkeys(("cancelled", "stopped"), "dim"),
}
