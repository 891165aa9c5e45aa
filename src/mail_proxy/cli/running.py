"""Starting instances, in the foreground and in the background, and asking how they are."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace

import click

from mail_proxy.cli.instances import (
    FIRST_PORT,
    MOST_PORTS,
    Instance,
    InstanceError,
    Refused,
    Running,
    Wanted,
    environment_of,
    make,
    runs_already,
)
from mail_proxy.cli.told import as_in_file, complain, for_instance
from mail_proxy.runtime.environment import put_in_place

DEFAULT_HOST = "127.0.0.1"
SECONDS_TO_START = 30.0
PATIENCE = 5.0
"""Seconds that an instance has to answer."""


def prepare(
    chosen: Instance, wanted: Wanted, others: Iterable[Instance], environment: Mapping[str, str], workers: int | None
) -> tuple[bool, Wanted]:
    """Make an instance that is new, telling its token this once; say whether it was, and what is left to ask for.

    Raises `InstanceError` where it runs already, and, before anything is made, for what a new one cannot start with.
    """
    running = chosen.running()
    if running is not None:
        raise InstanceError(runs_already(chosen.name, running))
    is_new = not chosen.exists
    if is_new:
        _refuse_what_cannot_start(chosen, wanted, environment, workers)
        token = make(chosen, wanted, {each.port for each in others})
        click.echo(f"{chosen.name} is made in {chosen.folder}.")
        click.echo(f"Its admin token, also in {chosen.config}: {token}")
        wanted = _with_key_in_file(chosen, wanted)
    elif wanted.database_url is not None:
        _refuse_another_database(chosen, wanted.database_url)
    left = replace(wanted, database_url=None)  # it is in the file
    try:
        give_key(chosen, left, environment)
    except InstanceError as error:
        raise with_what_stays(chosen, error) if is_new else error from None
    return is_new, left


def with_what_stays(chosen: Instance, error: InstanceError) -> InstanceError:
    """Return an error that says also what there is of a new instance that did not start."""
    return type(error)(f"{error}\nmail-proxy: {what_stays(chosen)}")


def what_stays(chosen: Instance) -> str:
    """Say what there is of a new instance that did not start."""
    return (
        f"{chosen.name} is made all the same, with its settings in {chosen.config}: mail-proxy start {chosen.name} "
        f"tries again, mail-proxy delete {chosen.name} takes it away"
    )


def _refuse_another_database(chosen: Instance, url: str) -> None:
    held = chosen.settings()
    before = str(held.get("db_path", held.get("database_url", ""))).strip()
    if _comparable(before) != _comparable(url):
        raise InstanceError(
            f"{chosen.name} has a database already, and this is another one: mail-proxy {chosen.name} config set "
            "DB_PATH=- changes it for good"
        )


def _comparable(url: str) -> str:
    return url.strip().replace("postgres://", "postgresql://", 1)


def _with_key_in_file(chosen: Instance, wanted: Wanted) -> Wanted:
    """Keep the key that a new instance was given as if it had been made; return what is left to ask for."""
    from mail_proxy.runtime.settings import KEY_FILE  # noqa: PLC0415 - takes a while
    from mail_proxy.secrets.keys import KEY_FILE_NAME, KeyRefused, make_key_file, parse_key  # noqa: PLC0415

    settings = dict(wanted.settings or {})
    key = settings.pop("ENCRYPTION_KEY", "").strip()
    try:
        if not key or KEY_FILE.is_file() or not make_key_file(chosen.folder, parse_key(key)):
            return wanted
    except KeyRefused as error:
        raise InstanceError(for_instance(chosen.name, str(error))) from None
    click.echo(f"The encryption key is written into {chosen.folder / KEY_FILE_NAME}: keep a copy of it elsewhere.")
    return replace(wanted, settings=settings)


def refuse_what_cannot_start_again(chosen: Instance, environment: Mapping[str, str]) -> None:
    """Raise `InstanceError` for settings and a key with which an instance that may run would not come up again."""
    from mail_proxy.cli.keys import problem_with_key  # noqa: PLC0415 - takes a while
    from mail_proxy.runtime.settings import Settings, SettingsError  # noqa: PLC0415

    try:
        settings = Settings.load(environment_of(chosen, Wanted(), environment))
    except SettingsError as error:
        raise Refused(_told_of(chosen, error.problems)) from None
    problem = problem_with_key(settings, settings.encryption_key, settings.encryption_keys_old)
    if problem is not None:
        raise Refused(for_instance(chosen.name, problem))


def _told_of(chosen: Instance, problems: Iterable[str]) -> str:
    return "; ".join(for_instance(chosen.name, each).removesuffix(".") for each in problems)


def give_key(chosen: Instance, wanted: Wanted, environment: Mapping[str, str]) -> None:
    """Make the encryption key of an instance on PostgreSQL that has none; beside an SQLite file it is made later.

    None is made where the database is sealed with one already, or cannot be asked: a new one would open nothing.
    Raises `InstanceError`.
    """  # G16
    from mail_proxy.cli.keys import lost_key  # noqa: PLC0415 - takes a while
    from mail_proxy.domain.errors import StoreUnavailable  # noqa: PLC0415
    from mail_proxy.runtime.setting_values import SqliteFile  # noqa: PLC0415
    from mail_proxy.runtime.settings import Settings, SettingsError  # noqa: PLC0415
    from mail_proxy.secrets.keys import KEY_FILE_NAME, KeyRefused, make_key_file  # noqa: PLC0415
    from mail_proxy.store.opening import StoreRefused  # noqa: PLC0415

    path = chosen.folder / KEY_FILE_NAME
    try:
        settings = Settings.load(environment_of(chosen, wanted, environment))
        if isinstance(settings.database, SqliteFile) or settings.encryption_key is not None or path.exists():
            return
        _tell_of_keys_in_the_environment(chosen, environment)
        lost = lost_key(settings)
        if lost is not None:
            raise Refused(for_instance(chosen.name, lost))
        if make_key_file(chosen.folder):
            click.echo(f"Its encryption key is made in {path}: keep a copy of it elsewhere.")
    except SettingsError:  # what starts it says what is wrong
        return
    except (KeyRefused, StoreRefused, StoreUnavailable) as error:
        raise InstanceError(f"{chosen.name} did not start: {for_instance(chosen.name, str(error))}") from None


def _tell_of_keys_in_the_environment(chosen: Instance, environment: Mapping[str, str]) -> None:
    if any(environment.get(name) for name in ("GMP_ENCRYPTION_KEY", "MAIL_PROXY_ENCRYPTION_KEY")):
        instead = f"mail-proxy {chosen.name} config set ENCRYPTION_KEY=-"
        complain(f"the encryption key in the environment is not looked at; to go by that one: {instead}")


def _refuse_what_cannot_start(
    chosen: Instance, wanted: Wanted, environment: Mapping[str, str], workers: int | None
) -> None:
    """Raise `InstanceError` for settings and an address with which an instance that is not there yet cannot start."""
    from mail_proxy.runtime.settings import Settings, SettingsError  # noqa: PLC0415 - takes a while
    from mail_proxy.secrets.keys import KeyRefused, parse_key  # noqa: PLC0415

    given = {"GMP_API_TOKEN": "is-made-later", **environment_of(chosen, wanted, environment)}
    if workers is not None:
        given["GMP_WORKERS"] = str(workers)
    try:
        key = Settings.load(given).encryption_key
        if key is not None:
            parse_key(key.reveal())
    except SettingsError as error:
        raise Refused(_told_of(chosen, error.problems)) from None
    except KeyRefused as error:
        raise Refused(as_in_file(str(error))) from None
    _listening(wanted.host or DEFAULT_HOST, FIRST_PORT, wanted.port).close()


def serve(chosen: Instance, wanted: Wanted, environment: Mapping[str, str], workers: int | None) -> int:
    """Run an instance that was made, until it is ended; return the exit code. Raises `InstanceError`."""
    from mail_proxy.cli import serving  # noqa: PLC0415 - takes a while

    host = wanted.host or chosen.host or DEFAULT_HOST
    listening = _listening(host, chosen.port, wanted.port)
    port = listening.getsockname()[1]
    try:
        held = chosen.take(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    except InstanceError:
        listening.close()
        raise
    in_file = wanted.host is None and chosen.host is not None
    told = replace(wanted, host=None if in_file else host, port=None if port == chosen.port else port)
    put_in_place(environment_of(chosen, told, environment))
    try:
        return serving.serve(workers, listening, lambda said: for_instance(chosen.name, said))
    finally:
        os.close(held)


def _listening(host: str, own_port: int, port: int | None) -> socket.socket:
    """Listen where the start says, else at the instance's port, or at the next one that is free."""
    from mail_proxy.runtime.http_server import AddressInUse, listening_socket  # noqa: PLC0415 - takes a while

    first = own_port if port is None else port
    most = MOST_PORTS if port is None and first else 1
    for each in range(first, first + most):
        try:
            return listening_socket(host, each)
        except AddressInUse as error:
            if not error.taken:
                raise InstanceError(f"{error.what}; give an address of this machine with --host") from None
            if most == 1:
                raise InstanceError(f"{error.what}; give a free one with --port") from None
    raise InstanceError(f"no port from {first} on is free on {host}: give one with --port")


