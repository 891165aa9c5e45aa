"""Several workers on one port and one PostgreSQL database: one service, whichever of them answers."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mail_proxy.api.metrics_text import FRESH
from tests.acceptance.sinks import running_sink
from tests.acceptance.tenants import new_tenant
from tests.support.callback_server import CallbackServer
from tests.support.instance import ADMIN_TOKEN, Instance, a_message, eventually, run
from tests.support.smtp_servers import real_server

COUNT = 200


@pytest.fixture
async def instance(postgres_url: str, tmp_path: Path) -> AsyncIterator[Instance]:
    """Two workers on an empty database, started."""
    instance = Instance(tmp_path, postgres_url, WORKERS="2", SHUTDOWN_GRACE="2")
    await instance.start()
    yield instance
    await closed(instance)


async def closed(instance: Instance) -> None:
    """Leave no process behind."""
    instance.close()
    await eventually(lambda: not any(map(alive, workers(instance).values())), "no worker outlives its parent")


def files_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def workers(instance: Instance) -> dict[int, int]:
    """The process of each worker, by its number."""
    return {line["worker"]: line["pid"] for line in instance.logged("worker serving")}


def alive(pid: int) -> bool:
    """True while there is a process that runs; one that waits for its parent's attention has ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in {"Z", "X"}


@contextmanager
def only(instance: Instance, worker: int) -> Iterator[None]:
    """Let the others execute nothing, so that it is this worker that answers."""
    others = [pid for number, pid in workers(instance).items() if number != worker]
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in filter(alive, others):
            os.kill(pid, signal.SIGCONT)


async def metrics(instance: Instance) -> dict[str, float]:
    """What `/metrics` says to a new connection, but what belongs to a process."""
    async with instance.client() as client:
        text = (await client.ask("GET", "/metrics")).text
    found = re.findall(r"^(gmp_[^ ]*) (\S+)$", text, re.MULTILINE)
    assert set(re.findall(r'process_open_fds{worker="(\d)"}', text)) == {"0", "1"}
    return {name: float(value) for name, value in found}


def sent(counted: dict[str, float], tenant_id: str) -> float:
    return counted[f'gmp_sent_total{{account_id="main",tenant_id="{tenant_id}"}}']


async def test_two_workers_deliver_each_message_once_and_show_one_sum(instance: Instance) -> None:
    ids = [f"M{n}" for n in range(COUNT)]
    async with (
        running_sink() as sink,
        CallbackServer() as endpoint,
        new_tenant(instance, sink.port, callback=endpoint.url) as acme,
    ):
        assert (await acme.client.get("/status"))["workers"] == 2
        for worker in range(2):
            with only(instance, worker):
                async with instance.client(acme.token) as client:
                    await client.submit(*(a_message(id_) for id_ in ids[worker::2]))
        await sink.wait_for(COUNT)
        for id_ in ids:
            await acme.client.message_when(id_, "sent")
        await eventually(lambda: len(endpoint.entries) >= COUNT, "all are reported")

        counted = []
        for worker in range(2):
            with only(instance, worker):
                counted.append(await metrics(instance))
        pending = [each.pop("gmp_pending_messages") for each in counted]
        assert counted[0] == counted[1]
        assert sent(counted[0], acme.id) == COUNT
        assert all(number <= COUNT for number in pending)
        assert await instance.stop() == 0
    assert sink.ledger == dict.fromkeys(ids, 1)
    assert len({entry["event_id"] for entry in endpoint.entries}) == COUNT
    assert not any(map(alive, workers(instance).values()))
    assert len(instance.logged("ended")) == 2


