"""Many rows in one parameter and in one result row.

A Python thread gives up the interpreter at every row that it binds or fetches, and gets it back only when the event
loop lets go of it: with a busy loop a hundred rows cost a hundred waits (measured: 190 ms for 100 rows at the default
switch interval, 12 ms at 0.5 ms; one row 5 ms). So rows travel as one JSON text each way, and the database takes them
apart, on the other core.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, Subquery, Text, any_, bindparam, cast, func, literal_column, or_, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql.selectable import FromClause
from sqlalchemy.types import TypeEngine

from mail_proxy.domain.json_text import from_text, to_text

ALONE: Final = 100_000
"""Characters of a submission above which its content travels by itself instead of inside the packed rows."""

_NOT_STORABLE: Final = re.compile("[\0\ud800-\udfff]")


def pack(rows: Iterable[object]) -> str:
    """Write rows (or plain values) as the JSON text that `unpacked` reads.

    What no database takes in a text (NUL, half a surrogate pair) becomes U+FFFD, so that it spoils nothing. G13.
    """
    given = list(rows)
    text = to_text(given)
    if "\\u0000" in text or not (text.isascii() or _encodable(text)):
        text = to_text(_storable(given))
    return text


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _storable(value: object) -> object:
    match value:
        case str():
            return _NOT_STORABLE.sub("\ufffd", value)
        case list() | tuple():
            return [_storable(each) for each in value]
        case _:
            return value


def unpacked(dialect: str, columns: dict[str, TypeEngine[Any]], name: str = "rows") -> Subquery:
    """A table of the rows in the JSON parameter called `name`; columns in the order of each row."""
    if dialect == "sqlite":
        each = func.json_each(bindparam(name)).table_valued("value", name=f"{name}_each")
        taken: list[ColumnElement[Any]] = [
            func.json_extract(each.c.value, f"$[{i}]", type_=type_).label(column)
            for i, (column, type_) in enumerate(columns.items())
        ]
        return select(*taken).select_from(each).subquery(name)
    each = func.jsonb_array_elements(cast(bindparam(name), JSONB)).table_valued("value", name=f"{name}_each")
    taken = [
        cast(literal_column(f"({name}_each.value ->> {i})"), type_).label(column)
        for i, (column, type_) in enumerate(columns.items())
    ]
    # True of every row. PostgreSQL expects that one in two hundred is an array, so a single row, and begins joins here:
    # it would expect a hundred, and begin with a table that was smaller when it last looked.
    is_array = func.jsonb_typeof(each.c.value) == literal_column("'array'")
    return select(*taken).select_from(each).where(is_array).subquery(name)


def among(dialect: str, column: ColumnElement[Any], name: str = "pks") -> ColumnElement[bool]:
    """True where the column is one of the plain values in the JSON parameter called `name`."""
    if dialect == "sqlite":
        each = func.json_each(bindparam(name)).table_valued("value", name=f"{name}_each")
        return selected(dialect, column, select(each.c.value))
    element = func.jsonb_array_elements_text(cast(bindparam(name), JSONB)).table_valued("value", name=f"{name}_each")
    return selected(dialect, column, select(cast(element.c.value, column.type)))


def one_of(column: ColumnElement[Any], values: Iterable[str]) -> ColumnElement[bool]:
    """True where the column is one of these values, each written out: `in_` is only rendered when it is executed."""
    return or_(*(column == value for value in values))


def selected(dialect: str, column: ColumnElement[Any], values: Select[Any]) -> ColumnElement[bool]:
    """True where the column has one of the values of a select, which is run first."""
    if dialect == "sqlite":
        return column.in_(values)
    # an array is looked up in the column's index; a subquery would be joined, perhaps beginning with the whole table
    array: ColumnElement[Any] = func.array(values.scalar_subquery())
    return column == any_(array)


def packed(dialect: str, source: FromClause) -> Select[Any]:
    """A select of one value: all rows of `source` as one JSON text, in its order. Read it with `unpack`."""
    array, group = (
        (func.json_array, func.json_group_array) if dialect == "sqlite" else (func.json_build_array, func.json_agg)
    )
    value: Any = group(array(*source.c))
    if dialect != "sqlite":
        value = func.coalesce(cast(value, Text), literal_column("'[]'"))
    return select(value).select_from(source)


def unpack(text: object) -> list[list[Any]]:
    """Read the one value of a `packed` select."""
    rows: list[list[Any]] = from_text(text) if isinstance(text, str) else []
    return rows