def start(chosen: Instance, wanted: Wanted, environment: Mapping[str, str], workers: int | None) -> Running:
    """Run an instance in the background, and return when it is ready.

    Raises `InstanceError` with what it has said last.
    """
    child, begin = _spawned(chosen, {**asdict(wanted), "workers": workers}, environment)
    began = time.monotonic()
    while time.monotonic() < began + SECONDS_TO_START:
        running = chosen.running()
        if running is not None and running.pid == child.pid and is_ready(running.address):
            return running
        if child.poll() is not None:
            if (
                running is not None and running.pid != child.pid
            ):  # somebody else was quicker, and writes to the same log
                raise InstanceError(runs_already(chosen.name, running))
            kind = Refused if child.returncode == Refused.code else InstanceError
            raise kind(f"{chosen.name} did not start: {_said(chosen, begin)}")
        time.sleep(0.05)
    raise InstanceError(_given_up(chosen, child))


def _given_up(chosen: Instance, child: subprocess.Popen[bytes]) -> str:
    """Say that a start has taken too long. What `stop` finds may be bringing up its database, and is left alone."""
    late = f"{chosen.name} is not ready after {SECONDS_TO_START:g} s"
    running = chosen.running()
    if running is not None and running.pid == child.pid:
        return (
            f"{late}, and still runs (pid {child.pid}): mail-proxy status {chosen.name} asks again, mail-proxy stop "
            f"{chosen.name} ends it; look into {chosen.log}"
        )
    child.kill()
    child.wait()
    return f"{late}, and was ended; look into {chosen.log}"


