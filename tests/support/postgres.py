"""A real PostgreSQL server for tests: as durable as the product wants it, and gone when the tests are gone."""

from __future__ import annotations

import os
import pwd
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

import psycopg
from psycopg import sql

from tests.support import postgres_keeper
from tests.support.postgres_installation import Installation, copy_of_wheel

StopMode = Literal["smart", "fast", "immediate"]

_SIGNALS: dict[StopMode, signal.Signals] = {
    "smart": signal.SIGTERM,  # waits until every client has left
    "fast": signal.SIGINT,  # rolls open transactions back
    "immediate": signal.SIGQUIT,  # as after a crash: the next start recovers
}
_USER = "mail_proxy"
_SECONDS_TO_START = 30
_SECONDS_TO_STOP = 30
# Below the ports that systems give to outgoing connections: while the server is stopped, a client that tries again and
# again must not be given the server's port for its own end, and so be connected to itself.
_PORTS = range(20000, 32000)

_CONFIGURATION = """
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = '{folder}'
max_connections = 200

# The product refuses to run on weaker ones.
fsync = on
full_page_writes = on
synchronous_commit = on

# A time zone that nobody expects shows where a time without one slips through.
timezone = '<+0545>-05:45'
log_timezone = 'UTC'
"""


class PostgresStartError(Exception):
    """The server did not come up; the message ends with what it logged."""


@dataclass(frozen=True, slots=True)
class _Account:
    """Whom the server runs as, in the terms of subprocess.Popen. All None: whom the tests run as."""

    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] | None = None


