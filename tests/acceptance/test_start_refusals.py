"""Reasons not to start: an exit code, one plain sentence, and no traceback."""

from __future__ import annotations

import asyncio
import re
import socket
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from mail_proxy.store.opening import NO_DRIVER
from tests.acceptance.sinks import reserved_port
from tests.support.instance import ADMIN_TOKEN, Finished, Instance, run
from tests.support.postgres import PostgresServer

KEY = "ffeeddccbbaa99887766554433221100" * 2
PASSWORD = "the-password-of-the-database"


async def refused(folder: Path, settings: Mapping[str, str]) -> Finished:
    """Start with these settings; return how it ended, which has to be as every refusal ends."""
    given = {"GMP_API_TOKEN": ADMIN_TOKEN, "GMP_PORT": "0", "GMP_DATA_DIR": str(folder), **settings}
    ended = await run("serve", environment={name: value for name, value in given.items() if value}, folder=folder)
    assert ended.code in {1, 2}, ended
    assert "Traceback" not in ended.stdout + ended.stderr, ended
    assert '"exception"' not in ended.stdout
    sentence = ended.stderr
    assert sentence.count("\n") == 1, sentence
    assert re.fullmatch(r"mail-proxy: \S.*\S\n", sentence), sentence
    assert len(sentence) < 400
    assert ADMIN_TOKEN not in sentence
    return ended


REFUSED: dict[str, tuple[dict[str, str], list[str]]] = {
    "unknown name": ({"GMP_MAX_RETRY": "3"}, ["GMP_MAX_RETRY", "not a setting", "GMP_MAX_RETRIES"]),
    "bad key": ({"GMP_ENCRYPTION_KEY": "too-short"}, ["encryption key", "32 bytes"]),
    "unknown reporter": ({"GMP_REPORTER": "kafka"}, ["GMP_REPORTER", "'kafka'", "there is: http"]),
    "postgresql without key": (
        {"GMP_DB_PATH": f"postgresql://mail:{PASSWORD}@127.0.0.1/mail"},
        ["GMP_ENCRYPTION_KEY", "PostgreSQL"],
    ),
}


async def test_a_setting_that_cannot_be_right_stops_the_start(tmp_path: Path) -> None:
    ended = await asyncio.gather(*(refused(tmp_path, settings) for settings, _ in REFUSED.values()))
    for (name, (_, words)), each in zip(REFUSED.items(), ended, strict=True):
        for word in words:
            assert word in each.stderr, (name, each)
        assert PASSWORD not in each.stderr, name
    assert files_in(tmp_path) == []  # nothing is made before everything is clear


async def test_all_that_is_wrong_with_the_settings_is_said_at_once_a_sentence_each(tmp_path: Path) -> None:
    """Without a token anybody could send mail."""  # G16
    ended = await run("serve", environment={"GMP_RETRY_DELAYS": "60,soon"}, folder=tmp_path)
    assert ended.code == 2
    told = dict(re.findall(r"(?m)^mail-proxy: (GMP_\w+) (.*)$", ended.stderr))
    assert told.keys() == {"GMP_API_TOKEN", "GMP_RETRY_DELAYS"}
    assert ended.stderr.count("\n") == len(told)
    assert told["GMP_API_TOKEN"].startswith("is required")
    assert "number" in told["GMP_RETRY_DELAYS"]
    assert files_in(tmp_path) == []


def files_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@asynccontextmanager
async def silent_port() -> AsyncIterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


async def test_a_running_instance_keeps_its_file_and_its_address(shared: Instance) -> None:
    database = {"GMP_DB_PATH": shared.settings["DB_PATH"]}
    taken = {"GMP_PORT": shared.address.rpartition(":")[2]}
    same_file, same_address = await asyncio.gather(
        refused(shared.folder, database), refused(shared.folder, {**database, **taken})
    )
    assert f"pid {shared.pid}" in same_file.stderr
    assert shared.address in same_file.stderr
    assert f"cannot listen on 127.0.0.1:{taken['GMP_PORT']}" in same_address.stderr


