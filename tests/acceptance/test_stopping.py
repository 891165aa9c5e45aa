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
GRACE = 1.0


async def say_nothing(peer: Peer) -> None:
    await peer.hear_end()


async def test_stopped_in_the_middle_it_finishes_what_it_began_and_makes_no_copies(new_instance: NewInstance) -> None:
    """One server is slow, another one never answers the final dot: that one has until the grace time is over."""
    instance = new_instance(SHUTDOWN_GRACE=str(GRACE))
    await instance.start()
    dialogue = Dialogue(dot=say_nothing)
    async with (
        running_sink() as sink,
        scripted_server(dialogue) as silent,
        CallbackServer() as endpoint,
        new_tenant(instance, sink.port, callback=endpoint.url) as acme,
        new_tenant(instance, silent.port, max_connections=1) as hung,
    ):
        sink.pause = 0.02
        ids = [f"M{n}" for n in range(COUNT)]
        await hung.client.submit(*(a_message(f"H{n}") for n in range(10)))
        await eventually(lambda: dialogue.messages, "the silent server has a message")
        await acme.client.submit(*(a_message(id_) for id_ in ids))
        await sink.wait_for(60)
        began = time.monotonic()
        assert await instance.stop() == 0
        assert GRACE * 0.9 <= time.monotonic() - began < GRACE + 5
        sent = set(sink.ids)
        assert 60 <= len(sent) < COUNT

        # In test mode nothing goes out by itself, so that one can look.
        await instance.start(TEST_MODE="true")
        messages = await acme.client.messages()
        assert {id_ for id_, message in messages.items() if message["state"] == "sent"} == sent
        assert {messages[id_]["attempts"] for id_ in sent} == {1}
        rest = [message for id_, message in messages.items() if id_ not in sent]
        assert {(message["state"], message["attempts"]) for message in rest} == {("waiting", 0)}
        # It went back when the process stopped, not by the rescue at the start, which would have had to wait elsewhere.
        assert not instance.logged("messages of an instance that ended were taken back")

        # The dot that was not answered makes its message uncertain; what waited behind it is untouched.  G4
        stuck = await hung.client.messages()
        assert {message["state"] for message in stuck.values()} == {"waiting"}
        assert [stuck[f"H{n}"]["attempts"] for n in range(10)] == [1] + [0] * 9
        assert [event["type"] for event in await hung.client.events("H0")] == ["queued", "uncertain", "deferred"]
        await hung.client.post("/commands/suspend")

        sink.pause = 0
        await acme.client.post("/commands/run-now")
        await sink.wait_for(COUNT)
        for id_ in ids:
            await acme.client.message_when(id_, "sent")
        await acme.client.post("/commands/run-now")
        await eventually(lambda: len(endpoint.entries) >= COUNT, "all are reported")
        assert len(dialogue.messages) == 1
    assert sink.ledger == dict.fromkeys(ids, 1)
    assert {entry["event"] for entry in endpoint.entries} == {"sent"}
    assert len({entry["event_id"] for entry in endpoint.entries}) == COUNT
