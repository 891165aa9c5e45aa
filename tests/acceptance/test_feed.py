"""The feed of events, asked for from outside: while others write, and while the service stops."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.acceptance.conftest import NewInstance
from tests.acceptance.sinks import running_sink
from tests.acceptance.tenants import new_tenant
from tests.support.instance import Client, Instance, a_message

COUNT = 40


async def follow(client: Client, events: int, **query: str | int) -> list[dict[str, Any]]:
    """Ask for events, a few at a time, until so many have come; whoever does not get one within the wait asks again."""
    found: list[dict[str, Any]] = []
    while len(found) < events:
        page = await client.get("/events", limit=7, wait=10, **query)
        found += page["events"]
        query = {"after": page["next_cursor"]}
    return found


async def test_two_instances_write_and_whoever_waits_at_either_gets_each_event_once(instances: list[Instance]) -> None:
    """One of the two sends nothing, so that it learns of every event by looking."""
    sending, quiet = instances
    await sending.start()
    await quiet.start(TEST_MODE="true")
    async with running_sink() as sink, new_tenant(sending, sink.port) as acme, quiet.client(acme.token) as elsewhere:
        readers = asyncio.gather(*(follow(client, COUNT) for client in (acme.client, elsewhere, elsewhere)))
        ids = [f"M{n}" for n in range(COUNT)]
        for id_ in ids:
            await acme.client.submit(a_message(id_))
        mine, *others = await readers
        assert sorted(event["id"] for event in mine) == sorted(ids)
        assert others == [mine, mine]
        cursors = [int(event["event_id"]) for event in mine]
        assert cursors == sorted(set(cursors))


async def test_who_waits_is_answered_when_the_service_stops(new_instance: NewInstance) -> None:  # G6
    instance = new_instance()
    await instance.start()
    async with new_tenant(instance) as acme:
        waiting = [asyncio.create_task(acme.client.ask("GET", "/events", params={"wait": 30})) for _ in range(3)]
        for _ in range(20):
            await acme.client.get("/status")
        assert not any(each.done() for each in waiting)
        assert await instance.stop() == 0
        for answer in await asyncio.gather(*waiting):
            assert answer.json() == {"ok": True, "events": [], "next_cursor": "0", "more": False}
