"""Instances on this machine: a folder each, below `~/.mail-proxy` or `GMP_HOME`.

NAME/config.toml       host, port, token and other settings (0600)
NAME/server.pid        who runs it, and where it answers; locked for as long as it runs
NAME/server.log        what it writes while it runs in the background
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
import signal
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from mail_proxy.domain.tenant import COMMAND_WORDS
from mail_proxy.runtime.environment import home_of_instances

FIRST_PORT = 8000
MOST_PORT = 65535
MOST_PORTS = 1000
MOST_NAMED = 5
"""How many instances are named where a name is none of theirs."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_PORT = re.compile(r"[0-9]{1,5}\Z")
_SETTING = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")


class InstanceError(Exception):
    """It cannot be done; the text is one sentence and says what to do."""

    code = 1
    """The exit code of a command that meets it."""


class Refused(InstanceError):
    """It was asked wrongly, or with settings that allow no start."""

    code = 2


class InUse(InstanceError):
    """Another process has its store open."""


@dataclass(frozen=True, slots=True)
class Running:
    """Who runs an instance, and where it answers."""

    pid: int
    address: str


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance: a folder that may be there or not."""

    name: str
    folder: Path

    @property
    def config(self) -> Path:
        """Its settings."""
        return self.folder / "config.toml"

    @property
    def log(self) -> Path:
        """What it writes in the background."""
        return self.folder / "server.log"

    @property
    def exists(self) -> bool:
        """True where it was made."""
        return self.config.is_file()

    def settings(self) -> Mapping[str, object]:
        """Return what its file sets; raises `InstanceError`."""
        from mail_proxy.runtime.config_file import ConfigFile, ConfigRefused  # noqa: PLC0415 - takes a while

        try:
            return ConfigFile(self.config).read()
        except ConfigRefused as error:
            raise InstanceError(str(error)) from None

    @property
    def port(self) -> int:
        """The port that its file names, else the first of all; 0: any."""
        port = str(self.settings().get("port", "")).strip()
        return int(port) if _PORT.match(port) and int(port) <= MOST_PORT else FIRST_PORT

    @property
    def host(self) -> str | None:
        """The address that its file names; None where it names none."""
        return str(self.settings().get("host", "")).strip() or None

    def running(self) -> Running | None:
        """Return who runs it; None where nobody does, also where whoever did was killed."""
        try:
            descriptor = os.open(self._pid_file, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return self._told()
        finally:
            os.close(descriptor)
        return None

    def take(self, address: str) -> int:
        """Become the one that runs it, for as long as this process lives; return the descriptor that holds the lock.

        Raises `InstanceError` where somebody else runs it, and says who.
        """
        descriptor = os.open(self._pid_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise InstanceError(runs_already(self.name, self._told())) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "address": address}).encode(), 0)
        return descriptor

    def stop(self, seconds: float, *, force: bool) -> bool:
        """End it, in good order for so many seconds; False where it still runs then. Raises `InstanceError`."""
        running = self.running()
        if running is None:
            raise InstanceError(f"{self.name} does not run.")
        for kind in (signal.SIGTERM, signal.SIGKILL) if force else (signal.SIGTERM,):
            os.kill(running.pid, kind)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                if self.running() is None:
                    return True
                time.sleep(0.05)
        return False

    def delete(self) -> None:
        """Remove it with all that it has. Raises `InstanceError` while it runs."""
        running = self.running()
        if running is not None:
            raise InstanceError(f"{self.name} runs (pid {running.pid}): mail-proxy stop {self.name}")
        shutil.rmtree(self.folder)

    @property
    def _pid_file(self) -> Path:
        return self.folder / "server.pid"

    def _told(self) -> Running | None:
        """Read what whoever has the lock has written; it may not have come to that."""
        for _ in range(20):
            try:
                told = json.loads(self._pid_file.read_text(encoding="utf-8"))
                return Running(int(told["pid"]), str(told["address"]))
            except (OSError, ValueError, KeyError, TypeError):
                time.sleep(0.02)
        return None


def runs_already(name: str, running: Running | None) -> str:
    """Say that somebody else runs it."""
    if running is None:
        return f"{name} is being started by another process: mail-proxy status {name}"
    return f"{name} runs already: pid {running.pid}, {running.address}"


def instance(name: str, environment: Mapping[str, str]) -> Instance:
    """Return an instance by its name; raises `InstanceError` for what cannot be one."""
    if not _NAME.match(name):
        raise InstanceError(f"{name!r} is no name of an instance: 1 to 64 of letters, digits, '.', '_', '-'")
    if name.lower() in COMMAND_WORDS:
        raise InstanceError(f"{name!r} is a word of the command line; choose another name")
    return Instance(name, home_of_instances(environment) / name)


def existing(name: str, environment: Mapping[str, str]) -> Instance:
    """Return an instance that was made; raises `InstanceError`, and names those that there are."""
    from difflib import get_close_matches  # noqa: PLC0415

    found = instance(name, environment)
    if not found.exists:
        names = [each.name for each in every(environment)]
        near = get_close_matches(name, names, 1)
        if near:
            hint = f"did you mean {near[0]}?"
        elif not names:
            hint = "there are none yet"
        else:
            more = "" if len(names) <= MOST_NAMED else ", …: mail-proxy list shows all of them"
            hint = f"there {'is' if len(names) == 1 else 'are'} {', '.join(names[:MOST_NAMED])}{more}"
        raise InstanceError(f"there is no instance {name}; {hint}")
    return found


def every(environment: Mapping[str, str]) -> Iterator[Instance]:
    """Go through all instances, by name."""
    folder = home_of_instances(environment)
    if folder.is_dir():
        for each in sorted(folder.iterdir()):
            found = Instance(each.name, each)
            if _NAME.match(each.name) and found.exists:
                yield found


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a start asks for; None: as before, or the default."""

    host: str | None = None
    port: int | None = None
    database_url: str | None = None
    settings: Mapping[str, str] | None = None


