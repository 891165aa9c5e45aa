"""Databases that released versions have written, opened by this one."""

from __future__ import annotations

import lzma
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import MetaData, create_engine, text

from mail_proxy.store import engines, opening
from mail_proxy.store.migrating import MIGRATIONS
from mail_proxy.store.opening import StoreRefused, database_url
from tests.acceptance.sinks import running_sink
from tests.support.instance import Instance, a_message, run
from tests.support.stores import open_test_store
from tests.upgrades.make import FOLDER, KEY

WRITTEN = sorted(FOLDER.glob("*.db.xz"))
STATES = {
    "sent": "sent",
    "failed": "failed",
    "partly": "sent",
    "put-off": "waiting",
    "expired": "waiting",
    "cancelled": "cancelled",
    "much-later": "waiting",
    "held": "waiting",
    "waiting": "waiting",
}


@pytest.fixture(params=WRITTEN, ids=lambda file: f"schema {file.name.partition('.')[0]}")
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A database file as a released version has left it."""
    file = tmp_path / "mail_service.db"
    file.write_bytes(lzma.decompress(request.param.read_bytes()))
    file.chmod(0o600)
    _as_if_just_written(file)
    return file


def _as_if_just_written(file: Path) -> None:
    """Move all times by the age of the file: what waits would have expired meanwhile."""
    with sqlite3.connect(file) as database:
        (written_at,) = database.execute("SELECT max(created_ts) FROM messages").fetchone()
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for _, column, kind, *_ in database.execute(f'PRAGMA table_info("{table}")').fetchall():
                if kind.startswith(("DOUBLE", "FLOAT")):
                    database.execute(
                        f'UPDATE "{table}" SET "{column}" = "{column}" + ? '  # noqa: S608 - names of our own tables
                        f'WHERE "{column}" BETWEEN 1.5e9 AND 3e9',
                        (time.time() - written_at,),
                    )
    database.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def old(written: Path, request: pytest.FixtureRequest) -> str:
    """The address of such a database, on SQLite or with the same rows on PostgreSQL."""
    if request.param == "sqlite":
        return str(written)
    url: str = request.getfixturevalue("postgres_url")
    _copy(written, url)
    return url


def _copy(file: Path, url: str) -> None:
    """Make the schema of a file in an empty PostgreSQL database, and put the file's rows into it."""
    target = create_engine(database_url(url).replace("postgresql://", "postgresql+psycopg://"))
    with sqlite3.connect(file) as source, target.begin() as connection:
        (schema,) = source.execute("SELECT version_num FROM alembic_version").fetchone()
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, schema)
        tables = MetaData()
        tables.reflect(connection)
        connection.execute(text("SET session_replication_role = replica"))
        source.row_factory = sqlite3.Row
        for table in tables.sorted_tables:
            connection.execute(table.delete())
            booleans = {column.name for column in table.columns if str(column.type) == "BOOLEAN"}
            rows = [
                {
                    name: bool(row[name]) if name in booleans and row[name] is not None else row[name]
                    for name in row.keys()  # noqa: SIM118 - iterating over a Row gives its values
                }
                for row in source.execute(f'SELECT * FROM "{table.name}"')  # noqa: S608 - names of our own tables
            ]
            if rows:
                connection.execute(table.insert(), rows)
            for column in table.columns:
                if (sequence := _sequence_of(connection, table.name, column.name)) is not None:
                    highest = max((row[column.name] for row in rows), default=0)
                    connection.execute(text("SELECT setval(:sequence, :at)"), {"sequence": sequence, "at": highest + 1})
    source.close()
    target.dispose()


def _sequence_of(connection: object, table: str, column: str) -> str | None:
    asked = text("SELECT pg_get_serial_sequence(:table, :column)")
    found: str | None = connection.execute(asked, {"table": table, "column": column}).scalar()  # type: ignore[attr-defined]
    return found


