"""The PostgreSQL that tests run on keeps its promises: with the system's programs, and with those of the wheel."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.support.postgres import PostgresServer, StopMode, running_postgres
from tests.support.postgres_installation import copy_of_wheel, installations

INSTALLATIONS = installations()


@pytest.fixture(scope="module", params=INSTALLATIONS, ids=str)
def server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    with running_postgres(request.param) as running:
        yield running


@pytest.fixture
def private_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "private"
    folder.mkdir(mode=0o700)
    return folder


def test_a_machine_without_a_server_has_the_wheel() -> None:
    assert [each.from_wheel for each in INSTALLATIONS].count(True) == 1


def test_it_is_the_server_whose_programs_were_found(server: PostgresServer) -> None:
    with psycopg.connect(server.create_database()) as connection:
        assert _one(connection, "SHOW server_version").startswith(server.installation.version)


def test_a_database_is_empty(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        assert _one(connection, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == "0"


def test_databases_do_not_see_each_other(server: PostgresServer) -> None:
    first, second = server.create_database(), server.create_database()
    with psycopg.connect(first) as connection:
        connection.execute("CREATE TABLE kept (n int)")

    with psycopg.connect(second) as connection:
        assert _one(connection, "SELECT count(*) FROM pg_tables WHERE tablename = 'kept'") == "0"


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes", "synchronous_commit"])
def test_a_commit_is_on_disk_as_in_production(server: PostgresServer, setting: str) -> None:  # G1
    with psycopg.connect(server.url("postgres")) as connection:
        assert _one(connection, f"SHOW {setting}") == "on"


def test_it_does_not_run_as_root(server: PostgresServer) -> None:
    with psycopg.connect(server.url("postgres")) as connection:
        data = Path(_one(connection, "SHOW data_directory"))

    assert data.stat().st_uid != 0


def test_nobody_enters_without_the_password(server: PostgresServer) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server.url("postgres"), password="another")


def test_a_dropped_database_is_gone_though_somebody_is_connected(server: PostgresServer) -> None:
    url = server.create_database()
    with psycopg.connect(url) as connection:
        server.drop_database(connection.info.dbname)

        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(url)


@pytest.mark.parametrize("mode", ["smart", "fast", "immediate"])
def test_what_was_committed_outlasts_a_restart(server: PostgresServer, mode: StopMode) -> None:
    url = _database_with_a_row(server)

    server.restart(mode)

    with psycopg.connect(url) as connection:
        assert _one(connection, "SELECT n FROM kept") == "7"


def test_what_was_committed_outlasts_a_kill(server: PostgresServer) -> None:
    url = _database_with_a_row(server)
    with psycopg.connect(url) as witness:
        server.kill()
        assert not server.running

        server.start()

        with pytest.raises(psycopg.OperationalError):
            witness.execute("SELECT 1")
    with psycopg.connect(url) as connection:
        assert _one(connection, "SELECT n FROM kept") == "7"


def test_a_stopped_server_refuses_connections_until_it_is_started(server: PostgresServer) -> None:
    server.stop()
    server.stop()

    with pytest.raises(psycopg.OperationalError, match="refused"):
        psycopg.connect(server.url("postgres"))

    server.start()
    server.start()
    psycopg.connect(server.url("postgres")).close()


def test_programs_in_a_private_folder_run_all_the_same(private_folder: Path) -> None:
    (wheel,) = (each for each in INSTALLATIONS if each.from_wheel)

    with running_postgres(copy_of_wheel(wheel, private_folder)) as server:
        assert server.running


def test_what_is_set_for_other_programs_does_no_harm(
    private_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGDATA", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("LC_ALL", "xx_YY")
    monkeypatch.setattr(tempfile, "tempdir", str(private_folder))

    with running_postgres(INSTALLATIONS[0]) as server:
        assert _listens(server.url("postgres"))


def test_nothing_is_left_behind() -> None:
    with running_postgres(INSTALLATIONS[0]) as server:
        url = server.url("postgres")
        folder = server.log.parent
        assert folder.exists()

    assert not folder.exists()
    assert not _listens(url)


def test_it_ends_with_tests_that_are_killed() -> None:
    program = (
        "import sys\n"
        "from tests.support.postgres import running_postgres\n"
        "from tests.support.postgres_installation import preferred_installation\n"
        "with running_postgres(preferred_installation()) as server:\n"
        "    print(server.url('postgres'), server.log.parent, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as tests:
        assert tests.stdout is not None
        url, folder = tests.stdout.readline().split()
        assert _listens(url)

        tests.kill()
        # The pipe is open until the last process that the tests started has gone.
        tests.stdout.read()

    assert tests.returncode == -signal.SIGKILL
    assert not _listens(url)
    assert not Path(folder).exists()


def _database_with_a_row(server: PostgresServer) -> str:
    url = server.create_database()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS n")
    return url


def _one(connection: psycopg.Connection, query: str) -> str:
    row = connection.execute(query).fetchone()
    assert row is not None
    return str(row[0])


def _listens(url: str) -> bool:
    address = conninfo_to_dict(url)
    with socket.socket() as client:
        return client.connect_ex((str(address["host"]), int(address["port"] or 0))) == 0