class PostgresServer:
    """A server with a data folder of its own, on 127.0.0.1. Its URLs and its data outlast stop and start."""

    def __init__(self, installation: Installation, folder: Path, account: _Account) -> None:
        self.installation = installation
        self.log = folder / "server.log"
        self._folder = folder
        self._data = folder / "data"
        self._account = account
        self._password = secrets.token_urlsafe(16)
        self._port = 0
        self._databases = count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", postgres_keeper.__file__, folder],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,  # what ends the tests' process group must not end it
        )

    @property
    def running(self) -> bool:
        """True while the server's process lives."""
        return self._process is not None and self._process.poll() is None

    def url(self, database: str) -> str:
        """Return the address of a database, whether it exists or not."""
        return f"postgresql://{_USER}:{self._password}@127.0.0.1:{self._port}/{database}"

    def create_database(self) -> str:
        """Create an empty database and return its URL."""
        name = f"test_{next(self._databases)}"
        self._execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Remove a database, and whoever is still connected to it."""
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def start(self) -> None:
        """Return once connections are accepted, after recovery where one is needed. Does nothing while running.

        Raises PostgresStartError when the server gives up or takes longer than 30 s.
        """
        if self.running:
            return
        deadline = time.monotonic() + _SECONDS_TO_START
        while True:
            logged = self.log.stat().st_size if self.log.exists() else 0
            if self._start_once(deadline):
                return
            with self.log.open(encoding="utf-8", errors="replace") as log:
                log.seek(logged)
                reason = log.read()
            # After a kill, the old server's children hold on to its shared memory for a moment.
            if "shared memory" not in reason or time.monotonic() > deadline:
                message = f"{self.installation} did not start:\n{reason}"
                raise PostgresStartError(message)
            time.sleep(0.05)

    def stop(self, mode: StopMode = "fast") -> None:
        """End the server as an administrator would. Does nothing while it is stopped."""
        self._end(_SIGNALS[mode])

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start; every connection is lost."""
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """End the server's first process by SIGKILL; its children follow when they notice, and nothing is shut down."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Let no process of the server execute anything (SIGSTOP); its kernel goes on answering for it. Linux only."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on where it was."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        assert self._process is not None
        mother = self._process.pid
        os.kill(mother, number)  # first, so that it makes no further ones
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[1]) == mother:
                    os.kill(int(stat.parent.name), number)
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended meanwhile

    def close(self) -> None:
        """End the server and remove its folder, for good."""
        self.stop("immediate")
        self._keeper.communicate()

    def create(self) -> None:
        """Create the data folder and start on a free port.

        Raises PostgresStartError.
        """
        self._initialize()
        for attempt in count(1):
            self._port = _free_port()
            (self._data / "postgresql.auto.conf").write_text(
                _CONFIGURATION.format(port=self._port, folder=self._folder), encoding="utf-8"
            )
            try:
                self.start()
            except PostgresStartError as error:
                # Somebody else may have taken the port since it was found to be free.
                if "could not bind" not in str(error) or attempt == 5:
                    raise
            else:
                return

    def _initialize(self) -> None:
        password_file = self._folder / "password"
        password_file.write_text(self._password, encoding="ascii")
        _give(password_file, self._account)
        initdb = subprocess.run(
            [
                *(self.installation.bin / "initdb", "--pgdata", self._data),
                *("--username", _USER, "--pwfile", password_file, "--auth", "scram-sha-256"),
                *("--encoding", "UTF8", "--locale", "C", "--no-sync"),
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=self._folder,
            env=_environment(),
            user=self._account.uid,
            group=self._account.gid,
            extra_groups=self._account.groups,
        )
        password_file.unlink()
        if initdb.returncode != 0:
            message = f"{self.installation} could not make a data folder:\n{initdb.stdout}{initdb.stderr}"
            raise PostgresStartError(message)

    def _start_once(self, deadline: float) -> bool:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [self.installation.bin / "postgres", "-D", self._data],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env=_environment(),
                user=self._account.uid,
                group=self._account.gid,
                extra_groups=self._account.groups,
                start_new_session=True,  # Ctrl-C reaches it through the end of the tests, not before
            )
        self._process = process
        self._tell_keeper(process.pid)
        while process.poll() is None:
            if self._is_ready(process.pid):
                return True
            if time.monotonic() > deadline:
                self.kill()
            time.sleep(0.01)
        self._tell_keeper(0)
        return False

    def _is_ready(self, pid: int) -> bool:
        """True once the server says so where pg_ctl looks: in the eighth line of its lock file."""
        try:
            lines = (self._data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        # The file may still be that of a server that was killed.
        return len(lines) >= 8 and int(lines[0]) == pid and lines[7].strip() == "ready"

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(_SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._process = None
            self._tell_keeper(0)

    def _tell_keeper(self, pid: int) -> None:
        if self._keeper.stdin is None:
            message = "the keeper was started without a pipe"
            raise AssertionError(message)
        self._keeper.stdin.write(f"{pid}\n")
        self._keeper.stdin.flush()

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)


@contextmanager
def running_postgres(installation: Installation) -> Iterator[PostgresServer]:
    """Give a new, empty, running server, which is gone afterwards.

    Raises PostgresStartError.
    """
    account = _account()
    folder = Path(tempfile.mkdtemp(prefix="mail-proxy-pg-", dir=_temporary_folder(account)))
    _give(folder, account)
    server = PostgresServer(_runnable(installation, folder, account), folder, account)
    try:
        server.create()
        yield server
    finally:
        server.close()


def _account() -> _Account:
    """Choose an ordinary user where the tests run as root, which PostgreSQL refuses."""
    if os.geteuid() != 0:
        return _Account()
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = names.get("postgres") or names["nobody"]
    return _Account(entry.pw_uid, entry.pw_gid, ())


def _give(path: Path, account: _Account) -> None:
    if account.uid is not None and account.gid is not None:
        os.chown(path, account.uid, account.gid)


def _temporary_folder(account: _Account) -> Path:
    """Choose a folder for temporary files that the account reaches, short enough for a socket's path (107 bytes)."""
    chosen = Path(tempfile.gettempdir()).resolve()
    everyone_enters = all(folder.stat().st_mode & 0o001 for folder in (chosen, *chosen.parents))
    if len(str(chosen)) <= 60 and (account.uid is None or everyone_enters):
        return chosen
    return Path("/tmp")  # noqa: S108 - only a fresh folder is made in it


def _runnable(installation: Installation, folder: Path, account: _Account) -> Installation:
    """Copy the wheel's programs if the account cannot run them where they are: in somebody's private home."""
    try:
        subprocess.run(
            [installation.bin / "initdb", "--version"],
            stdout=subprocess.DEVNULL,
            check=True,
            cwd=folder,
            user=account.uid,
            group=account.gid,
            extra_groups=account.groups,
        )
    except PermissionError:
        if not installation.from_wheel:
            raise
        copied = copy_of_wheel(installation, folder / "wheel")
        for path in (folder / "wheel", *(folder / "wheel").rglob("*")):
            _give(path, account)
        return copied
    return installation


def _environment() -> dict[str, str]:
    """What the programs see: no settings meant for another server (PGDATA, PGPORT), and messages in English."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return inherited | {"LC_ALL": "C"}


def _free_port() -> int:
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
