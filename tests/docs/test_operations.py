"""What the page on operations says of backups, of files, and of starts that are refused."""

from __future__ import annotations

import re
import sqlite3
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
from sqlalchemy import create_engine, insert, text

from mail_proxy.delivery.journal import FlightJournal
from mail_proxy.domain.account import AuthMethod, TlsMode
from mail_proxy.domain.secret import Secret
from mail_proxy.runtime.app import open_app
from mail_proxy.runtime.http_server import listening_socket
from mail_proxy.runtime.settings import Settings, SettingsError
from mail_proxy.secrets.cipher import AesGcmCipher, check_key
from mail_proxy.secrets.keys import obtain_key, old_keys
from mail_proxy.store.database import Database
from mail_proxy.store.opening import FileLock, database_url, prepare
from mail_proxy.store.schema import tenants
from mail_proxy.store.sealed import refuse_unknown_keys
from tests.docs.pages import page, table_rows
from tests.docs.session import session
from tests.support.postgres import PostgresServer
from tests.support.stores import a_message, enqueue, open_test_store, with_account

OPERATIONS = page("docs/operations.md")


async def test_a_backup_made_while_the_store_is_open_holds_what_was_accepted(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (command,) = (block for block in OPERATIONS.blocks if block.mark == "run")
    store = await open_test_store(database_url(str(data / "mail_service.db")))
    account = await with_account(store)
    await enqueue(store, a_message("M1", account))
    with session(tmp_path, {"/tmp/operations": str(data)}) as reading:  # noqa: S108 - what stands in the page
        copy = data / reading.run(command).strip()
    assert copy.stat().st_mode & 0o777 == 0o600
    await enqueue(store, a_message("M2", account))
    await store.close()

    restored = tmp_path / "restored"
    restored.mkdir()
    copy.rename(restored / "mail_service.db")
    store = await open_test_store(database_url(str(restored / "mail_service.db")))
    try:
        assert await store.archive.message("acme", "M1") is not None
        assert await store.archive.message("acme", "M2") is None
        assert [each.id for each in await store.directory.accounts_of("acme")] == ["main"]
    finally:
        await store.close()


def test_a_backup_of_what_is_not_there_is_refused_in_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    (command,) = (block for block in OPERATIONS.blocks if block.mark == "run")
    with session(tmp_path, {"/tmp/operations": str(tmp_path)}) as reading:  # noqa: S108 - what stands in the page
        said = reading.run(replace(command, text=f"! {command.text}"))
    assert said.strip() == f"no copy of {tmp_path}/mail_service.db: unable to open database file"
    assert list(tmp_path.glob("*.db")) == []


async def test_the_files_of_an_instance_are_those_of_the_page_and_private(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    config = data / "config.toml"
    config.touch(0o600)
    config.write_text('api_token = "t"')
    settings = Settings.load({"GMP_DATA_DIR": str(data)}, key_file=tmp_path / "none")
    async with open_app(settings, "http://127.0.0.1:0"):
        files = {each.name: each.stat().st_mode for each in data.iterdir()}
    section = OPERATIONS.text.partition("## Files")[2].partition("\n## ")[0]
    told = {name for row in table_rows(section) for name in re.findall(r"`([^`]+)`", row[0])}
    assert set(files) == told
    assert {mode & 0o777 for mode in files.values() if not stat.S_ISDIR(mode)} == {0o600}
    assert {mode & 0o777 for mode in files.values() if stat.S_ISDIR(mode)} == {0o700}


def test_a_start_that_is_refused_says_why_in_the_words_of_the_page(tmp_path: Path) -> None:
    said = _refusals(tmp_path)
    silent = [row for words, row in _told().items() if not any(words.search(each) for each in said)]
    assert silent == ["`PostgreSQL has … = off`"]  # the test below makes it speak
    untold = [each for each in said if not any(words.search(each) for words in _told())]
    assert untold == []


def test_weak_settings_of_postgresql_are_refused_in_the_words_of_the_page(
    postgres: PostgresServer, postgres_url: str
) -> None:
    name = postgres_url.rpartition("/")[2]
    engine = create_engine(postgres_url.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f'ALTER DATABASE "{name}" SET synchronous_commit = off'))
    engine.dispose()
    sentence = _said(lambda: prepare(database_url(postgres_url), lambda held: held or "checked"))
    assert [row for words, row in _told().items() if words.search(sentence)] == ["`PostgreSQL has … = off`"]


def test_the_ways_to_protect_and_to_log_in_are_all_explained() -> None:
    assert {mode.value for mode in TlsMode if f"`{mode.value}`" not in page("docs/concepts.md").text} == set()
    assert {method.value for method in AuthMethod if f"`{method.value}`" not in page("docs/api.md").text} == set()


def _told() -> dict[re.Pattern[str], str]:
    """What the page quotes of refused starts, as patterns (… stands for anything), and as they stand there."""
    section = OPERATIONS.text.partition("### It does not start")[2].partition("\n### ")[0]
    rows = [row[0] for row in table_rows(section)][1:]
    return {re.compile(".*".join(map(re.escape, row.strip("`").split("…")))): row for row in rows}


def _open_without_driver() -> None:
    with patch.dict(sys.modules, {"psycopg": None}):
        prepare(database_url("postgresql://mail@127.0.0.1/mail"), lambda held: held or "checked")


def _refusals(folder: Path) -> list[str]:
    """Everything that is said by those who refuse a start."""
    none = folder / "none"
    lone, database, foreign = folder / "flight-0.log", folder / "mail.db", folder / "foreign.db"
    journal, lock = FlightJournal(lone, "a", "boot"), FileLock.take(database, "http://127.0.0.1:8000")
    listening = listening_socket("127.0.0.1", 0)
    held = check_key(AesGcmCipher(bytes(32)), None)
    prepare(database_url(str(foreign)), lambda _held: "checked").engine.dispose()
    with sqlite3.connect(foreign) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    config, open_config = folder / "config.toml", folder / "open" / "config.toml"
    open_config.parent.mkdir()
    config.touch(0o600)
    open_config.touch(0o644)
    config.write_text("port =")
    sealed = prepare(database_url(str(folder / "sealed.db")), partial(check_key, AesGcmCipher(bytes(32))))
    try:
        return [
            _said(lambda: Settings.load({"GMP_API_TOKEN": "t", "GMP_DATA_DIR": str(folder)}, key_file=none)),
            _said(
                lambda: Settings.load({"GMP_API_TOKEN": "t", "GMP_DATA_DIR": str(open_config.parent)}, key_file=none)
            ),
            _said(lambda: old_keys([Secret("too-short")])),
            _said(lambda: _find_an_old_secret(sealed)),
            _said(lambda: Settings.load({}, key_file=none)),
            _said(lambda: Settings.load({"GMP_API_TOKEN": "t", "GMP_WORKERS": "2"}, key_file=none)),
            _said(lambda: Settings.load({"GMP_API_TOKEN": "t", "GMP_RETRY_DELAY": "1"}, key_file=none)),
            _said(lambda: obtain_key(None, None, first_start=True)),
            _said(lambda: obtain_key(None, folder, first_start=False)),
            _said(lambda: check_key(AesGcmCipher(bytes(range(32))), held)),
            _said(lambda: FileLock.take(database, "http://127.0.0.1:8001")),
            _said(lambda: FlightJournal(lone, "b", "boot")),
            _said(_open_without_driver),
            _said(lambda: listening_socket("127.0.0.1", listening.getsockname()[1])),
            _said(lambda: prepare(database_url(str(foreign)), lambda _held: "checked")),
        ]
    finally:
        sealed.engine.dispose()
        listening.close()
        journal.close()
        lock.free()


def _find_an_old_secret(database: Database) -> None:
    with database.engine.begin() as connection:
        row = {"id": "acme", "name": "", "client_sync_path": "/", "client_attachment_path": "/", "active": True}
        row |= {"on_uncertain": "resend", "suspended": False, "created_ts": 1.0, "client_auth": "ENC1:0ld:AAAA"}
        connection.execute(insert(tenants).values(row))
        refuse_unknown_keys(connection, AesGcmCipher(bytes(32)))


def _said(start: Callable[[], object]) -> str:
    with pytest.raises(Exception) as refused:  # noqa: PT011 - what it says is what the test is about
        start()
    error = refused.value
    return "\n".join(error.problems) if isinstance(error, SettingsError) else str(error)
