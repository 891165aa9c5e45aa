"""Reports reach a tenant that was away, and one whose acknowledgement the service did not live to write down."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from tests.acceptance.conftest import NewInstance
from tests.acceptance.sinks import running_sink
from tests.acceptance.tenants import Tenant, new_tenant
from tests.support.callback_server import CallbackServer, Reply
from tests.support.instance import Instance, a_message, eventually

COUNT = 20


def by_event(entries: list[dict[str, Any]]) -> dict[str, str]:
    """Return which message each event is about; an event that is told again is told as it was."""
    seen: dict[str, dict[str, Any]] = {}
    for entry in entries:
        assert seen.setdefault(entry["event_id"], entry) == entry
    return {event_id: entry["id"] for event_id, entry in seen.items()}


async def _marked(tenant: Tenant) -> None:
    """Return once the service knows that everything was reported."""
    for _ in range(200):
        if all(message["reported_ts"] is not None for message in (await tenant.client.messages()).values()):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("not everything is marked as reported")


async def test_an_endpoint_that_was_down_is_told_everything_when_it_is_back_under_the_same_event_ids(
    on_each_database: Instance,
) -> None:
    instance = on_each_database
    async with running_sink() as sink, CallbackServer() as endpoint, CallbackServer() as other:
        endpoint.by_default = Reply(500)
        async with (
            new_tenant(instance, sink.port, callback=endpoint.url) as acme,
            new_tenant(instance, sink.port, callback=other.url) as neighbour,
        ):
            ids = {f"M{n}" for n in range(COUNT)}
            await acme.client.submit(*(a_message(id_) for id_ in sorted(ids)))
            await eventually(lambda: {entry["id"] for entry in endpoint.entries} == ids, "it is told, and answers 500")
            first = by_event(endpoint.entries)
            assert {message["reported_ts"] for message in (await acme.client.messages()).values()} == {None}

            port, before = endpoint.port, len(endpoint.requests)
            await endpoint.stop()
            refused = f"127.0.0.1:{port} cannot be reached: Connection refused"
            status = await acme.sync_status(lambda status: status["last_error"] == refused)
            assert status["consecutive_failures"] >= 2
            assert [line["failures"] for line in instance.logged("report_failed", tenant_id=acme.id)] == [1]
            assert (status["pending_events"], status["last_sync_ts"]) == (COUNT, None)
            # A dead endpoint costs its neighbour nothing.
            await neighbour.client.submit(a_message("N"))
            await eventually(lambda: other.entries, "the neighbour is told")

            endpoint.by_default = Reply()
            await endpoint.start(port)
            await eventually(lambda: len(endpoint.requests) > before, "it is told once more")
            await _marked(acme)
            status = await acme.sync_status(lambda status: status["consecutive_failures"] == 0)
            assert (status["last_error"], status["pending_events"]) == (None, 0)
            assert status["last_sync_ts"] is not None
            assert len(instance.logged("reports_go_again", tenant_id=acme.id)) == 1
        again = [entry for request in endpoint.requests[before:] for entry in request.entries]
    # The first request may have been made before all messages were sent; each event has one id for ever.
    assert by_event(again) == by_event(endpoint.entries)
    assert first.items() <= by_event(again).items()
    assert sorted(by_event(again).values()) == sorted(ids)
    assert [entry["event"] for entry in again] == ["sent"] * COUNT


async def test_what_was_acknowledged_but_not_marked_is_told_again_under_the_same_event_ids(
    on_each_database: Instance,
) -> None:
    """The service is killed while the tenant's positive answer is on its way."""  # G9
    instance = on_each_database
    async with (
        running_sink() as sink,
        CallbackServer() as endpoint,
        new_tenant(instance, sink.port, callback=endpoint.url) as acme,
    ):
        frozen = asyncio.Event()
        endpoint.script(Reply(after=frozen))
        ids = [f"M{n}" for n in range(COUNT)]
        await acme.client.post("/commands/suspend")
        await acme.client.submit(*(a_message(id_) for id_ in ids))
        await acme.client.post("/commands/activate")
        await endpoint.wait_for(1)
        for id_ in ids:
            await acme.client.message_when(id_, "sent")
        # From here on it executes nothing: the answer reaches its machine, and nobody reads it.
        instance.freeze()
        await asyncio.sleep(0.1)
        frozen.set()
        await asyncio.sleep(0.3)
        instance.kill()
        told = by_event(endpoint.entries)
        assert told

        await instance.start()
        await eventually(lambda: set(by_event(endpoint.entries).values()) == set(ids), "all are told")
        await _marked(acme)
        again = by_event([entry for request in endpoint.requests[1:] for entry in request.entries])
    assert told.items() <= again.items()
    assert sorted(again.values()) == sorted(ids)
    assert sink.ledger == dict.fromkeys(ids, 1)


