"""Reasons not to start: an exit code, one plain sentence, and no traceback."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.acceptance.conftest import NewInstance
from tests.acceptance.sinks import reserved_port
from tests.support.instance import ADMIN_TOKEN, Finished, run

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


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"GMP_API_TOKEN": ""}, ["GMP_API_TOKEN", "required"]),
        ({"GMP_MAX_RETRY": "3"}, ["GMP_MAX_RETRY", "not a setting", "GMP_MAX_RETRIES"]),
        ({"GMP_RETRY_DELAYS": "60,soon"}, ["GMP_RETRY_DELAYS", "number"]),
        ({"GMP_ENCRYPTION_KEY": "too-short"}, ["encryption key", "32 bytes"]),
        ({"GMP_DB_PATH": "mysql://db/mail"}, ["GMP_DB_PATH", "postgresql://"]),
        ({"GMP_DB_PATH": f"postgresql://mail:{PASSWORD}@127.0.0.1/mail"}, ["GMP_ENCRYPTION_KEY", "PostgreSQL"]),
    ],
    ids=["no-token", "unknown-name", "bad-value", "bad-key", "unknown-database", "postgresql-without-key"],
)
async def test_a_setting_that_cannot_be_right_stops_the_start(
    tmp_path: Path, settings: dict[str, str], words: list[str]
) -> None:
    ended = await refused(tmp_path, settings)
    for word in words:
        assert word in ended.stderr
    assert PASSWORD not in ended.stderr
    assert list(tmp_path.iterdir()) == []  # nothing is made before everything is clear


async def test_all_that_is_wrong_with_the_settings_is_said_at_once(tmp_path: Path) -> None:
    environment = {"GMP_PORT": "high", "GMP_COLOUR": "red"}
    ended = await run("serve", environment=environment, folder=tmp_path)
    lines = ended.stderr.splitlines()
    assert ended.code == 2
    assert len(lines) == 3
    assert [name for name in ("GMP_API_TOKEN", "GMP_PORT", "GMP_COLOUR") if not any(name in line for line in lines)] == []


@asynccontextmanager
async def silent_port() -> AsyncIterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


async def test_an_sqlite_file_has_one_owner_and_one_key(new_instance: NewInstance) -> None:
    instance = new_instance()
    await instance.start()
    database = {"GMP_DB_PATH": instance.settings["DB_PATH"]}
    ended = await refused(instance.folder, database)
    assert f"pid {instance.pid}" in ended.stderr
    assert instance.address in ended.stderr

    taken = {"GMP_PORT": instance.address.rpartition(":")[2]}
    ended = await refused(instance.folder, {**database, **taken})
    assert "cannot listen on 127.0.0.1:" in ended.stderr

    assert await instance.stop() == 0
    ended = await refused(instance.folder, {**database, "GMP_ENCRYPTION_KEY": KEY})
    assert "key" in ended.stderr
    assert KEY not in ended.stderr

    key = instance.folder / "encryption.key"
    key.rename(instance.folder / "elsewhere")
    ended = await refused(instance.folder, database)
    assert str(key) in ended.stderr
    assert not key.exists()  # a new one would open nothing

    (instance.folder / "elsewhere").rename(key)
    await instance.start()


async def test_a_postgresql_server_that_cannot_be_reached_is_told_within_ten_seconds(tmp_path: Path) -> None:
    def settings(port: int) -> dict[str, str]:
        url = f"postgresql://mail:{PASSWORD}@127.0.0.1:{port}/mail"
        return {"GMP_DB_PATH": url, "GMP_ENCRYPTION_KEY": KEY}

    with reserved_port() as closed:
        async with silent_port() as silent:
            answers = await asyncio.gather(
                refused(tmp_path, settings(closed.getsockname()[1])), refused(tmp_path, settings(silent))
            )
    for ended in answers:
        assert ended.seconds < 10
        assert PASSWORD not in ended.stdout + ended.stderr


async def test_a_postgresql_database_has_one_key(new_instance: NewInstance, postgres_url: str) -> None:
    instance = new_instance(postgres_url)
    await instance.start()
    instance.kill()
    ended = await refused(instance.folder, {"GMP_DB_PATH": postgres_url, "GMP_ENCRYPTION_KEY": KEY})
    assert "key" in ended.stderr
    assert postgres_url not in ended.stderr
    assert KEY not in ended.stderr
