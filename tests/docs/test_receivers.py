"""The receivers of the page on reports, pasted and started as it says, with a real instance that reports to them."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.acceptance.sinks import Sink, running_sink
from tests.acceptance.tenants import Tenant, new_tenant
from tests.docs.pages import Block, page
from tests.docs.session import PATIENCE, Session, free_port, listens, session
from tests.support.callback_server import CallbackServer
from tests.support.instance import ADMIN_TOKEN, Instance, a_message, eventually

RECEIVERS = ("receiver_fastapi.py", "receiver_flask.py", "receiver_django.py")
TOKEN = "the-token-of-my-endpoint"
REPLIES = {"nobody@example.net": "550 5.1.1 no such user", "later@example.net": "450 4.2.0 greylisted"}


def marked(mark: str) -> Block:
    """The one block of the page that a comment names."""
    (block,) = (block for block in page("docs/reports.md").blocks if block.mark == mark)
    return block


@pytest.fixture(scope="module")
def _instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    instance = Instance(tmp_path_factory.mktemp("instance"), RETRY_DELAYS="3600")
    yield instance
    instance.close()


@pytest.fixture
async def instance(_instance: Instance) -> Instance:
    """One for all receivers."""
    if not _instance.running:
        await _instance.start()
    return _instance


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    async with running_sink() as running:
        running.rcpt = REPLIES.get
        yield running


@pytest.mark.parametrize("receiver", RECEIVERS)
async def test_a_receiver_takes_each_event_once_and_says_which_it_could_not_take(
    receiver: str, instance: Instance, sink: Sink, tmp_path: Path
) -> None:
    port = free_port()
    async with new_tenant(instance, sink.port) as acme:
        instead = {
            "127.0.0.1:9000": f"127.0.0.1:{port}",
            "--port 9000": f"--port {port}",
            "http://127.0.0.1:8000": instance.address,
            "tenant/acme": f"tenant/{acme.id}",
            "change-me": ADMIN_TOKEN,
        }
        with session(tmp_path, instead) as reading:
            _paste(tmp_path, receiver, "verify_webhook.py")
            server = reading.start(marked(f"start {receiver}"))
            await eventually(lambda: listens(port), f"it listens: {server.text}", PATIENCE)
            _refuse(tmp_path / "reports.db", "M-refused")
            (registered,) = reading.answers(marked("register"))
            assert registered == {"ok": True}
            await _is_told(acme, reading, tmp_path / "reports.db", port)


async def test_with_a_secret_a_receiver_takes_what_is_signed_and_refuses_what_is_not_or_was_changed(
    instance: Instance, sink: Sink, tmp_path: Path
) -> None:
    port, receiver = free_port(), "receiver_fastapi.py"
    database = tmp_path / "reports.db"
    async with CallbackServer() as before, new_tenant(instance, sink.port, callback=before.url) as acme:
        secret = (await acme.admin.post(f"/tenant/{acme.id}/signing-secret"))["signing_secret"]
        instead = {"--port 9000": f"--port {port}", "REPORTS_TOKEN=": f"SIGNING_SECRET={secret} REPORTS_TOKEN="}
        with session(tmp_path, instead) as reading:
            _paste(tmp_path, receiver, "verify_webhook.py")
            server = reading.start(marked(f"start {receiver}"))
            await eventually(lambda: listens(port), f"it listens: {server.text}", PATIENCE)
            await acme.client.submit(a_message("M1"))
            await eventually(lambda: before.entries, "it is told elsewhere")
            (genuine,) = [each for each in before.requests if each.entries]
            headers = dict(genuine.headers) | {"authorization": f"Bearer {TOKEN}"}
            unsigned = {name: value for name, value in headers.items() if name != "webhook-signature"}
            changed = genuine.body.replace(b'"sent"', b'"lost"')
            assert len(changed) == len(genuine.body)
            assert changed != genuine.body
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                for body, signed, status in (
                    (changed, headers, 401),
                    (genuine.body, unsigned, 401),
                    (genuine.body, headers | {"authorization": "Bearer x"}, 401),
                ):
                    assert (await client.post("/mail-proxy/sync", content=body, headers=signed)).status_code == status
                assert _mail(database) == {}
                assert (await client.post("/mail-proxy/sync", content=genuine.body, headers=headers)).is_success
            assert _mail(database) == {"M1": ("sent", None, 1)}
            # And as the service sends them.
            endpoint = {"client_base_url": f"http://127.0.0.1:{port}"}
            auth = {"client_auth": {"method": "bearer", "token": TOKEN}}
            assert (await acme.admin.ask("PUT", f"/tenant/{acme.id}", json=endpoint | auth)).is_success
            await acme.client.submit(a_message("M2"))
            await eventually(lambda: "M2" in _mail(database), f"it is told: {server.text}")


def _paste(folder: Path, *names: str) -> None:
    """Save files as the page shows them."""
    for name in names:
        (folder / name).write_text(marked(name).text, encoding="utf-8")


async def _is_told(acme: Tenant, reading: Session, database: Path, port: int) -> None:
    kept = {
        "M-sent": ("sent", None, 1),
        "M-failed": ("failed", "550 5.1.1 no such user", 1),
        "M-deferred": ("deferred", "450 4.2.0 greylisted", 1),
    }
    await acme.client.submit(
        a_message("M-sent"),
        a_message("M-failed", "nobody@example.net"),
        a_message("M-deferred", "later@example.net"),
        a_message("M-refused"),
    )
    text = reading.servers[0]
    await eventually(lambda: _mail(database) == kept, f"all others are taken: {text.text}")
    assert (await acme.client.message("M-refused"))["reported_ts"] is None
    with closing(sqlite3.connect(database)) as file:
        file.execute("DROP TRIGGER refusing")
        file.commit()
    kept["M-refused"] = ("sent", None, 1)
    await eventually(lambda: _mail(database) == kept, f"what was refused comes again: {text.text}")

    # An event that comes again, and one of a stranger: neither changes anything.
    (event,) = [each for each in await acme.client.events("M-sent") if each["type"] == "sent"]
    again = {"event_id": str(event["event_id"]), "id": "M-sent", "event": "failed"}
    new = again | {"event_id": "1000000", "id": "M-strange"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:

        async def post(entry: Mapping[str, object], **headers: str) -> httpx.Response:
            return await client.post("/mail-proxy/sync", json={"delivery_report": [entry]}, headers=headers)

        right = {"Authorization": f"Bearer {TOKEN}"}
        answer = await post(again, **right)
        assert (answer.status_code, answer.json()) == (200, {"ok": True, "error": []})
        assert (await post(new)).status_code == 401
        assert (await post(new, Authorization=f"Bearer {TOKEN}x")).status_code == 401
        assert (await client.post("/mail-proxy/sync", content=b"no JSON", headers=right)).status_code == 400
        assert (await client.post("/mail-proxy/sync", content=b"x" * 10_000_001, headers=right)).status_code in (
            400,
            413,
        )
        assert (await client.post("/mail-proxy/sync", json={"delivery_report": []}, headers=right)).is_success
    assert _mail(database) == kept


def _refuse(database: Path, message_id: str) -> None:
    """Make the receiver's own database refuse what it does with a message."""
    with closing(sqlite3.connect(database)) as file:
        file.execute(
            f"CREATE TRIGGER refusing BEFORE INSERT ON mail WHEN NEW.id = '{message_id}' "
            "BEGIN SELECT RAISE(ABORT, 'not now'); END"
        )


