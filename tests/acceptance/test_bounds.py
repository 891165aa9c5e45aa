"""What a running instance takes of memory and of open files stays within its settings, and it goes on."""  # G11

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import httpx

from tests.acceptance.conftest import NewInstance
from tests.support.instance import Instance, a_message

BODIES, MEGABYTES = 12, 8
PATH = "/commands/add-messages"


GARBAGE = b"garbage\r\n\r\n"
UPGRADE = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"  # uvicorn warns of it


async def test_what_is_no_request_cannot_fill_the_log(new_instance: NewInstance) -> None:
    instance = new_instance()
    await instance.start()
    before = len(instance.read_log())
    host, port = instance.address.removeprefix("http://").split(":")
    ids = []
    for data in (GARBAGE, UPGRADE) * 100:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(data)
        head = await reader.readuntil(b"\r\n\r\n")
        ids += re.findall(rb"x-request-id: (\w+)", head) if data is GARBAGE else []
        writer.close()
    assert await instance.stop() == 0
    told = instance.logged("request refused", address="127.0.0.1", code="bad_request", level="warning")
    assert [line["request_id"] for line in told] == [each.decode() for each in ids[:30]]
    assert len(ids) == 100
    assert not [line for line in instance.read_log()[before:] if "logger" in line]


def resident(instance: Instance, which: str) -> int:
    """Return megabytes of memory: `VmRSS` now, `VmHWM` at the most so far."""
    lines = Path(f"/proc/{instance.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{which}:")) // 1000


def open_files(instance: Instance) -> int:
    """Return how many files and sockets are open."""
    return len(list(Path(f"/proc/{instance.pid}/fd").iterdir()))


async def test_memory_does_not_grow_with_the_number_of_large_requests(new_instance: NewInstance) -> None:
    instance = new_instance(MAX_BODIES_MB="8")
    await instance.start()
    body = json.dumps({"messages": [a_message("M", body="lorem ipsum\n" * (MEGABYTES * 1_000_000 // 13))]}).encode()
    async with instance.client() as admin, httpx.AsyncClient(timeout=60, trust_env=False) as large:
        await admin.post("/tenant", {"id": "acme"})  # it has no account, so that nothing is stored
        before = resident(instance, "VmRSS")
        tasks = [
            asyncio.create_task(large.post(instance.address + PATH, content=body, headers=admin.http.headers))
            for _ in range(BODIES)
        ]
        small = 0
        while not all(task.done() for task in tasks):
            receipt = await admin.submit(a_message(f"M{small}"))
            assert [each["code"] for each in receipt["rejected"]] == ["no_default_account"]
            small += 1
        answers = [(task.result().status_code, task.result().json().get("code")) for task in tasks]
        assert set(answers) <= {(200, None), (503, "too_busy")}
        assert (200, None) in answers
        assert small > 0
    # Without a bound it would be more than all of them, in each of several forms.
    assert resident(instance, "VmHWM") - before < BODIES * MEGABYTES


async def test_connections_without_number_leave_room_for_those_that_ask(new_instance: NewInstance) -> None:
    instance = new_instance(MAX_HTTP_CONNECTIONS="20")
    await instance.start()
    host, port = instance.address.removeprefix("http://").split(":")
    async with instance.client() as admin:
        await admin.get("/status")
        silent = [(await asyncio.open_connection(host, int(port)))[1] for _ in range(400)]
        async with instance.client(None) as probe:
            assert await probe.get("/health") == {"ok": True}
        async with instance.client() as another:
            await another.get("/status")
        await admin.get("/status")  # on the connection that it has
        assert open_files(instance) < 200
        for writer in silent:
            writer.close()
    (line,) = instance.logged("connections are refused")
    assert line["limit"] == 20