async def _told_at_the_global_endpoint(new_instance: NewInstance, header: str, **settings: str) -> None:
    async with running_sink() as sink, CallbackServer() as everybodys, CallbackServer() as own:
        instance = new_instance(CLIENT_SYNC_URL=f"{everybodys.url}/reports?from=proxy", **settings)
        await instance.start()
        async with (
            new_tenant(instance, sink.port) as acme,
            new_tenant(instance, sink.port, callback=own.url) as other,
        ):
            await acme.client.submit(a_message("M1"))
            await other.client.submit(a_message("M2"))
            await eventually(lambda: everybodys.entries and own.entries, "both are told")
            await _marked(acme)
            await _marked(other)
    (told,) = [request for request in everybodys.requests if request.entries]
    assert (told.method, told.path) == ("POST", "/reports?from=proxy")
    assert told.headers["authorization"] == header
    assert [(entry["tenant_id"], entry["id"], entry["event"]) for entry in told.entries] == [(acme.id, "M1", "sent")]
    # The credentials are for the operator's endpoint, not for a tenant's.
    assert [entry["id"] for entry in own.entries] == ["M2"]
    assert all("authorization" not in request.headers for request in own.requests)
    assert {request.path for request in own.requests} == {"/mail-proxy/sync"}


async def test_a_tenant_without_an_endpoint_is_told_at_the_global_one_by_password_or_token(
    new_instance: NewInstance,
) -> None:
    basic = base64.b64encode("mail-proxy:päss:word".encode()).decode()
    login = {"CLIENT_SYNC_USER": "mail-proxy", "CLIENT_SYNC_PASSWORD": "päss:word"}
    await asyncio.gather(
        _told_at_the_global_endpoint(new_instance, f"Basic {basic}", **login),
        _told_at_the_global_endpoint(new_instance, "Bearer the-global-token", CLIENT_SYNC_TOKEN="the-global-token"),
    )


async def test_an_endpoint_that_is_gone_stays_so_over_restarts_until_somebody_asks(on_each_database: Instance) -> None:
    instance = on_each_database
    async with (
        running_sink() as sink,
        CallbackServer() as endpoint,
        CallbackServer() as other,
        new_tenant(instance, sink.port, callback=endpoint.url) as acme,
        new_tenant(instance, sink.port, callback=other.url) as neighbour,
    ):
        endpoint.by_default = Reply(410)
        await acme.client.submit(a_message("M1"))
        await neighbour.client.submit(a_message("N1"))
        before = await acme.sync_status(lambda status: status["consecutive_failures"] == 1)
        assert before["next_sync_due"] is None
        told = await neighbour.sync_status(lambda status: status["last_sync_ts"] is not None)
        instance.kill()  # so that only what was written at once is there afterwards
        await instance.start()
        assert await acme.sync_status(lambda status: True) == before
        assert await instance.stop() == 0
        await instance.start()
        for tenant in (acme, neighbour):
            await tenant.client.submit(a_message("M2"))
            await tenant.client.message_when("M2", "sent")
        await eventually(lambda: len(other.entries) == 2, "the neighbour is told")
        await neighbour.sync_status(lambda status: (status["last_sync_ts"] or 0) > told["last_sync_ts"])
        assert len(endpoint.requests) == 1
        metrics = (await acme.admin.ask("GET", "/metrics")).text
        assert 'gmp_tenants_behind{state="paused"}' in metrics

        endpoint.by_default = Reply()
        await acme.client.post("/commands/run-now")
        await eventually(lambda: len(endpoint.entries) == 3, "it is told")
        status = await acme.sync_status(lambda status: status["consecutive_failures"] == 0)
        assert (status["pending_events"], status["last_error"]) == (0, None)
