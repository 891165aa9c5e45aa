"""A database is brought to this version's schema, by one instance at a time, and never past it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine, make_url, text

from mail_proxy.store.engines import postgresql_engine, sqlite_engine
from mail_proxy.store.errors import SchemaTooNew
from mail_proxy.store.migrating import MIGRATIONS, revisions
from mail_proxy.store.opening import NEWEST, StoreRefused, database_url, prepare
from mail_proxy.store.schema import metadata
from tests.edge.store.processes import openers
from tests.support.postgres import PostgresServer
from tests.support.stores import open_test_store


def engine_of(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return sqlite_engine(parsed, connections=1, read_only=False)
    return postgresql_engine(parsed, connections=1)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database in which there is no table yet."""
    if request.param == "sqlite":
        yield database_url(str(tmp_path / "migrated.db"))
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.create_database()
    yield url
    server.drop_database(url.rpartition("/")[2])


@pytest.fixture
def second_empty_url(empty_url: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of another one of the same kind."""
    if empty_url.startswith("sqlite"):
        yield database_url(str(tmp_path / "created.db"))
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    url = server.create_database()
    yield url
    server.drop_database(url.rpartition("/")[2])


def migrate(url: str) -> None:
    prepare(url, lambda held: held or "checked").engine.dispose()


def described(connection: Connection) -> dict[str, Any]:
    """All tables, columns, constraints and indexes, in the database's own words."""
    if connection.dialect.name == "sqlite":
        rows = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'alembic%'")).all()
        return {name: parts(normal(sql)) for name, sql in rows if sql is not None}
    statements = {
        "columns": "SELECT table_name, column_name, data_type, is_nullable, column_default, ordinal_position "
        "FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'",
        "indexes": "SELECT indexname, indexdef FROM pg_indexes "
        "WHERE schemaname = 'public' AND tablename <> 'alembic_version'",
        "constraints": "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE connamespace = 'public'::regnamespace AND conrelid <> 'alembic_version'::regclass",
    }
    connection.execute(text("CREATE TABLE IF NOT EXISTS alembic_version (version_num varchar(32))"))
    return {what: {tuple(row) for row in connection.execute(text(sql))} for what, sql in statements.items()}


def parts(sql: str) -> list[str]:
    """What a statement is made of: a column that was added later stands in the same line as the one before it."""
    head, _, rest = sql.partition("(")
    body, _, tail = rest.rpartition(")")
    split = re.split(r",(?![^(]*\))|\n", body)
    return [head.strip(), tail.strip(), *sorted(part.strip() for part in split if part.strip())]


def normal(sql: str) -> str:
    return re.sub(r"[ \t]+", " ", sql.replace('"', "")).replace("( ", "(").strip()


def test_the_migrations_make_the_schema(empty_url: str) -> None:
    migrate(empty_url)
    engine = engine_of(empty_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True, "target_metadata": metadata}
        )
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_the_migrations_make_what_the_schema_would_make_word_for_word(empty_url: str, second_empty_url: str) -> None:
    migrate(empty_url)
    found = []
    for url in (empty_url, second_empty_url):
        engine = engine_of(url)
        with engine.begin() as connection:
            if url == second_empty_url:
                metadata.create_all(connection)
            found.append(described(connection))
        engine.dispose()
    migrated, created = found
    assert migrated == created


def test_indexes_that_serve_one_state_hold_only_that(empty_url: str) -> None:
    migrate(empty_url)
    engine = engine_of(empty_url)
    with engine.begin() as connection:
        kept = "SELECT name, sql FROM sqlite_master WHERE type = 'index'"
        if engine.dialect.name == "postgresql":
            kept = "SELECT indexname, replace(indexdef, '::text', '') FROM pg_indexes WHERE schemaname = 'public'"
        definitions = {name: sql or "" for name, sql in connection.execute(text(kept))}
    engine.dispose()
    for name, condition in (
        ("ix_messages_ready", "state = 'ready'"),
        ("ix_messages_scheduled", "state = 'scheduled'"),
        ("ix_messages_held", "state = 'held'"),
        ("ix_messages_sending", "state = 'sending'"),
        ("ix_messages_expiring", "expires_ts IS NOT NULL"),
        ("ix_messages_unfinished", "finished_ts IS NULL"),
        ("ix_messages_reported", "reported_ts IS NOT NULL"),
        ("ix_messages_unreported", "reported_ts IS NULL"),
        ("ix_events_unreported", "reported_ts IS NULL"),
        ("ix_events_left_told", "left_behind"),
        ("ix_events_left_untold", "left_behind"),
    ):
        assert condition in definitions[name].partition(" WHERE ")[2], name