async def test_an_sqlite_file_has_one_key_whichever_is_given_or_lies_beside_it(
    shared: Instance, tmp_path: Path
) -> None:
    folders = [tmp_path / "given", tmp_path / "gone"]
    for folder in folders:
        folder.mkdir()
        with (
            closing(sqlite3.connect(shared.settings["DB_PATH"])) as original,
            closing(sqlite3.connect(folder / "mail_service.db")) as copy,
        ):
            original.backup(copy)
    given, gone = await asyncio.gather(
        refused(folders[0], {"GMP_ENCRYPTION_KEY": KEY}),
        refused(folders[1], {}),
    )
    assert "key" in given.stderr
    assert KEY not in given.stderr
    assert str(folders[1] / "encryption.key") in gone.stderr
    assert "encryption.key" not in files_in(folders[1])  # a new one would open nothing


async def test_a_postgresql_server_that_cannot_be_reached_is_told_within_ten_seconds(tmp_path: Path) -> None:
    def settings(port: int) -> dict[str, str]:
        url = f"postgresql://mail:{PASSWORD}@127.0.0.1:{port}/mail"
        return {"GMP_DB_PATH": url, "GMP_ENCRYPTION_KEY": KEY}

    with reserved_port() as closed:
        async with silent_port() as silent:
            from_closed, from_silent = await asyncio.gather(
                refused(tmp_path, settings(closed.getsockname()[1])), refused(tmp_path, settings(silent))
            )
    # On a machine so busy that even the plain refusal takes long, the other may take as much longer as it ever does.
    assert from_silent.seconds < max(10, from_closed.seconds + 6)
    for ended in (from_closed, from_silent):
        assert "database" in ended.stderr
        assert PASSWORD not in ended.stdout + ended.stderr


async def test_postgresql_without_its_driver_names_the_extra(tmp_path: Path) -> None:
    away = tmp_path / "away"
    away.mkdir()
    (away / "psycopg.py").write_text("raise ModuleNotFoundError(\"No module named 'psycopg'\", name='psycopg')\n")
    url = f"postgresql://mail:{PASSWORD}@127.0.0.1/mail"
    (folder := tmp_path / "data").mkdir()
    ended = await refused(
        folder, {"GMP_DB_PATH": url, "GMP_ENCRYPTION_KEY": KEY, "PYTHONPATH": str(away), "PYTHONDONTWRITEBYTECODE": "1"}
    )
    assert ended.code == 1
    assert ended.stderr == f"mail-proxy: {NO_DRIVER}\n"
    assert "pip install '.[postgresql]' in a checkout" in NO_DRIVER


async def test_a_postgresql_database_has_one_key(on_postgresql: Instance) -> None:
    database = {"GMP_DB_PATH": on_postgresql.settings["DB_PATH"]}
    ended = await refused(on_postgresql.folder, {**database, "GMP_ENCRYPTION_KEY": KEY})
    assert "key" in ended.stderr
    assert on_postgresql.settings["DB_PATH"] not in ended.stderr
    assert KEY not in ended.stderr


@pytest.mark.parametrize("whose", ["DATABASE {database}", "ROLE {role} IN DATABASE {database}"])
async def test_a_postgresql_that_does_not_wait_for_its_disk_is_refused(
    postgres: PostgresServer, tmp_path: Path, whose: str
) -> None:
    postgres.start()
    url = make_url(postgres.create_database())
    altered = f"ALTER {whose.format(database=url.database, role=url.username)} SET synchronous_commit = off"
    address = url.render_as_string(hide_password=False)
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(altered.encode())
    ended = await refused(tmp_path, {"GMP_DB_PATH": address, "GMP_ENCRYPTION_KEY": KEY})
    assert "synchronous_commit = off: an accepted message could be lost; set it to on" in ended.stderr  # G1
