"""No statement of the queue reads more, the longer the queue is: by the databases' own plans and counters.

The statements are taken down as they are executed. PostgreSQL keeps the plan of a prepared statement, so it has to be
right for tables of any size, with and without statistics.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, make_url

from mail_proxy.store.engines import postgresql_engine, sqlite_engine
from mail_proxy.store.opening import database_url
from tests.edge.store.every_verb import (
    COUNTS_IN_THE_BACKGROUND,
    COUNTS_UP_TO_MANY,
    LOOKS_AT_MORE_THAN_IT_SHOWS,
    ON_POSTGRESQL_ALONE,
    VERBS,
    Observe,
    fill,
    use_every_verb,
)
from tests.support.postgres import PostgresServer
from tests.support.stores import open_test_store

A_HANDFUL = 5
FEW = 1600
MANY = 20_000
BACKLOG = frozenset({"messages", "contents", "recipients", "events", "command_log"})
"""The tables that grow with what waits, and with what has been."""
SORTS_ITS_CHUNK = frozenset(
    {
        *("claim", "claim urgent", "claim and park", "claim again", "claim within a limit", "claim beyond a limit"),
        *("claim_expired", "claim_waited_out", "rescue", "delete account"),
        *("delete messages", "requeue", "clean", "enqueue"),
    }
)
"""Verbs that read a chunk by its numbers, or are given one, and put it in order."""
BOUNDED_BEYOND_THIS = COUNTS_UP_TO_MANY | LOOKS_AT_MORE_THAN_IT_SHOWS
STARTS_AT_THE_FIRST = frozenset({"ready_accounts", "survey", "claim_waited_out"})
"""Verbs that take the first row of an index, and go on from value to value."""
STEP_BY_STEP = frozenset(
    {
        *("Limit", "LockRows", "Result", "Subquery Scan", "Nested Loop", "Memoize", "Aggregate", "ModifyTable"),
        *("Index Scan", "Index Only Scan", "Function Scan", "CTE Scan", "WorkTable Scan", "Recursive Union"),
    }
)
"""What a plan may consist of on PostgreSQL: nothing that collects rows before it hands on the first."""
SITUATIONS = (
    "sqlite",
    "postgresql, empty",
    "postgresql, with a handful of rows",
    "postgresql, full since it was analysed",
    "postgresql, full",
)

Plans = Mapping[str, Sequence[tuple[str, Sequence[str]]]]
"""For each verb the problems of its statements: what was executed, and what is wrong with the plan."""


@dataclass(slots=True)
class Watch:
    """Takes down which statements each verb executes, and how many steps SQLite's machine makes for it."""

    verb: str | None = None
    statements: dict[str, dict[str, Any]] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def __call__(self, verb: str) -> Iterator[None]:
        self.verb = verb
        self.statements[verb], self.steps[verb] = {}, 0
        yield
        self.verb = None

    def executed(
        self, _connection: Connection, _cursor: object, sql: str, parameters: object, _context: object, _many: bool
    ) -> None:
        if self.verb is not None and not sql.startswith(("SAVEPOINT", "BEGIN", "PRAGMA")):
            self.statements[self.verb][sql] = parameters

    def connected(self, connection: object, _record: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.set_progress_handler(self.stepped, 1)

    def stepped(self) -> int:
        if self.verb is not None:
            self.steps[self.verb] += 1
        return 0


def watched(url: str, messages: int) -> Watch:
    """Use every verb on a store with so many messages."""

    async def run(observe: Observe) -> None:
        store = await open_test_store(url)
        try:
            await use_every_verb(store, await fill(store, messages), observe)
        finally:
            await store.close()

    watch = Watch()
    event.listen(Engine, "before_cursor_execute", watch.executed)
    event.listen(Engine, "connect", watch.connected)
    try:
        asyncio.run(run(watch))
    finally:
        event.remove(Engine, "before_cursor_execute", watch.executed)
        event.remove(Engine, "connect", watch.connected)
    return watch


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> tuple[Watch, Watch, Path]:
    """Every verb on a few messages and on many; the file with many."""
    folder = tmp_path_factory.mktemp("explain")
    few, many = (watched(database_url(str(folder / f"{n}.db")), n) for n in (FEW, MANY))
    return few, many, folder / f"{MANY}.db"


@pytest.fixture(scope="module")
def plans(on_sqlite: tuple[Watch, Watch, Path], postgres: PostgresServer) -> Mapping[str, Plans]:
    """What is wrong with the plans, for each situation."""
    _, many, file = on_sqlite
    found = {SITUATIONS[0]: explained_by_sqlite(database_url(str(file)), many)}
    used, fresh = postgres.create_database(), postgres.create_database()
    watch = watched(used, FEW)
    engine = postgresql_engine(make_url(fresh), connections=1)
    asyncio.run(_make(fresh, 0))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in BACKLOG:  # statistics come when the test says so
            connection.exec_driver_sql(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
        found[SITUATIONS[1]] = explained_by_postgresql(connection, watch)
        asyncio.run(_make(fresh, A_HANDFUL))
        connection.exec_driver_sql("ANALYZE")
        found[SITUATIONS[2]] = explained_by_postgresql(connection, watch)
        asyncio.run(_make(fresh, MANY))
        found[SITUATIONS[3]] = explained_by_postgresql(connection, watch)
        connection.exec_driver_sql("ANALYZE")
        found[SITUATIONS[4]] = explained_by_postgresql(connection, watch)
    engine.dispose()
    for url in (used, fresh):
        postgres.drop_database(url.rpartition("/")[2])
    return found


async def _make(url: str, messages: int) -> None:
    store = await open_test_store(url)
    try:
        if messages:
            await fill(store, messages)
    finally:
        await store.close()


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_finds_its_rows_by_an_index(plans: Mapping[str, Plans], situation: str, verb: str) -> None:
    statements = plans[situation].get(verb, [])
    assert statements or (situation == "sqlite" and verb in ON_POSTGRESQL_ALONE), "nothing was executed"
    bad = [f"{problem}\n{sql}" for sql, problems in statements for problem in problems]
    assert not bad, "\n\n".join(bad)


@pytest.mark.parametrize("verb", sorted({*VERBS} - COUNTS_IN_THE_BACKGROUND - BOUNDED_BEYOND_THIS))
def test_the_work_of_a_verb_does_not_grow_with_the_backlog(on_sqlite: tuple[Watch, Watch, Path], verb: str) -> None:
    few, many, _ = on_sqlite
    assert many.steps[verb] <= 1.2 * few.steps[verb] + 20


# -- reading plans -------------------------------------------------------------------------------------------------


def explained_by_sqlite(url: str, watch: Watch) -> Plans:
    engine = sqlite_engine(make_url(url), connections=1, read_only=True)
    found: dict[str, list[tuple[str, list[str]]]] = {}
    with engine.connect() as connection:
        for verb, statements in watch.statements.items():
            for sql, parameters in statements.items():
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters).scalars("detail").all()
                problems = [line for line in plan if touches_backlog(sql) and is_bad_on_sqlite(line, verb)]
                found.setdefault(verb, []).append((sql, problems))
    engine.dispose()
    return found


def touches_backlog(sql: str) -> bool:
    return any(re.search(rf"\b{table}\b", sql) for table in BACKLOG)


def is_bad_on_sqlite(line: str, verb: str) -> bool:
    """True for a table or an index that is read from end to end, and for rows that are sorted."""
    scanned = re.match(r"SCAN (\w+)(?: USING (COVERING )?INDEX)?", line)
    if scanned and scanned[1] in BACKLOG:
        counts = verb in COUNTS_IN_THE_BACKGROUND and scanned[2]
        takes_the_first = verb in STARTS_AT_THE_FIRST and "ix_messages_ready" in line
        return not (counts or takes_the_first)
    return "TEMP B-TREE" in line and verb not in SORTS_ITS_CHUNK and verb not in COUNTS_IN_THE_BACKGROUND


def explained_by_postgresql(connection: Connection, watch: Watch) -> Plans:
    indexes = connection.exec_driver_sql(
        "SELECT c.relname, a.attname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        "JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]"
    )
    leading = {row.relname: row.attname for row in indexes}
    return {
        verb: [
            (sql, list(postgresql_problems(generic_plan(connection, sql, parameters), verb, leading)))
            for sql, parameters in statements.items()
        ]
        for verb, statements in watch.statements.items()
    }


