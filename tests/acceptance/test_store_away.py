"""A store that goes away, hangs or is full, below a real process: said within 5 s, and nothing lost."""  # G1, G2, G12

from __future__ import annotations

import asyncio
import resource
import shutil
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from sqlalchemy import make_url

from tests.acceptance.conftest import NewInstance
from tests.acceptance.sinks import Sink, running_sink
from tests.acceptance.tenants import Tenant, new_tenant
from tests.support.instance import Instance, a_message, eventually
from tests.support.postgres import PostgresServer
from tests.support.stalling_proxy import StallingProxy

WITHIN = 5.0
"""Seconds in which every request is answered."""
CLIENTS = 4
HARDLY_ANY = 0.5
"""Seconds that an answer may take longer on a busy machine than the service has let its caller wait."""


class Load:
    """Clients that go on submitting, one message each time, and repeat what was not accepted."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        self._ending = False
        self.accepted: set[str] = set()
        self.answers: Counter[int] = Counter()
        self.slowest = 0.0
        self.refusals: list[dict[str, object]] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        """Submit within the block; at its end each client finishes what it has begun."""
        clients = [asyncio.create_task(self._submit_on_and_on(n)) for n in range(CLIENTS)]
        try:
            yield self
            self._ending = True
            await asyncio.gather(*clients)
        finally:
            for client in clients:
                client.cancel()

    async def _submit_on_and_on(self, client: int) -> None:
        number = 0
        while not self._ending:
            id_ = f"{client}-{number}"
            body = {"messages": [a_message(id_)]}
            began = time.monotonic()
            response = await self._tenant.client.ask("POST", "/commands/add-messages", json=body)
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.answers[response.status_code] += 1
            if response.status_code == 200:
                receipt = response.json()
                assert receipt["queued"] + len(receipt["duplicates"]) == 1  # G2, G3
                self.accepted.add(id_)
                number += 1
            else:
                assert response.status_code == 503  # G12
                self.refusals.append(response.json())
            await asyncio.sleep(0.02)

    async def more(self, status: int, count: int = CLIENTS) -> None:
        """Return once so many further answers had this status."""
        wanted = self.answers[status] + count
        await eventually(lambda: self.answers[status] >= wanted, f"{count} more answers {status}", 40)


async def not_ready(instance: Instance) -> tuple[str, float]:
    """Ask whether it is ready until it is not; return the reason and how long that answer took."""
    async with instance.client(None) as anybody:
        for _ in range(100):
            began = time.monotonic()
            response = await anybody.ask("GET", "/ready")
            if response.status_code == 503:
                return response.json()["error"], time.monotonic() - began
            await asyncio.sleep(0.1)
    raise AssertionError("it never said that it is not ready")


async def ready_again(instance: Instance) -> float:
    """Return how many seconds it takes until it is ready."""
    began = time.monotonic()
    async with instance.client(None) as anybody:
        while (await anybody.ask("GET", "/ready")).status_code != 200:
            assert time.monotonic() - began < 40, "it never became ready again"
            await asyncio.sleep(0.1)
    return time.monotonic() - began


async def shown(
    what: str,
    instance: Instance,
    away: Callable[[], None],
    back: Callable[[], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Take the store away under load and bring it back; everything that was accepted arrives."""
    async with running_sink() as sink, new_tenant(instance, sink.port) as acme:
        load = Load(acme)
        async with load.running():
            await load.more(200, 20)
            accepted_before = load.answers[200]
            await asyncio.to_thread(away)
            await load.more(503)
            reason, seconds = await not_ready(instance)
            await load.more(503)
            accepted, arrived = load.answers[200], len(sink.arrivals)
            await load.more(503)
            assert load.answers[200] == accepted  # G12: never 200
            assert len(sink.arrivals) == arrived  # nor a final dot
            await asyncio.to_thread(back)
            took = await ready_again(instance)
            await load.more(200, 20)
        await eventually(lambda: sink.ledger.keys() >= load.accepted, "everything accepted arrives", 40)
        uncertain = await _uncertain(acme, sink)
        copies = sum(sink.ledger.values()) - len(sink.ledger)
    assert {refusal["code"] for refusal in load.refusals} == {"store_unavailable"}
    assert load.slowest < WITHIN + HARDLY_ANY
    assert seconds < WITHIN + HARDLY_ANY
    assert reason
    assert copies == 0
    with capsys.disabled():
        print(  # noqa: T201 - figures for whoever runs the tests
            f"\n  {what}: accepted {len(load.accepted)} ({accepted_before} before), answered 503 {load.answers[503]}, "
            f"lost {len(load.accepted - sink.ledger.keys())}, copies {copies}, uncertain {uncertain}, "
            f"slowest answer {load.slowest:.2f} s, not ready told in {seconds:.2f} s, ready again after {took:.1f} s"
            f"\n    {reason}"
        )


