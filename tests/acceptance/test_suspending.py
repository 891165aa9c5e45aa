"""Holding and freeing: a batch, a tenant, the whole scheduler; and an instance that sends only when told to."""

from __future__ import annotations

import asyncio

from tests.acceptance.conftest import NewInstance
from tests.acceptance.sinks import running_sink
from tests.acceptance.tenants import new_tenant
from tests.support.callback_server import CallbackServer
from tests.support.instance import Instance, a_message, eventually

LONG_ENOUGH = 0.5
"""Seconds in which something would have gone out that should not: five looks at the queue."""


async def test_a_suspended_batch_waits_and_the_others_go(shared: Instance) -> None:
    async with running_sink() as sink, new_tenant(shared, sink.port, max_connections=1) as acme:
        held = await acme.client.post("/commands/suspend", batch_code="spring")
        assert (held["suspended"], held["suspended_batches"], held["pending_messages"]) == (False, ["spring"], 0)
        await acme.client.submit(*(a_message(f"spring-{n}", batch_code="spring") for n in range(20)))
        # They are younger and less urgent: what is held would have gone before them.
        await acme.client.submit(*(a_message(f"other-{n}", batch_code="autumn", priority=3) for n in range(20)))
        await sink.wait_for(20)
        waiting = await acme.client.messages(batch_code="spring")
        assert {(each["state"], each["attempts"]) for each in waiting.values()} == {("waiting", 0)}
        also = await acme.client.post("/commands/suspend", batch_code="autumn")
        assert also["suspended_batches"] == ["autumn", "spring"]
        freed = await acme.client.post("/commands/activate", batch_code="spring")
        assert (freed["suspended_batches"], freed["pending_messages"]) == (["autumn"], 20)
        await sink.wait_for(40)
    assert sink.ids == [*(f"other-{n}" for n in range(20)), *(f"spring-{n}" for n in range(20))]


async def test_a_suspended_tenant_waits_and_its_neighbour_goes(shared: Instance) -> None:
    async with (
        running_sink() as sink,
        new_tenant(shared, sink.port) as acme,
        new_tenant(shared, sink.port) as neighbour,
    ):
        held = await acme.client.post("/commands/suspend")
        assert (held["suspended"], held["tenant_id"]) == (True, acme.id)
        await acme.client.submit(a_message("M1", batch_code="b"), a_message("M2", priority="immediate"))
        await acme.client.post("/commands/run-now")
        await neighbour.client.submit(*(a_message(f"N{n}") for n in range(20)))
        await sink.wait_for(20)
        # One batch cannot be freed while the whole tenant is held.
        refused = await acme.client.ask("POST", "/commands/activate", params={"batch_code": "b"})
        assert (refused.status_code, refused.json()["code"]) == (409, "tenant_suspended")
        await asyncio.sleep(LONG_ENOUGH)
        assert len(sink.arrivals) == 20
        freed = await acme.client.post("/commands/activate")
        assert (freed["suspended"], freed["suspended_batches"], freed["pending_messages"]) == (False, [], 2)
        await sink.wait_for(22)
    assert set(sink.ids[20:]) == {"M1", "M2"}


async def test_a_suspended_scheduler_sends_nothing_and_stays_so_over_a_restart(shared: Instance) -> None:
    async with running_sink() as sink, new_tenant(shared, sink.port) as acme:
        held = await acme.admin.post("/commands/suspend")
        try:
            assert held["scheduler_active"] is False
            await acme.client.submit(*(a_message(f"M{n}", priority=n % 4) for n in range(20)))
            await acme.client.post("/commands/suspend", batch_code="kept")
            await acme.client.submit(a_message("kept", batch_code="kept"))
            shared.kill()
            await shared.start()
            assert (await acme.admin.get("/status"))["scheduler_active"] is False
            await acme.admin.post("/commands/run-now")
            # A tenant cannot start what the operator has stopped.
            await acme.client.post("/commands/activate", batch_code="other")
            await acme.client.post("/commands/run-now")
            await asyncio.sleep(LONG_ENOUGH)
            assert sink.arrivals == []
            assert (await acme.client.get("/status"))["pending_messages"] == 21
        finally:
            freed = await acme.admin.post("/commands/activate")
        assert freed["scheduler_active"] is True
        await sink.wait_for(20)
        await asyncio.sleep(LONG_ENOUGH)
        assert "kept" not in sink.ledger
        await acme.client.post("/commands/activate")
        await sink.wait_for(21)
    assert set(sink.ledger.values()) == {1}


async def test_in_test_mode_nothing_goes_out_or_is_told_but_by_run_now(new_instance: NewInstance) -> None:
    instance = new_instance(TEST_MODE="true", SYNC_INTERVAL="0.1")
    await instance.start()
    async with (
        running_sink() as sink,
        CallbackServer() as endpoint,
        new_tenant(instance, sink.port, callback=endpoint.url) as acme,
    ):
        await acme.client.submit(*(a_message(f"M{n}") for n in range(250)), a_message("now", priority="immediate"))
        await asyncio.sleep(LONG_ENOUGH)
        assert (sink.arrivals, endpoint.requests) == ([], [])

        await acme.client.post("/commands/run-now")
        await sink.wait_for(251)
        await eventually(lambda: len(endpoint.entries) == 251, "what comes of it is told with it")
        told = len(endpoint.requests)

        await acme.client.submit(a_message("later"))
        await asyncio.sleep(LONG_ENOUGH)
        assert (len(sink.arrivals), len(endpoint.requests)) == (251, told)