def generic_plan(connection: Connection, sql: str, parameters: Mapping[str, object]) -> dict[str, Any]:
    """Prepare the statement and return the plan that PostgreSQL keeps for it."""
    names: list[str] = []

    def numbered(found: re.Match[str]) -> str:
        if found[1] not in names:
            names.append(found[1])
        return f"${names.index(found[1]) + 1}"

    prepared = re.sub(r"%\((\w+)\)s", numbered, sql)
    cursor = connection.connection.cursor()
    cursor.execute(f"PREPARE explained AS {prepared}".encode())
    values = ", ".join(_literal(parameters[each]) for each in names)
    cursor.execute(f"EXPLAIN (FORMAT JSON) EXECUTE explained{f'({values})' if names else ''}".encode())
    ((explained,),) = cursor.fetchall()
    plan: dict[str, Any] = explained[0]["Plan"]
    cursor.execute(b"DEALLOCATE explained")
    return plan


def _literal(value: object) -> str:
    return "NULL" if value is None else "'" + str(value).replace("'", "''") + "'"


def postgresql_problems(
    node: Mapping[str, Any], verb: str, leading: Mapping[str, str], above: str = ""
) -> Iterator[str]:
    """Say what is wrong: tables read from end to end, indexes not used from their beginning, rows joined or sorted."""
    kind, table, index = node["Node Type"], node.get("Relation Name"), node.get("Index Name")
    allowed = (kind == "Sort" and verb in SORTS_ITS_CHUNK) or (table is None and verb in COUNTS_IN_THE_BACKGROUND)
    if kind not in STEP_BY_STEP and not allowed and (table is None or table in BACKLOG):
        yield f"{kind} on {table}"
    if table in BACKLOG and index is not None:
        condition = node.get("Index Cond", "")
        counting = verb in COUNTS_IN_THE_BACKGROUND and kind == "Index Only Scan"
        takes_the_first = verb in STARTS_AT_THE_FIRST and above == "Limit"
        if not re.search(rf"\b{leading[index]}\b", condition) and not counting and not takes_the_first:
            yield f"{kind} by {index} with ({condition})"
    for part in node.get("Plans", ()):
        yield from postgresql_problems(part, verb, leading, kind)
