"""Servers that hang or are not there: only their own account waits, and its messages do not pay for it."""

from __future__ import annotations

import time

from tests.acceptance.sinks import reserved_port, running_sink
from tests.acceptance.tenants import new_tenant
from tests.support.instance import Instance, a_message, eventually
from tests.support.smtp_servers import Peer, scripted_server

PROBE = 5.0
"""Seconds from the failure to the first probe."""


async def say_nothing(peer: Peer) -> None:
    await peer.hear_end()


async def test_a_server_that_hangs_holds_up_only_its_own_account(shared: Instance) -> None:
    async with (
        scripted_server(say_nothing) as hung,
        running_sink() as sink,
        new_tenant(shared, sink.port) as acme,
    ):
        await acme.put_account("hung", hung.port)
        await acme.client.submit(*(a_message(f"hung-{n}", account_id="hung") for n in range(50)))
        await eventually(lambda: hung.peers, "the server is connected to")
        began = time.monotonic()
        for batch in range(4):
            await acme.client.submit(*(a_message(f"M{batch}-{n}", account_id="main") for n in range(50)))
        await sink.wait_for(200)
        assert time.monotonic() - began < 5
        messages = await acme.client.messages(account_id="hung")
        assert len(messages) == 50
        assert {message["attempts"] for message in messages.values()} <= {0, 1}
        assert {message["status"] for message in messages.values()} == {"pending"}
    assert set(sink.ledger.values()) == {1}


async def test_while_a_port_refuses_no_message_pays_and_all_go_once_it_opens(shared: Instance) -> None:
    """The one that met the refusal has made an attempt; the others wait for a probe to get through."""  # G8
    with reserved_port() as closed:
        port = closed.getsockname()[1]
        async with new_tenant(shared, port, max_connections=4) as acme:
            await acme.client.submit(*(a_message(f"M{n}") for n in range(300)))
            refused = {"tenant_id": acme.id, "account_id": "main"}
            await eventually(lambda: shared.logged("server left alone", **refused), "the refusal is met")
            met = time.monotonic()
            async with running_sink(at=closed) as sink:
                # What has met the refusal waits for its second attempt (0.2 s), and then for the probe like all others.
                await sink.wait_for(300, PROBE + 10)
                assert time.monotonic() - met > PROBE * 0.5
                messages = {f"M{n}": await acme.client.message_when(f"M{n}", "sent") for n in range(300)}
    assert sink.ledger == dict.fromkeys(messages, 1)
    attempts = sorted(message["attempts"] for message in messages.values())
    assert attempts == [1] * 299 + [2]  # of the four sessions only one was opened
    assert len(shared.logged("server left alone", **refused)) == 1
    assert len(shared.logged("server answers again", **refused)) == 1


async def test_the_right_port_is_tried_at_once_whatever_became_of_the_wrong_one(shared: Instance) -> None:
    with reserved_port() as closed:
        async with running_sink() as sink, new_tenant(shared, closed.getsockname()[1]) as acme:
            await acme.client.submit(*(a_message(f"M{n}") for n in range(30)))
            refused = {"tenant_id": acme.id, "account_id": "main"}
            await eventually(lambda: shared.logged("server left alone", **refused), "the refusal is met")
            await acme.put_account("main", sink.port)
            await sink.wait_for(30, PROBE * 0.6)
    assert set(sink.ledger.values()) == {1}
