"""Separate instances on one PostgreSQL database: one service with several addresses."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from tests.acceptance.sinks import running_sink
from tests.acceptance.tenants import new_tenant
from tests.support.callback_server import CallbackServer, Reply
from tests.support.instance import Instance, a_message, eventually
from tests.support.postgres import PostgresServer

COUNT = 100
ROUNDS = 20


async def reported(endpoint: CallbackServer, events: int) -> None:
    """Return once so many events have come."""
    await eventually(lambda: len(endpoint.entries) >= events, "all are reported")


async def test_each_tenant_is_reported_to_by_one_instance_at_a_time(instances: list[Instance]) -> None:
    """Every event once: with two reporters that do not take turns most would come twice."""  # G9
    for instance in instances:
        await instance.start()
    async with (
        running_sink() as sink,
        CallbackServer() as first,
        CallbackServer() as second,
        new_tenant(instances[0], sink.port, callback=first.url) as acme,
        new_tenant(instances[1], sink.port, callback=second.url) as globex,
    ):
        sink.pause = 0.01
        sent = 0
        while sent == 0 or not all(instance.logged("reported") for instance in instances):
            assert sent < ROUNDS * COUNT, "one instance does all the reporting"
            for tenant in (acme, globex):
                clients = [instance.client(tenant.token) for instance in instances]
                await asyncio.gather(
                    *(
                        client.submit(*(a_message(f"M{n}") for n in range(sent + each, sent + COUNT, 2)))
                        for each, client in enumerate(clients)
                    )
                )
                for client in clients:
                    await client.http.aclose()
            sent += COUNT
            for endpoint in (first, second):
                await reported(endpoint, sent)
        for instance in instances:
            assert await instance.stop() == 0
    assert sink.ledger == dict.fromkeys((f"M{n}" for n in range(sent)), 2)  # once for each tenant
    for endpoint in (first, second):
        assert len(endpoint.entries) == sent
        ids = [int(entry["event_id"]) for entry in endpoint.entries]
        assert ids == sorted(set(ids))


async def test_whichever_is_asked_says_the_same_of_how_reporting_goes(instances: list[Instance]) -> None:
    """The endpoint fails, does not want to be disturbed, and is gone for good; one of the two has found it out."""
    for instance in instances:
        await instance.start()
    async with (
        running_sink() as sink,
        CallbackServer() as endpoint,
        new_tenant(instances[0], sink.port, callback=endpoint.url) as acme,
        instances[1].client() as second,
    ):

        async def told(**expected: object) -> dict[str, Any]:
            """Return what both say once it is as expected."""
            one: dict[str, Any] = {}
            other: dict[str, Any] = {}
            for _ in range(300):
                said = [await client.get("/tenants/sync-status") for client in (acme.admin, second)]
                ((one,), (other,)) = (answer["tenants"] for answer in said)
                if one == other and expected.items() <= one.items():
                    return one
                await asyncio.sleep(0.05)
            raise AssertionError(f"they say {one} and {other}")

        endpoint.by_default = Reply(500)
        await acme.client.submit(a_message("M1"))
        failing = await told(last_error="HTTP 500", pending_events=1, pending_events_is_at_least=False)
        assert failing["consecutive_failures"] >= 1
        assert failing["last_sync_ts"] is None
        assert failing["next_sync_due"] is not None
        endpoint.by_default = Reply(body=json.dumps({"next_sync_after": time.time() + 3600}).encode())
        well = await told(last_error=None, pending_events=0, consecutive_failures=0, in_dnd=True)
        assert time.time() - 15 < well["last_sync_ts"] <= time.time()
        assert well["next_sync_due"] > time.time() + 3000
        endpoint.by_default = Reply(410)
        await acme.client.submit(a_message("M2"))
        await told(last_error="HTTP 410: the endpoint is gone", next_sync_due=None, pending_events=1)


async def test_a_message_is_taken_up_by_an_instance_that_hardly_ever_looks_by_itself(
    instances: list[Instance],
) -> None:
    """The one that accepts it sends nothing by itself; the other looks once in ten minutes, unless it is told."""
    accepting, sending = instances
    await sending.start(SEND_LOOP_INTERVAL="600")
    await accepting.start(TEST_MODE="true")
    async with running_sink() as sink, new_tenant(accepting, sink.port) as acme:
        for n in range(3):
            await acme.client.submit(a_message(f"M{n}"))
            await sink.wait_for(n + 1)
            await acme.client.message_when(f"M{n}", "sent")
        await acme.client.post("/commands/suspend")
        await acme.client.submit(a_message("M3"))
        await acme.client.post("/commands/activate")
        await sink.wait_for(4)
    assert sink.ledger == dict.fromkeys([f"M{n}" for n in range(4)], 1)


async def test_when_postgresql_was_restarted_they_go_on_and_hear_each_other_again(
    instances: list[Instance], postgres: PostgresServer
) -> None:
    accepting, sending = instances
    await sending.start(SEND_LOOP_INTERVAL="600")
    await accepting.start(TEST_MODE="true")
    async with running_sink() as sink, new_tenant(accepting, sink.port) as acme:
        await asyncio.to_thread(postgres.restart, "immediate")
        for instance in instances:
            await eventually(lambda each=instance: each.logged("hints are not heard"), "it is noticed")  # type: ignore[misc]
        for n in range(3):
            batch = {"messages": [a_message(f"M{n}")]}
            while (answer := await acme.client.ask("POST", "/commands/add-messages", json=batch)).status_code != 200:
                assert answer.status_code == 503
                await asyncio.sleep(0.1)
            await sink.wait_for(n + 1)
            await acme.client.message_when(f"M{n}", "sent")
    assert set(sink.ledger) == {"M0", "M1", "M2"}