def _mail(database: Path) -> dict[str, tuple[str, str | None, int]]:
    with closing(sqlite3.connect(database)) as file:
        return {id_: (state, detail, times) for id_, state, detail, times in file.execute("SELECT * FROM mail")}


async def test_the_example_of_an_own_reporter_is_installed_and_told_everything(tmp_path: Path) -> None:
    package, target, told = tmp_path / "package", tmp_path / "target", tmp_path / "reports.jsonl"
    package.mkdir()
    _paste(package, "pyproject.toml", "reports_to_a_file.py")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    command = [*pip, "--no-index", "--no-deps", "--no-build-isolation", "--target", str(target), str(package)]
    await asyncio.to_thread(lambda: subprocess.run(command, check=True, timeout=60))
    shutil.rmtree(package)
    folder = tmp_path / "instance"
    folder.mkdir()
    instance = Instance(folder, REPORTER="json-lines")
    instance.variables |= {"PYTHONPATH": str(target), "REPORTS_FILE": str(told)}
    try:
        await instance.start()
        async with running_sink() as sink, new_tenant(instance, sink.port) as acme:
            told.mkdir()  # nothing can be added to that
            await acme.client.submit(a_message("M1"))
            await eventually(lambda: instance.logged("reporter_raised", tenant_id=acme.id), "it cannot write")
            status = await acme.sync_status(lambda status: status["last_error"] is not None)
            assert status["last_error"] == "the reporter raised IsADirectoryError"
            assert status["pending_events"] == 1
            told.rmdir()
            await eventually(told.exists, "it is told again")
            await acme.client.submit(a_message("M2"))
            await eventually(lambda: len(_lines(told)) == 2, "both are told")
    finally:
        instance.close()
    assert [(entry["tenant_id"], entry["id"], entry["event"]) for entry in _lines(told)] == [
        (acme.id, "M1", "sent"),
        (acme.id, "M2", "sent"),
    ]


def _lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
