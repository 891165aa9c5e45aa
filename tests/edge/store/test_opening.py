"""A database is opened by whom it belongs to, with settings that keep what is written, or not at all."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Engine, event, make_url, text

from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.store import engines
from mail_proxy.store.opening import AlreadyOpen, FileLock, StoreRefused, database_url, prepare, sqlite_file
from mail_proxy.store.operation import Operation, Transaction
from mail_proxy.store.store import Store, open_store
from tests.edge.store.notes import noting
from tests.edge.store.processes import openers
from tests.support.postgres import PostgresServer
from tests.support.stores import PlainCipher, SetClock, a_message, enqueue, open_test_store, with_account


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    store = await open_test_store(url)
    try:
        yield store
    finally:
        await store.close()


def checked(held: str | None) -> str:
    return held or "checked"


# -- who owns an SQLite file -----------------------------------------------------------------------------------------


async def test_a_second_process_is_told_who_has_the_file(sqlite_url: str) -> None:
    with openers(sqlite_url, 1) as (owner,):
        owner.begin()
        owner.wait_until_open()
        with pytest.raises(AlreadyOpen, match=rf"pid {owner.process.pid}, 127\.0\.0\.1:0\).*use PostgreSQL"):
            await open_test_store(sqlite_url)
        owner.process.kill()  # as a crash would: it says nothing and frees nothing
        owner.process.wait()
    async with opened(sqlite_url) as store:
        assert await store.queue.count_pending() == 0


async def test_a_link_to_a_file_is_the_same_file(sqlite_url: str, tmp_path: Path) -> None:
    async with opened(sqlite_url):
        link = tmp_path / "link.db"
        link.symlink_to(tmp_path / "mail_service.db")
        with pytest.raises(AlreadyOpen):
            await open_test_store(database_url(str(link)))


async def test_a_closed_file_is_free_again(sqlite_url: str) -> None:
    for _ in range(2):
        async with opened(sqlite_url):
            with pytest.raises(AlreadyOpen, match=f"pid {os.getpid()}"):
                await open_test_store(sqlite_url)


@pytest.mark.parametrize("where", ["the key", "the directory"])
async def test_an_opening_that_fails_leaves_the_file_free(sqlite_url: str, where: str) -> None:
    def another_key(_held: str | None) -> str:
        raise StoreRefused("another key")

    async with opened(sqlite_url) as store:
        if where == "the directory":
            with store.database.engine.begin() as connection:
                connection.execute(text("UPDATE settings SET value = 'x' WHERE name = 'directory_version'"))
    with pytest.raises((StoreRefused, ValueError), match=r"another key|invalid literal"):
        await open_store(
            sqlite_url,
            instance_id="refused",
            address="",
            cipher=PlainCipher(),
            check_key=another_key if where == "the key" else checked,
            clock=SetClock(),
        )
    lock = FileLock.take(Path(make_url(sqlite_url).database or ""), "")
    lock.free()


def test_the_lock_file_is_nobody_elses_to_read(tmp_path: Path) -> None:
    lock = FileLock.take(tmp_path / "mail.db", "127.0.0.1:8025")
    assert stat.S_IMODE((tmp_path / "mail.db.lock").stat().st_mode) == 0o600
    assert (tmp_path / "mail.db.lock").read_text() == f"pid {os.getpid()}, 127.0.0.1:8025\n"
    lock.free()


# -- paths that lead nowhere -----------------------------------------------------------------------------------------


async def test_a_path_that_cannot_be_a_database_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear Sir or Madam, " * 100)
    (tmp_path / "folder.db").mkdir()
    for name, sentence in (
        ("missing/mail.db", r"no database at .*missing/mail\.db: .*No such file or directory"),
        ("letter.txt/mail.db", r"no database at .*Not a directory"),
        ("folder.db", r"folder\.db is a folder; name a file in it"),
        ("letter.txt", r"letter\.txt cannot be opened: .*file is not a database"),
    ):
        with pytest.raises(StoreRefused, match=sentence):
            await open_test_store(database_url(str(tmp_path / name)))


@pytest.mark.parametrize("url", ["mysql://db/mail", "https://db/mail", "sqlite:mail.db://"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(StoreRefused, match="a path or a postgresql:// URL"):
        database_url(url)


def test_paths_and_urls_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert database_url("mail.db") == f"sqlite:///{tmp_path}/mail.db"
    assert database_url("/data/mail 1%.db") == "sqlite:////data/mail 1%.db"
    assert database_url("postgres://u:p@h/db") == database_url("postgresql://u:p@h/db") == "postgresql://u:p@h/db"
    assert sqlite_file("sqlite:////data/mail.db") == Path("/data/mail.db")
    assert sqlite_file("postgresql://u:p@h/db") is None


async def test_a_path_with_unusual_characters_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "100% été & co"
    folder.mkdir()
    async with opened(database_url(str(folder / "mail 1.db"))):
        assert (folder / "mail 1.db").exists()


# -- settings that keep what is written --------------------------------------------------------------------------------


async def test_sqlite_writes_durably_and_reads_without_a_chance_to_write(sqlite_store: Store) -> None:
    def pragmas(*names: str) -> list[object]:
        with sqlite_store.database.engine.connect() as connection:
            return [connection.execute(text(f"PRAGMA {name}")).scalar() for name in names]

    async def of_a_reader(name: str) -> object:
        return await sqlite_store.database.read(lambda c: c.execute(text(f"PRAGMA {name}")).scalar())

    assert pragmas("journal_mode", "synchronous", "foreign_keys", "query_only") == ["wal", 2, 1, 0]  # G1
    assert [await of_a_reader(name) for name in ("journal_mode", "query_only")] == ["wal", 1]


def test_a_place_where_sqlite_cannot_write_ahead_is_refused() -> None:
    with pytest.raises(StoreRefused, match="cannot use WAL here"):
        prepare("sqlite://", checked)  # in memory, as on a network's file system


async def test_sqlite_must_wait_for_its_disk(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def hurried(*args: Any, **options: Any) -> Engine:
        engine = engines.sqlite_engine(*args, **options)
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = NORMAL"))
        return engine

    monkeypatch.setattr("mail_proxy.store.database.sqlite_engine", hurried)
    with pytest.raises(StoreRefused, match=r"does not wait for the disk \(synchronous is 1, not FULL\)"):  # G1
        await open_test_store(sqlite_url)


@pytest.mark.parametrize("whose", ["DATABASE {database}", "ROLE {role}", "ROLE {role} IN DATABASE {database}"])
@pytest.mark.parametrize("value", ["off", "local", "remote_write"])
async def test_postgresql_must_wait_for_its_disk(postgres_url: str, value: str, whose: str) -> None:
    url = make_url(postgres_url)
    altered = f"ALTER {whose.format(database=url.database, role=url.username)}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"{altered} SET synchronous_commit = {value}".encode())
        try:
            with pytest.raises(StoreRefused, match=f"synchronous_commit = {value}.*set it to on"):  # G1
                await open_test_store(postgres_url)
        finally:
            connection.execute(f"{altered} RESET synchronous_commit".encode())
    async with opened(postgres_url):
        pass


async def test_an_address_that_asks_for_less_is_refused(postgres_url: str) -> None:
    weak = make_url(postgres_url).update_query_dict({"options": "-c synchronous_commit=off"})
    with pytest.raises(StoreRefused, match="synchronous_commit = off"):  # G1
        await open_test_store(weak.render_as_string(hide_password=False))


@contextmanager
def server_set_to(url: str, name: str, value: str) -> Iterator[None]:
    """Change the configuration of the running server within the block."""
    with psycopg.connect(url, autocommit=True) as connection:

        def alter(setting: str, expected: str) -> None:
            connection.execute(f"ALTER SYSTEM {setting}".encode())
            connection.execute("SELECT pg_reload_conf()")
            while connection.execute(f"SHOW {name}".encode()).fetchone() != (expected,):
                pass

        alter(f"SET {name} = {value}", value)
        try:
            yield
        finally:
            alter(f"RESET {name}", "on")


@pytest.mark.parametrize("name", ["fsync", "full_page_writes", "synchronous_commit"])
async def test_a_server_that_does_not_wait_for_its_disk_is_refused(postgres_url: str, name: str) -> None:
    with server_set_to(postgres_url, name, "off"), pytest.raises(StoreRefused, match=f"{name} = off.*set it to on"):
        await open_test_store(postgres_url)


async def test_sessions_go_on_waiting_for_the_disk_when_the_server_is_told_not_to(postgres_url: str) -> None:
    def wait_for_disk(transaction: Transaction, items: Sequence[str]) -> Sequence[object]:
        return [show("synchronous_commit", transaction.connection) for _ in items]

    async with opened(postgres_url) as store:
        with server_set_to(postgres_url, "synchronous_commit", "off"):
            assert await store.database.write(Operation("show", wait_for_disk), "x") == "on"  # G1
            store.database.engine.dispose()
            assert await store.database.write(Operation("show", wait_for_disk), "x") == "on"  # a new session, too


async def test_waiting_for_replicas_as_well_is_left_as_it_is(postgres_url: str) -> None:
    more = make_url(postgres_url).update_query_dict({"options": "-c synchronous_commit=remote_apply"})
    async with opened(more.render_as_string(hide_password=False)) as store:
        assert await store.database.read(partial(show, "synchronous_commit")) == "remote_apply"


async def test_postgresql_keeps_the_stores_plans_on_each_connection_also_after_an_error(postgres_url: str) -> None:
    async with opened(postgres_url) as store:
        with pytest.raises(ZeroDivisionError):
            await store.database.read(lambda _connection: 1 // 0)
        shown = {"enable_seqscan": "off", "plan_cache_mode": "force_generic_plan", "lock_timeout": "4s"}
        for name, value in shown.items():
            for _ in range(8):
                assert await store.database.read(partial(show, name)) == value


def show(name: str, connection: Connection) -> object:
    return connection.execute(text(f"SHOW {name}")).scalar()


# -- a database that is not there ------------------------------------------------------------------------------------


async def test_a_server_that_refuses_connections_is_unavailable(postgres_url: str) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        nowhere = make_url(postgres_url).set(port=taken.getsockname()[1])
        with pytest.raises(StoreUnavailable, match=r"cannot be used now: .*refused"):
            await open_test_store(nowhere.render_as_string(hide_password=False))


async def test_a_server_that_says_nothing_is_unavailable_within_five_seconds(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engines.CONNECT_TIMEOUT < 5  # G12
    monkeypatch.setitem(engines.CONNECT_ARGUMENTS, "connect_timeout", 2)  # the least that libpq takes
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        nowhere = make_url(postgres_url).set(port=silent.getsockname()[1])
        loop = asyncio.get_running_loop()
        started = loop.time()
        with pytest.raises(StoreUnavailable, match="timeout"):
            await open_test_store(nowhere.render_as_string(hide_password=False))
        assert loop.time() - started < 4


async def test_a_password_that_is_wrong_is_unavailable_and_not_shown(postgres_url: str) -> None:
    wrong = make_url(postgres_url).set(password="not-this-one").render_as_string(hide_password=False)
    with pytest.raises(StoreUnavailable, match="password authentication failed") as raised:
        await open_test_store(wrong)
    assert "not-this-one" not in str(raised.value)


async def test_a_store_is_closed_although_its_database_is_away(postgres_url: str, postgres: PostgresServer) -> None:
    store = await open_test_store(postgres_url)
    await asyncio.to_thread(postgres.stop)
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.database.write(noting(), "late")


# -- coming and going ------------------------------------------------------------------------------------------------


async def test_an_instance_is_on_the_list_while_it_is_open(store_url: str) -> None:
    async with opened(store_url) as store:
        assert dict(await store.queue.instances()) == {store.instance_id: 0}
    async with opened(store_url) as store:
        assert list(await store.queue.instances()) == [store.instance_id]


async def test_an_instance_that_comes_back_under_its_name_takes_its_place(store_url: str) -> None:
    first = await open_test_store(store_url, instance_id="me")
    await first.queue.beat(1.0)
    await first.database.close()  # without a word
    if first.lock is not None:
        first.lock.free()
    second = await open_test_store(store_url, instance_id="me")
    assert dict(await second.queue.instances()) == {"me": 0}
    await second.close()


async def test_what_is_stored_is_there_after_opening_again(store_url: str) -> None:
    async with opened(store_url) as store:
        await enqueue(store, a_message("M1", await with_account(store)))
        version = store.directory.version
    async with opened(store_url) as store:
        assert store.directory.version == version
        assert await store.archive.message("acme", "M1") is not None