async def test_what_a_released_version_has_written_goes_on(old: str, tmp_path: Path) -> None:
    folder = tmp_path / "instance"
    folder.mkdir()
    instance = Instance(folder, old, ENCRYPTION_KEY=KEY)
    try:
        await instance.start()
        async with running_sink() as sink, instance.client() as client:
            found = await client.messages(tenant_id="acme")
            assert {name: message["state"] for name, message in found.items()} | {"waiting": "waiting"} == STATES
            assert set(await client.messages(tenant_id="acme", subject="Grüße")) == {"much-later"}
            assert found["sent"]["metadata"] == {"order": 7}
            assert {r["address"]: r["state"] for r in found["partly"]["recipients"]} == {
                "b@example.net": "sent",
                "no@example.net": "failed",
            }
            account = await client.get("/account/away", tenant_id="acme")
            assert (account["user"], account["has_password"]) == ("mailer", True)
            events = (await client.get("/messages/sent/events", tenant_id="acme"))["events"]
            assert [event["type"] for event in events] == ["queued", "sent"]
            # What was held goes out, and what had failed, once it is put back: to a server that is there now.
            for name in ("away", "main"):
                server = {"host": "127.0.0.1", "port": sink.port, "user": None, "password": None}
                await client.post("/account", {"id": name, "tenant_id": "acme", **server})
            await client.post("/commands/activate", tenant_id="acme", batch_code="held")
            await client.post("/commands/retry-messages", {"ids": ["failed"], "tenant_id": "acme"})
            await sink.wait_for(2)
            assert set(sink.ids) == {"held", "failed"}
            other = a_message("sent", subject="Another one", account_id="main", tenant_id="acme")
            (again,) = (await client.submit(other))["rejected"]
            assert again["code"] == "already_sent"
        assert await instance.stop() == 0
    finally:
        instance.close()


async def test_the_version_of_a_newer_schema_is_not_opened_by_an_older_one(written: Path, tmp_path: Path) -> None:
    with sqlite3.connect(written) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    before = _content(written)
    settings = {"GMP_API_TOKEN": "t", "GMP_DB_PATH": str(written), "GMP_ENCRYPTION_KEY": KEY, "GMP_PORT": "0"}
    ended = await run("serve", environment=settings, folder=tmp_path)
    assert ended.code == 1
    assert "the database has schema 9999, which this version does not know; start the newer version" in ended.stderr
    assert _content(written) == before


def _content(file: Path) -> bytes:
    return file.read_bytes()


# Versions beside each other on one PostgreSQL


@pytest.fixture
def at_an_older_schema(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database of the schema before this one, with an instance on its list."""
    monkeypatch.setattr(opening, "TWO_BEATS", 0.3)
    engine = create_engine(database_url(postgres_url).replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, "0014")
        connection.execute(text("INSERT INTO instances (id, counter, started_ts) VALUES ('old-one', 5, 0)"))
    engine.dispose()
    return postgres_url


async def test_a_new_schema_waits_until_the_old_version_has_ended(at_an_older_schema: str) -> None:
    engine = create_engine(database_url(at_an_older_schema).replace("postgresql://", "postgresql+psycopg://"))
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.05):
            with engine.begin() as connection:
                connection.execute(text("UPDATE instances SET counter = counter + 1"))

    old_one = threading.Thread(target=beat)
    old_one.start()
    try:
        with pytest.raises(StoreRefused, match=r"schema 0014, and this version needs \d+, but 1 other .*\(old-one\)"):
            await open_test_store(at_an_older_schema)
        with engine.connect() as connection:
            assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "0014"
    finally:
        ended.set()
        old_one.join()
    began = time.monotonic()
    store = await open_test_store(at_an_older_schema)  # it died without a word: its counter stands still
    assert time.monotonic() - began >= 0.3
    await store.close()
    engine.dispose()


async def test_the_look_at_others_is_no_transaction_that_was_left_open(
    at_an_older_schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(engines.POSTGRESQL_SESSION, "idle_in_transaction_session_timeout", "100ms")
    store = await open_test_store(at_an_older_schema)
    await store.close()


def test_how_long_it_looks_goes_by_the_lease(at_an_older_schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("mail_proxy.store.opening.time.sleep", slept.append)
    opening.prepare(at_an_older_schema, lambda held: held or "checked", lease=600.0).engine.dispose()
    assert slept == [101.0]  # it beats every 50 s


async def test_the_same_schema_lets_versions_work_beside_each_other(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await open_test_store(postgres_url, instance_id="old-version")
    monkeypatch.setattr(opening, "TWO_BEATS", 1000.0)  # it is not waited for
    second = await open_test_store(postgres_url, instance_id="new-version")
    assert set(await second.queue.instances()) == {"old-version", "new-version"}
    await second.close()
    await first.close()