def test_opening_a_second_time_changes_nothing(empty_url: str) -> None:
    found = []
    for _ in range(2):
        migrate(empty_url)
        engine = engine_of(empty_url)
        with engine.begin() as connection:
            settings = connection.execute(text("SELECT name, value FROM settings ORDER BY name")).all()
            found.append((described(connection), settings))
        engine.dispose()
    assert found[0] == found[1]
    assert [tuple(row) for row in found[0][1]] == [("directory_version", "1"), ("encryption_check", "checked")]


def test_processes_that_start_together_on_an_empty_database_all_come_up(postgres: PostgresServer) -> None:
    url = postgres.create_database()
    with openers(url, 3) as processes:
        for process in processes:
            process.begin()
        for process in processes:
            process.wait_until_open()
        assert [process.end() for process in processes] == [0, 0, 0]
    engine = engine_of(url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM alembic_version")).scalar() == 1
        assert connection.execute(text("SELECT count(*) FROM settings")).scalar() == 2
        assert connection.execute(text("SELECT count(*) FROM instances")).scalar() == 0
    engine.dispose()
    postgres.drop_database(url.rpartition("/")[2])


def test_the_newest_revision_is_that_of_the_files() -> None:
    assert revisions()[0] == NEWEST


def test_what_migrates_is_not_loaded_where_there_is_nothing_to_migrate(empty_url: str) -> None:
    program = (
        "import sys; from mail_proxy.store.opening import prepare\n"
        "prepare(sys.argv[1], lambda held: held or 'checked').engine.dispose()\n"
        "print('alembic' in sys.modules)"
    )
    words = [sys.executable, "-c", program, empty_url]
    loaded = [subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip() for _ in range(2)]
    assert loaded == ["True", "False"]


async def test_a_database_of_a_later_version_is_refused_and_left_alone(empty_url: str) -> None:
    migrate(empty_url)
    engine = engine_of(empty_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaTooNew, match="schema 9999, which this version does not know; start the newer version"):
        await open_test_store(empty_url)
    with engine.begin() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "9999"
    engine.dispose()


def test_a_database_with_another_key_is_refused_and_left_alone(empty_url: str) -> None:
    asked: list[str | None] = []

    def another_key(held: str | None) -> str:
        asked.append(held)
        raise StoreRefused("the database was written with another key")

    with pytest.raises(StoreRefused, match="another key"):  # G16
        prepare(empty_url, another_key)
    engine = engine_of(empty_url)
    with engine.begin() as connection:
        assert not engine.dialect.has_table(connection, "messages")  # the first start has not left anything either
    migrate(empty_url)
    with pytest.raises(StoreRefused, match="another key"):
        prepare(empty_url, another_key)
    assert asked == [None, "checked"]
    engine.dispose()


def test_what_deleted_messages_left_is_found_and_feeds_begin_at_what_is_there(empty_url: str) -> None:
    engine = engine_of(empty_url)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0011")
        for tenant in ("acme", "quiet"):
            connection.execute(text(_A_TENANT), {"id": tenant})
        connection.execute(text(_A_MESSAGE))
        for event_id, message in ((5, 1), (7, 2), (9, 1)):
            connection.execute(text(_AN_EVENT), {"event_id": event_id, "message": message})
    migrate(empty_url)
    with engine.connect() as connection:
        left = connection.execute(text("SELECT event_id FROM events WHERE left_behind")).scalars().all()
        found = connection.execute(text("SELECT tenant_id, event_id FROM feed_horizons ORDER BY tenant_id")).all()
    engine.dispose()
    assert left == [7]
    assert [tuple(each) for each in found] == [("acme", 4), ("quiet", 9)]


_A_TENANT = """
INSERT INTO tenants (id, name, client_sync_path, client_attachment_path, active, on_uncertain, suspended, created_ts)
VALUES (:id, '', '', '', TRUE, 'resend', FALSE, 0)
"""
_A_MESSAGE = """
INSERT INTO messages (pk, tenant_id, id, account_pk, account_id, priority, state, attempts, digest, size, created_ts)
VALUES (1, 'acme', 'M1', 1, 'main', 2, 'sent', 1, '', 0, 0)
"""
_AN_EVENT = """
INSERT INTO events (event_id, tenant_id, message_pk, type, ts, entry)
VALUES (:event_id, 'acme', :message, 'sent', 0, '{}')
"""
