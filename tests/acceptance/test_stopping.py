"""SIGTERM: what was begun ends, what was not goes back, and nothing is sent twice."""  # G6

from __future__ import annotations

import time

from tests.acceptance.conftest import NewInstance
from tests.acceptance.sinks import running_sink
from tests.acceptance.tenants import new_tenant
from tests.support.callback_server import CallbackServer
from tests.support.instance import a_message, eventually
from tests.support.smtp_servers import Dialogue, Peer, scripted_server

COUNT = 300


async def test_stopped_in_the_middle_it_finishes_what_it_began_and_makes_no_copies(new_instance: NewInstance) -> None:
    instance = new_instance(SHUTDOWN_GRACE="10")
    await instance.start()
    async with (
        running_sink() as sink,
        CallbackServer() as endpoint,
        new_tenant(instance, sink.port, callback=endpoint.url) as acme,
    ):
        sink.pause = 0.02
        ids = [f"M{n}" for n in range(COUNT)]
        await acme.client.submit(*(a_message(id_) for id_ in ids))
        await sink.wait_for(60)
        began = time.monotonic()
        assert await instance.stop() == 0
        assert time.monotonic() - began < 5
        sent = set(sink.ids)
        assert 60 <= len(sent) < COUNT

        # In test mode nothing goes out by itself, so that one can look.
        await instance.start(TEST_MODE="true")
        messages = await acme.client.messages()
        assert {id_ for id_, message in messages.items() if message["state"] == "sent"} == sent
        assert {messages[id_]["attempts"] for id_ in sent} == {1}
        rest = [message for id_, message in messages.items() if id_ not in sent]
        assert {(message["state"], message["attempts"]) for message in rest} == {("waiting", 0)}

        sink.pause = 0
        await acme.client.post("/commands/run-now")
        await sink.wait_for(COUNT)
        for id_ in ids:
            await acme.client.message_when(id_, "sent")
        await acme.client.post("/commands/run-now")
        await eventually(lambda: len(endpoint.entries) >= COUNT, "all are reported")
    assert sink.ledger == dict.fromkeys(ids, 1)
    assert {entry["event"] for entry in endpoint.entries} == {"sent"}
    assert len({entry["event_id"] for entry in endpoint.entries}) == COUNT


async def test_a_server_that_does_not_answer_holds_up_the_end_no_longer_than_the_grace(
    new_instance: NewInstance,
) -> None:
    """Its message is uncertain, since its dot has gone out; what waited behind it is untouched."""  # G4

    async def say_nothing(peer: Peer) -> None:
        await peer.hear_end()

    instance = new_instance(SHUTDOWN_GRACE="0.5")
    await instance.start()
    dialogue = Dialogue(dot=say_nothing)
    async with (
        scripted_server(dialogue) as silent,
        new_tenant(instance, silent.port, max_connections=1) as acme,
    ):
        await acme.client.submit(*(a_message(f"M{n}") for n in range(10)))
        await eventually(lambda: dialogue.messages, "the first message has arrived")
        began = time.monotonic()
        assert await instance.stop() == 0
        assert time.monotonic() - began < 5

        await instance.start(TEST_MODE="true")
        messages = await acme.client.messages()
        assert {message["state"] for message in messages.values()} == {"waiting"}
        assert [messages[f"M{n}"]["attempts"] for n in range(10)] == [1] + [0] * 9
        assert [event["type"] for event in await acme.client.events("M0")] == ["queued", "uncertain", "deferred"]
        assert len(dialogue.messages) == 1
