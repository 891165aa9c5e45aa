"""Rows packed into one text come out of both databases as they went in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import BigInteger, ColumnElement, Double, Engine, Integer, Text, make_url, select
from sqlalchemy.types import TypeEngine

from mail_proxy.store.engines import postgresql_engine, sqlite_engine
from mail_proxy.store.rows import among, pack, packed, unpack, unpacked

COLUMNS: dict[str, TypeEngine[Any]] = {"number": BigInteger(), "text": Text(), "time": Double(), "small": Integer()}
HARD_TEXTS = [
    "",
    " ",
    "%",
    "\\",
    "'",
    '"',
    "$1",
    ":rows",
    "%(rows)s",
    "[1]",
    "null",
    "\n\r\t\x01\x7f",
    "ß🜁\u2028",
    "😀",
]

numbers = st.integers(-(2**53), 2**53)
small = st.none() | st.integers(0, 2**31 - 1)
times = st.none() | st.floats(0, 4e9, allow_nan=False)
texts = st.none() | st.sampled_from(HARD_TEXTS) | st.text(st.characters(exclude_categories=["Cs"], min_codepoint=1))
rows_of_each_type = st.lists(st.tuples(numbers, texts, times, small), max_size=20)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    if request.param == "sqlite":
        file = tmp_path_factory.mktemp("rows") / "rows.db"
        engine = sqlite_engine(make_url(f"sqlite:///{file}"), connections=1, read_only=False)
    else:
        engine = postgresql_engine(make_url(request.getfixturevalue("shared_database")), connections=1)
    yield engine
    engine.dispose()


def through(engine: Engine, rows: list[Any]) -> list[list[Any]]:
    """Send rows there and back."""
    dialect = engine.dialect.name
    table = unpacked(dialect, COLUMNS)
    with engine.connect() as connection:
        return unpack(connection.execute(packed(dialect, select(table).subquery("s")), {"rows": pack(rows)}).scalar())


@given(rows=rows_of_each_type)
@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_come_back_as_they_were_and_in_their_order(engine: Engine, rows: list[Any]) -> None:
    back = through(engine, rows)
    assert [row[:2] + row[3:] for row in back] == [[n, t, s] for n, t, _, s in rows]
    # SQLite writes numbers with 15 digits: times keep their microseconds, nearly
    assert [row[2] for row in back] == [pytest.approx(row[2], abs=1e-4) for row in rows]


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_a_hard_text_comes_back(engine: Engine, text: str) -> None:
    assert through(engine, [(1, text, 0.5, 7)]) == [[1, text, 0.5, 7]]


@pytest.mark.parametrize("text", ["a\0b", "\0", "a\ud800", "\udfffz", "ß\0\ud83d"])
def test_what_no_database_takes_is_replaced(engine: Engine, text: str) -> None:
    ((_, back, *_),) = through(engine, [(1, text, None, None)])  # G13
    assert len(back) == len(text)
    assert back == "".join("\ufffd" if c == "\0" or "\ud800" <= c <= "\udfff" else c for c in text)


def test_a_backslash_before_u0000_is_not_taken_for_a_nul(engine: Engine) -> None:
    assert through(engine, [(1, "\\u0000", None, None)]) == [[1, "\\u0000", None, None]]


def test_no_rows_are_no_rows(engine: Engine) -> None:
    assert through(engine, []) == []
    assert unpack(None) == []


@pytest.mark.parametrize("chosen", [["a", "ß'"], ["'; --"], []])
def test_a_column_is_compared_with_the_packed_values(engine: Engine, chosen: list[str]) -> None:
    dialect = engine.dialect.name
    table = unpacked(dialect, {"text": Text()})
    text: ColumnElement[str] = table.c.text
    with engine.connect() as connection:
        found = connection.execute(
            select(text).where(among(dialect, text, "chosen")),
            {"rows": pack([(t,) for t in ("a", "b", "ß'", None)]), "chosen": pack(chosen)},
        ).scalars()
        assert list(found) == [t for t in ("a", "b", "ß'") if t in chosen]


def test_numbers_are_compared_as_numbers(engine: Engine) -> None:
    dialect = engine.dialect.name
    table = unpacked(dialect, {"number": BigInteger()})
    with engine.connect() as connection:
        found = connection.execute(
            select(table.c.number).where(among(dialect, table.c.number)),
            {"rows": pack([(1,), (2**53,), (10,)]), "pks": pack([2**53, 1])},
        ).scalars()
        assert sorted(found) == [1, 2**53]