def _spawned(
    chosen: Instance, asked: Mapping[str, object], environment: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a process of its own for it; return that, and where what it writes begins in its log.

    What is asked for goes by a pipe: a command line can be read by everybody.
    """  # G16
    with os.fdopen(os.open(chosen.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab") as log:
        begin = log.seek(0, os.SEEK_END)
        child = subprocess.Popen(
            [sys.executable, "-m", "mail_proxy.cli.background", chosen.name],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=chosen.folder,
            env=dict(environment),
            start_new_session=True,  # Ctrl-C in this terminal is not meant for it
        )
    assert child.stdin is not None  # noqa: S101 - asked for above
    child.stdin.write(json.dumps(asked).encode())
    child.stdin.close()
    return child, begin


def is_ready(address: str) -> bool:
    """Ask whether an instance is ready."""
    return bool(_asked(address, "", "/ready"))


def status_of(chosen: Instance, running: Running) -> Mapping[str, object]:
    """Ask an instance how it is doing; empty where it does not answer."""
    return _asked(running.address, str(chosen.settings().get("api_token", "")), "/status")


def _asked(address: str, token: str, path: str) -> Mapping[str, object]:
    from mail_proxy.client import ClientError, MailProxyClient  # noqa: PLC0415 - takes a while
    from mail_proxy.client.exchange import Call  # noqa: PLC0415

    with MailProxyClient(address, token, retries=0, timeout=PATIENCE) as client:
        try:
            return client.ask(Call("GET", path))
        except ClientError:
            return {}


def _said(chosen: Instance, begin: int) -> str:
    """The last line that it has written since then."""
    with chosen.log.open("rb") as log:
        log.seek(begin)
        lines = log.read().decode(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("mail-proxy: ") if lines else f"it said nothing; look into {chosen.log}"
