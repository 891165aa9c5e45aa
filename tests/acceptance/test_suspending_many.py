"""A suspended campaign of a hundred thousand messages: requests are answered at once, and nobody else waits for it."""

from __future__ import annotations

import time

from tests.acceptance.conftest import NewInstance
from tests.acceptance.sinks import running_sink
from tests.acceptance.tenants import new_tenant
from tests.support.backlog import fill_file
from tests.support.instance import Instance, a_message

MANY = 100_000


async def test_a_hundred_thousand_suspended_messages_hold_up_nobody(new_instance: NewInstance) -> None:
    instance: Instance = new_instance(SEND_LOOP_INTERVAL="60")  # what goes out does not wait for a look at the queue
    await instance.start()
    figures: dict[str, float] = {}

    async with running_sink() as sink, new_tenant(instance, sink.port) as acme:
        await acme.client.post("/commands/suspend", batch_code="spring")
        instance.kill()
        fill_file(instance.folder / "mail_service.db", acme.id, "main", MANY, batch_code="spring")
        await instance.start()

        began = time.perf_counter()
        await acme.client.submit(*(a_message(f"M{n}", priority=3) for n in range(50)))
        await sink.wait_for(50)
        figures["50 others behind them were sent after"] = time.perf_counter() - began
        assert set(sink.ids) == {f"M{n}" for n in range(50)}

        for name, query in (("suspend", {}), ("activate", {}), ("suspend", {"batch_code": "spring"})):
            began = time.perf_counter()
            told = await acme.client.post(f"/commands/{name}", **query)
            figures[f"{name} {query or 'the tenant'} was answered in"] = time.perf_counter() - began
            assert told["pending_messages"] >= 10_000
        began = time.perf_counter()
        await acme.client.submit(a_message("urgent", priority="immediate"))
        await acme.client.message_when("urgent", "sent")
        figures["an urgent one was sent after"] = time.perf_counter() - began
    for what, seconds in figures.items():
        print(f"{what}: {seconds * 1000:.0f} ms")  # noqa: T201 - figures for who reads the log