async def test_a_worker_that_is_killed_is_started_anew_and_nothing_is_lost_or_counted_less(instance: Instance) -> None:
    ids = [f"M{n}" for n in range(COUNT)]
    async with running_sink() as sink, new_tenant(instance, sink.port) as acme:
        first = workers(instance)
        sink.pause = 0.02
        with only(instance, 1):
            async with instance.client(acme.token) as client:
                await client.submit(*(a_message(id_) for id_ in ids))
            await sink.wait_for(COUNT // 4)
        with only(instance, 0):
            before = sent(await metrics(instance), acme.id)
            os.kill(first[1], signal.SIGKILL)
        await eventually(lambda: workers(instance)[1] != first[1], "another worker takes its place")
        sink.pause = 0
        for id_ in ids:
            await acme.client.message_when(id_, "sent")

        # Only where a final dot was in flight may there be a second copy, and it is told.  G4
        copies = {id_ for id_, count in sink.ledger.items() if count > 1}
        for id_ in copies:
            assert "uncertain" in [event["type"] for event in await acme.client.events(id_)]
        assert set(sink.ledger) == set(ids)
        assert len(copies) <= 4  # one for each session
        # What a worker has committed and not counted yet when it is killed is counted by nobody: a group or two.
        await asyncio.sleep(FRESH)  # what was read before may be given again until then
        after = sent(await metrics(instance), acme.id)
        assert before <= after <= COUNT
        assert after >= COUNT - 8
        (line,) = instance.logged("worker ended")
        assert (line["worker"], line["pid"], line["code"]) == (1, first[1], -signal.SIGKILL)
        assert workers(instance)[0] == first[0]
        assert await instance.stop() == 0


async def test_a_worker_that_hangs_is_killed_and_started_anew(postgres_url: str, tmp_path: Path) -> None:
    instance = Instance(tmp_path, postgres_url, WORKERS="2", SHUTDOWN_GRACE="2")
    instance.variables = {"WATCHDOG_USEC": "4000000"}  # and nobody who listens
    await instance.start()
    try:
        async with running_sink() as sink, new_tenant(instance, sink.port) as acme:
            first = workers(instance)
            os.kill(first[1], signal.SIGSTOP)
            await eventually(lambda: workers(instance)[1] != first[1], "another worker takes its place", 30)
            assert not alive(first[1])
            (line,) = instance.logged("worker hangs and is killed")
            assert (line["worker"], line["pid"], line["silent"]) == (1, first[1], 4)
            (line,) = instance.logged("worker ended")
            assert (line["worker"], line["pid"], line["code"]) == (1, first[1], -signal.SIGKILL)
            assert workers(instance)[0] == first[0]
            with only(instance, 1):
                async with instance.client(acme.token) as client:
                    await client.submit(a_message("M1"))
                    await client.message_when("M1", "sent")
        assert await instance.stop() == 0
    finally:
        await closed(instance)


async def test_workers_end_in_good_order_when_their_parent_is_killed(instance: Instance) -> None:
    async with running_sink() as sink, new_tenant(instance, sink.port) as acme:
        await acme.client.submit(a_message("M1"))
        await acme.client.message_when("M1", "sent")
        instance.kill()
        await eventually(lambda: not any(map(alive, workers(instance).values())), "they end")
        assert len(instance.logged("ended")) == 2
        await instance.start()  # nothing holds the port, the journals or the folder any more
        assert (await acme.client.message("M1"))["attempts"] == 1


async def test_run_now_wakes_every_worker(postgres_url: str, tmp_path: Path) -> None:
    """One that could not hear it at once does what was asked when it can; in test mode nothing else makes it send."""
    instance = Instance(tmp_path, postgres_url, WORKERS="2", TEST_MODE="true", SHUTDOWN_GRACE="2")
    await instance.start()
    try:
        async with running_sink() as sink, new_tenant(instance, sink.port) as acme:
            with only(instance, 0):
                async with instance.client(acme.token) as client:
                    await client.submit(a_message("M0"))
                    await client.post("/commands/run-now")
                    await client.message_when("M0", "sent")
                    await client.submit(a_message("M1"))
            await acme.client.message_when("M1", "sent")
        assert sink.ledger == {"M0": 1, "M1": 1}
    finally:
        await closed(instance)


async def test_more_workers_than_one_need_postgresql(tmp_path: Path) -> None:
    environment = {"GMP_API_TOKEN": ADMIN_TOKEN, "GMP_DATA_DIR": str(tmp_path), "GMP_WORKERS": "1"}
    ended = await run("serve", "--workers", "2", environment=environment, folder=tmp_path)
    assert ended.code == 2
    assert re.fullmatch(r"mail-proxy: GMP_WORKERS .* above 1, but one process owns an SQLite file: .*\n", ended.stderr)
    assert files_in(tmp_path) == []


async def test_what_refuses_the_start_of_workers_is_said_once(postgres_url: str, tmp_path: Path) -> None:
    environment = {
        "GMP_API_TOKEN": ADMIN_TOKEN,
        "GMP_PORT": "0",
        "GMP_DATA_DIR": str(tmp_path),
        "GMP_DB_PATH": postgres_url,
        "GMP_WORKERS": "3",
    }
    ended = await run("serve", environment=environment, folder=tmp_path)
    assert ended.code == 2
    assert re.fullmatch(r"mail-proxy: GMP_ENCRYPTION_KEY is required.*\n", ended.stderr)


async def test_the_admin_token_and_the_encryption_key_are_changed_for_all_workers(
    postgres_url: str, tmp_path: Path
) -> None:
    before, after = ("11" * 32, "22" * 32)
    instance = Instance(tmp_path, postgres_url, WORKERS="2", SHUTDOWN_GRACE="2", ENCRYPTION_KEY=before)
    config = tmp_path / "config.toml"
    config.touch(0o600)
    config.write_text(f"api_token = '{instance.settings.pop('API_TOKEN')}'  # of all workers\n")
    try:
        await instance.start()
        async with real_server(users={"ann": "secret"}, auth_in_clear=True) as server:
            async with new_tenant(instance, server.port, user="ann", password="secret", tls="none") as acme:
                token: str = (await acme.admin.post("/instance/api-token"))["api_token"]
            for worker in range(2):
                with only(instance, worker):
                    assert await statuses(instance, ADMIN_TOKEN, token) == [401, 200]
            killed = workers(instance)[1]
            os.kill(killed, signal.SIGKILL)
            await eventually(lambda: workers(instance)[1] != killed, "the worker is started anew")
            with only(instance, 1):
                assert await statuses(instance, ADMIN_TOKEN, token) == [401, 200]

            assert await instance.stop() == 0
            await instance.start(ENCRYPTION_KEY=after, ENCRYPTION_KEYS_OLD=before)
            async with instance.client(token) as admin:
                deadline = time.monotonic() + 30
                while (shown := (await admin.get("/instance"))["encryption"])["secrets_with_old_keys"]:
                    assert time.monotonic() < deadline, shown
                    await asyncio.sleep(0.05)
                assert shown["key_in_use"] == shown["key_id"] not in shown["old_keys"]
                assert (await admin.post(f"/account/main/test?tenant_id={acme.id}"))["ok"] is True
        assert config.read_text() == f"api_token = '{token}'  # of all workers\n".replace("'", '"')
    finally:
        await closed(instance)


async def statuses(instance: Instance, *tokens: str) -> list[int]:
    """How `/tenants` answers to each token, on a new connection each."""
    found = []
    for token in tokens:
        async with instance.client(token) as client:
            found.append((await client.ask("GET", "/tenants")).status_code)
    return found
