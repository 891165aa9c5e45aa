"""The main job at some length: a thousand messages, and a thousand more while the service is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import httpx
import pytest

from tests.acceptance.sinks import running_sink
from tests.acceptance.tenants import new_tenant
from tests.support.callback_server import CallbackServer
from tests.support.instance import Client, Instance, a_message, eventually

COUNT = 1000
BATCH = 50
SESSIONS = 4
"""SMTP sessions of the account: so many final dots can be without an answer when the service dies."""


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


async def test_a_thousand_messages_arrive_once_each_and_are_reported_once_each(on_each_database: Instance) -> None:
    instance = on_each_database
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
    on_each_database: Instance, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy is there only where a final dot had no answer when the service died, and then an event says so."""  # G4
    instance = on_each_database
    async with (
        running_sink() as sink,
        CallbackServer() as endpoint,
        new_tenant(instance, sink.port, callback=endpoint.url, max_connections=SESSIONS) as acme,
    ):
        killer = Killer(instance)
        sink.on_arrival = killer.at_arrival
        restarts = asyncio.create_task(killer.restart_each_time())
        accepted = await _submit_stubbornly(acme.client, batches("B"), killer)
        await eventually(lambda: sink.ledger.keys() == ids("B"), "every accepted message arrives", 40)
        await restarts
        await eventually(lambda: told(endpoint, "sent").keys() == ids("B"), "every one is reported", 30)
        await _all_acknowledged(acme.client)
        listed = await acme.client.messages()
        doubtful = {id_ for id_, count in sink.ledger.items() if count > 1} | told(endpoint, "uncertain").keys()
        database = (await acme.client.get("/status"))["database"]
        histories = {id_: await acme.client.events(id_) for id_ in doubtful}

    assert killer.kills == list(KILLS)
    assert accepted == COUNT
    assert listed.keys() == ids("B")
    assert {message["state"] for message in listed.values()} == {"sent"}
    # G9: told at least once, always under the same id
    assert {len(events) for events in told(endpoint, "sent").values()} == {1}

    copies = {id_: count - 1 for id_, count in sink.ledger.items() if count > 1}
    uncertain = {id_ for id_, events in histories.items() if "uncertain" in {event["type"] for event in events}}
    assert copies.keys() <= uncertain
    assert uncertain == told(endpoint, "uncertain").keys()
    assert len(uncertain) <= len(KILLS) * SESSIONS
    assert sum(copies.values()) <= len(KILLS) * SESSIONS
    assert sum(copies.values()) >= 1  # the second kill is one after which SMTP itself cannot tell
    with capsys.disabled():
        print(  # noqa: T201 - figures for whoever runs the tests
            f"\n  {database}, killed {', '.join(KILLS)}: {accepted} accepted, "
            f"{len(sink.ledger)} delivered, {sum(copies.values())} copies, {len(uncertain)} uncertain"
        )


KILLS = ("in the middle of a submission", "before the reply to a dot", "at some moment")


class Killer:
    """Kills an instance at three moments, and has it started again each time."""

    def __init__(self, instance: Instance) -> None:
        self.kills: list[str] = []
        self.alive = asyncio.Event()
        self.alive.set()
        self._instance = instance
        self._killed = asyncio.Event()

    def kill(self, moment: int) -> None:
        """Kill, if this is the next one."""
        if len(self.kills) == moment and self.alive.is_set():
            self._instance.kill()
            self.kills.append(KILLS[moment])
            self.alive.clear()
            self._killed.set()

    def during_submission(self) -> None:
        """Kill while a request is on its way."""
        asyncio.get_running_loop().call_later(0.004, self.kill, 0)

    def at_arrival(self, count: int) -> None:
        """Kill while the server has a message and has not said so yet; later, a moment after it has."""
        if count >= 450:
            self.kill(1)
        if count >= 750:
            asyncio.get_running_loop().call_later(0.003, self.kill, 2)

    async def restart_each_time(self) -> None:
        """Start the instance again after each kill."""
        for _ in KILLS:
            await self._killed.wait()
            self._killed.clear()
            await self._instance.start()
            self.alive.set()


async def _submit_stubbornly(client: Client, some: Sequence[Sequence[dict[str, object]]], killer: Killer) -> int:
    """Submit batches as a client does that hears no answer now and then; return how many messages are there."""
    accepted = 0
    for number, batch in enumerate(some):
        if number == len(some) // 3:
            killer.during_submission()
        while True:
            await killer.alive.wait()
            try:
                receipt = await client.submit(*batch)
            except httpx.TransportError:
                continue  # no answer: whatever became of it, it may be sent again (G2)
            break
        assert receipt["rejected"] == receipt["replaced"] == []
        assert receipt["queued"] + len(receipt["duplicates"]) == BATCH  # G3
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
