"""The main job at some length: a thousand messages, and a thousand more while the service is killed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import NewInstance
from tests.acceptance.sinks import running_sink
from tests.acceptance.tenants import new_tenant
from tests.support.callback_server import CallbackServer
from tests.support.instance import Client, Instance, a_message, eventually

COUNT = 1000
BATCH = 50
SESSIONS = 4
"""SMTP sessions of the account: so many final dots can be without an answer when the service dies."""
KILLS = 3


def batches(prefix: str) -> list[list[dict[str, object]]]:
    messages = [a_message(f"{prefix}-{n}", f"u{n}@example.net") for n in range(COUNT)]
    return [messages[start : start + BATCH] for start in range(0, COUNT, BATCH)]


def ids(prefix: str) -> set[str]:
    return {f"{prefix}-{n}" for n in range(COUNT)}


def told(endpoint: CallbackServer, type_: str) -> dict[str, set[str]]:
    """Return the events of a type that were reported: the ids that each message's events have."""
    events: dict[str, set[str]] = {}
    for entry in endpoint.entries:
        if entry["event"] == type_:
            events.setdefault(entry["id"], set()).add(entry["event_id"])
    return events


async def test_a_thousand_messages_arrive_once_each_and_are_reported_once_each(
    new_instance: NewInstance, database: str | None
) -> None:
    instance = new_instance(database)
    await instance.start()
    async with (
        running_sink() as sink,
        CallbackServer() as endpoint,
        new_tenant(instance, sink.port, callback=endpoint.url, max_connections=SESSIONS) as acme,
    ):
        for batch in batches("A"):
            receipt = await acme.client.submit(*batch)
            expected = {"ok": True, "queued": BATCH, "duplicates": [], "replaced": [], "rejected": []}
            assert receipt == expected  # G2
        await sink.wait_for(COUNT)
        await eventually(lambda: len(endpoint.entries) >= COUNT, "all are reported")
        await _all_acknowledged(acme.client)
        listed = await acme.client.messages()
        status = await acme.client.get("/status")
        metrics = (await acme.client.ask("GET", "/metrics")).text

    assert sink.ledger == dict.fromkeys(ids("A"), 1)
    assert sink.most_sessions <= SESSIONS
    assert all(arrival.recipients == (f"u{arrival.mail_id[2:]}@example.net",) for arrival in sink.arrivals)

    # G9: each told once, with an id of its own
    assert len(endpoint.entries) == COUNT
    assert told(endpoint, "sent").keys() == ids("A")
    assert len({entry["event_id"] for entry in endpoint.entries}) == COUNT

    assert listed.keys() == ids("A")
    for message in listed.values():
        assert (message["state"], message["status"], message["attempts"]) == ("sent", "sent", 1)
        assert message["sent_ts"] is not None
        assert message["reported_ts"] >= message["sent_ts"]
        assert [recipient["state"] for recipient in message["recipients"]] == ["sent"]
    assert status["pending_messages"] == 0
    labels = {f'tenant_id="{acme.id}"', 'account_id="main"'}
    (counted,) = (line for line in metrics.splitlines() if line.startswith("gmp_sent_total") and acme.id in line)
    assert all(label in counted for label in labels)
    assert float(counted.split()[-1]) == COUNT


async def test_killed_three_times_in_the_middle_it_loses_nothing(
    new_instance: NewInstance, database: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy is there only where a final dot had no answer when the service died, and then an event says so."""  # G4
    instance = new_instance(database)
    await instance.start()
    killed = asyncio.Event()
    kills: list[str] = []

    def kill(where: str) -> None:
        instance.kill()
        kills.append(where)
        killed.set()

    def at_arrival(count: int) -> None:
        """Kill when the server has taken a message and has not said so yet; then at some moment between."""
        if count >= 400 and kills == ["while submitting"]:
            kill("before a reply to a dot")
        elif count >= 700 and kills == ["while submitting", "before a reply to a dot"]:
            asyncio.get_running_loop().call_later(0.003, _unless(killed, lambda: kill("between")))

    async with (
        running_sink() as sink,
        CallbackServer() as endpoint,
        new_tenant(instance, sink.port, callback=endpoint.url, max_connections=SESSIONS) as acme,
    ):
        sink.on_arrival = at_arrival
        all_batches = batches("B")
        accepted = await _submit(acme.client, all_batches[:9])
        # The answer to the tenth is never heard; the client does what it may do then, and sends it again.
        unheard = asyncio.create_task(acme.client.submit(*all_batches[9]))
        await sink.wait_for(100)
        kill("while submitting")
        with pytest.raises(httpx.TransportError):
            await unheard
        for _ in range(KILLS - 1):
            await killed.wait()
            killed.clear()
            await instance.start()
            if accepted < COUNT:
                accepted += await _submit(acme.client, all_batches[9:])
        await killed.wait()
        await instance.start()
        await eventually(lambda: sink.ledger.keys() == ids("B"), "every accepted message arrives", 30)
        await eventually(lambda: told(endpoint, "sent").keys() == ids("B"), "every one is reported", 30)
        await _all_acknowledged(acme.client)
        listed = await acme.client.messages()
        histories = {id_: await acme.client.events(id_) for id_ in _doubtful(sink.ledger, endpoint)}

    assert len(kills) == KILLS
    assert accepted == COUNT
    assert listed.keys() == ids("B")
    assert {message["state"] for message in listed.values()} == {"sent"}
    assert {message["attempts"] for message in listed.values()} <= {1, 2}
    # G9: told at least once, always under the same id
    assert {len(events) for events in told(endpoint, "sent").values()} == {1}

    copies = {id_: count - 1 for id_, count in sink.ledger.items() if count > 1}
    uncertain = {id_ for id_, events in histories.items() if "uncertain" in {event["type"] for event in events}}
    assert copies.keys() <= uncertain
    assert uncertain == told(endpoint, "uncertain").keys()
    assert len(uncertain) <= KILLS * SESSIONS
    assert sum(copies.values()) <= KILLS * SESSIONS
    assert sum(copies.values()) >= 1  # the second kill is one that SMTP cannot save from a copy
    with capsys.disabled():
        print(  # noqa: T201 - figures for whoever runs the tests
            f"\n  {'PostgreSQL' if database else 'SQLite'}, killed {' / '.join(kills)}: {accepted} accepted, "
            f"{len(sink.ledger)} delivered, {sum(copies.values())} copies, {len(uncertain)} uncertain"
        )


def _unless(done: asyncio.Event, action: Callable[[], None]) -> Callable[[], None]:
    """Return the action, to be done by the first of several that are on their way."""
    return lambda: None if done.is_set() else action()


def _doubtful(ledger: Counter[str], endpoint: CallbackServer) -> set[str]:
    return {id_ for id_, count in ledger.items() if count > 1} | told(endpoint, "uncertain").keys()


async def _submit(client: Client, some: Sequence[Sequence[dict[str, Any]]]) -> int:
    """Submit batches and return how many messages are there for sure; what is there already is a duplicate."""
    accepted = 0
    for batch in some:
        receipt = await client.submit(*batch)
        assert receipt["rejected"] == receipt["replaced"] == []
        assert receipt["queued"] + len(receipt["duplicates"]) == BATCH  # G2, G3
        accepted += BATCH
    return accepted


async def _all_acknowledged(client: Client) -> None:
    """Return once the service knows that everything was reported."""
    for _ in range(200):
        page = await client.messages()
        if all(message["reported_ts"] is not None for message in page.values()):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("not everything is marked as reported")
