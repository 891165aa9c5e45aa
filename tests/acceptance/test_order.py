"""What goes out first: urgent before old, old before new."""

from __future__ import annotations

from tests.acceptance.sinks import running_sink
from tests.acceptance.tenants import new_tenant
from tests.support.instance import Instance, a_message

BACKLOG = 500
SESSIONS = 4


async def test_an_immediate_message_overtakes_a_backlog_that_is_going_out(shared: Instance) -> None:
    async with running_sink() as sink, new_tenant(shared, sink.port, max_connections=SESSIONS) as acme:
        sink.pause = 0.015
        await acme.client.submit(*(a_message(f"M{n}") for n in range(BACKLOG)))
        places = []
        for round_, enough in enumerate((40, 150, 300)):
            await sink.wait_for(enough)
            urgent = a_message(f"urgent-{round_}", priority="immediate")
            await acme.client.submit(urgent)
            places.append(len(sink.arrivals))
        await sink.wait_for(BACKLOG + 3)
    for round_, place in enumerate(places):
        # Each session finishes what it has begun; then the urgent one is next. The rest is for a machine that is busy.
        assert sink.ids.index(f"urgent-{round_}") <= place + 4 * SESSIONS, (round_, place)
    assert set(sink.ledger.values()) == {1}
    assert sink.most_sessions == SESSIONS


async def test_one_session_sends_by_priority_and_then_in_the_order_of_submission(shared: Instance) -> None:
    async with running_sink() as sink, new_tenant(shared, sink.port, max_connections=1) as acme:
        await acme.client.post("/commands/suspend")
        expected: dict[str, list[str]] = {name: [] for name in ("immediate", "high", "medium", "low")}
        for batch in range(3):
            messages = []
            for n in range(40):
                priority = ("low", "medium", "high", "medium", "immediate")[n % 5]
                id_ = f"{priority}-{batch}-{n}"
                expected[priority].append(id_)
                # The batch's priority holds where a message has none of its own.
                own = {} if priority == "medium" else {"priority": priority}
                messages.append(a_message(id_, **own))
            await acme.client.submit(*messages, default_priority=2)
        await acme.client.post("/commands/activate")
        await sink.wait_for(120)
    assert sink.ids == [id_ for ids in expected.values() for id_ in ids]
    assert sink.most_sessions == 1
