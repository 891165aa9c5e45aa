"""An instance whose machine's clock is an hour off, beside another one on the same PostgreSQL."""  # G14

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.acceptance.conftest import NewInstance
from tests.acceptance.sinks import running_sink
from tests.acceptance.tenants import new_tenant
from tests.support.instance import a_message, eventually
from tests.support.postgres import PostgresServer

HOUR_OFF = """
import time
_true = time.time
time.time = lambda: _true() + {seconds}
"""


@pytest.mark.parametrize("seconds", [3600, -3600])
async def test_an_instance_an_hour_off_sends_neither_early_nor_late(
    new_instance: NewInstance, postgres: PostgresServer, tmp_path: Path, seconds: int
) -> None:
    postgres.start()
    folder = tmp_path / "an_hour_off"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HOUR_OFF.format(seconds=seconds))
    instance = new_instance(database=postgres.create_database())
    instance.variables["PYTHONPATH"] = str(folder)
    await instance.start()
    async with running_sink() as sink, new_tenant(instance, sink.port) as acme:
        now = time.time()
        await acme.client.submit(
            a_message("in half an hour", deferred_ts=now + 1800),
            a_message("half an hour ago", deferred_ts=now - 1800),
            a_message("good for half an hour", expires_ts=now + 1800),
        )
        expected = {"half an hour ago", "good for half an hour"}
        await eventually(lambda: sink.ledger.keys() >= expected, "what is due arrives")
        await acme.client.submit(a_message("now"))
        await eventually(lambda: sink.ledger.keys() >= {"now"}, "what comes after it arrives, too")
        now_sent = await acme.client.message_when("now", "sent")
        messages = await acme.client.messages()
    assert sink.ledger.keys() == {*expected, "now"}
    assert messages["in half an hour"]["state"] == "waiting"
    assert abs(now_sent["sent_ts"] - now) < 600