def make(made: Instance, wanted: Wanted, taken: Collection[int]) -> str:
    """Make an instance and return its token, which is in its file and shown nowhere else.

    Its port is the first one that is not in `taken`, from `FIRST_PORT` on.
    """
    from mail_proxy.runtime.config_file import ConfigFile  # noqa: PLC0415 - takes a while

    made.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    token = secrets.token_urlsafe(32)
    host = wanted.host or "127.0.0.1"
    values: dict[str, object] = {
        "api_token": token,
        "host": host,
        "port": next(each for each in count(FIRST_PORT) if each not in taken) if wanted.port is None else wanted.port,
        "instance_name": made.name,
        "cache_disk_dir": str(made.folder / "cache"),
    }
    if wanted.database_url is not None:
        values["db_path"] = wanted.database_url
    if not ConfigFile(made.config).create(f"The settings of {made.name}; docs/settings.md lists all of them.", values):
        raise InstanceError(f"{made.name} has just been made by another process: start it again")
    return token


def environment_of(chosen: Instance, wanted: Wanted, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that the server is started with: what the start asks for beats the file."""
    given = {name: value for name, value in environment.items() if not name.startswith(("GMP_", "MAIL_PROXY_"))}
    given["GMP_DATA_DIR"] = str(chosen.folder)
    for name, value in (("HOST", wanted.host), ("PORT", wanted.port), ("DB_PATH", wanted.database_url)):
        if value is not None:
            given[f"GMP_{name}"] = str(value)
    for name, text in (wanted.settings or {}).items():
        given[f"GMP_{name.upper()}"] = text
    return given


def parsed_settings(pairs: Sequence[str], before: str = "") -> Mapping[str, str]:
    """Read `NAME=VALUE`, as many as there are, each with the same words before it; raises `Refused`."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.removeprefix("GMP_")
        if not equals or not _SETTING.match(name):
            wrong = pair.partition("=")[0]
            raise Refused(f"{before}{wrong}: write {before}NAME=VALUE, such as {before}MAX_RETRIES=3")
        found[name.upper()] = value
    return found