async def _uncertain(acme: Tenant, sink: Sink) -> int:
    copied = [mail_id for mail_id, count in sink.ledger.items() if count > 1]
    histories = [await acme.client.events(mail_id) for mail_id in copied]
    return sum(any(event["type"] == "uncertain" for event in history) for history in histories)


@pytest.fixture
def database_url(postgres: PostgresServer) -> Iterator[str]:
    """The URL of an empty database; whatever becomes of the server, it serves again afterwards."""
    postgres.start()
    yield postgres.create_database()
    postgres.start()


async def test_postgresql_is_killed_and_started_again(
    new_instance: NewInstance, postgres: PostgresServer, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    instance = new_instance(database=database_url)
    await instance.start()
    await shown("PostgreSQL killed", instance, postgres.kill, postgres.start, capsys)


async def test_postgresql_is_stopped_while_its_kernel_goes_on(
    new_instance: NewInstance, postgres: PostgresServer, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    instance = new_instance(database=database_url)
    await instance.start()
    try:
        await shown("PostgreSQL stopped (SIGSTOP)", instance, postgres.freeze, postgres.thaw, capsys)
    finally:
        postgres.thaw()


async def test_the_line_to_postgresql_swallows_everything(
    new_instance: NewInstance, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = make_url(database_url)
    with StallingProxy(url.port or 0).running() as proxy:
        behind = url.set(port=proxy.port).render_as_string(hide_password=False)
        instance = new_instance(database=behind)
        await instance.start()
        await shown("line stalled and lost", instance, proxy.stall, proxy.silence_for_good, capsys)
        assert await instance.stop() == 0


async def test_it_stops_in_time_although_its_database_says_nothing(
    new_instance: NewInstance, database_url: str
) -> None:
    url = make_url(database_url)
    with StallingProxy(url.port or 0).running() as proxy:
        instance = new_instance(database=url.set(port=proxy.port).render_as_string(hide_password=False))
        await instance.start(SHUTDOWN_GRACE="1")
        proxy.stall()
        assert await instance.stop() == 0


# -- SQLite ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A file system of some megabytes, more than the messages of a test take, where one may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    if not (mount and unmount) or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run([unmount, "--lazy", folder], check=True)


async def test_the_disk_below_sqlite_is_full(
    new_instance: NewInstance, small_disk: Path | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if small_disk is None:
        instance = new_instance()
        await instance.start()
        await shown("SQLite, files may not grow", instance, *limiting_files(instance), capsys)
        return
    instance = new_instance(DB_PATH=str(small_disk / "mail_service.db"))
    await instance.start()
    filler = small_disk / "filler"

    def fill() -> None:
        with filler.open("wb", buffering=0) as file, suppress(OSError):  # no space left
            while True:
                file.write(bytes(4096))

    await shown("SQLite, disk full", instance, fill, filler.unlink, capsys)


def limiting_files(instance: Instance) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return what keeps the files of a process from growing, and what lets them; writing fails as on a full disk."""
    _, hard = resource.prlimit(instance.pid, resource.RLIMIT_FSIZE)

    def fill() -> None:
        size = Path(instance.settings["DB_PATH"] + "-wal").stat().st_size
        resource.prlimit(instance.pid, resource.RLIMIT_FSIZE, (size, hard))

    def free() -> None:
        resource.prlimit(instance.pid, resource.RLIMIT_FSIZE, (hard, hard))

    return fill, free


def _ignore(_answer: object) -> None:
    pass


async def test_another_process_keeps_the_sqlite_file_locked(
    new_instance: NewInstance, capsys: pytest.CaptureFixture[str]
) -> None:
    instance = new_instance()
    await instance.start()
    other = sqlite3.connect(instance.settings["DB_PATH"], isolation_level=None, check_same_thread=False)
    try:
        await shown(
            "SQLite locked by another process",
            instance,
            lambda: _ignore(other.execute("BEGIN IMMEDIATE")),
            lambda: _ignore(other.execute("ROLLBACK")),
            capsys,
        )
    finally:
        other.close()
