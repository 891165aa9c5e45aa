"""Many clients with one id: whatever they do at once, one message stands, and every answer is true."""  # G3

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from tests.acceptance.sinks import Sink, running_sink
from tests.acceptance.tenants import Tenant, new_tenant
from tests.support.callback_server import CallbackServer
from tests.support.instance import Instance, a_message, eventually

CLIENTS = 50


def verdict(receipt: Mapping[str, Any]) -> str:
    """What became of the only message of a submission; it is accounted for exactly once."""
    words: list[str] = [
        *["queued"] * receipt["queued"],
        *["duplicate" for _ in receipt["duplicates"]],
        *["replaced" for _ in receipt["replaced"]],
        *[each["code"] for each in receipt["rejected"]],
    ]
    assert len(words) == 1
    return words[0]


async def submit_all(tenant: Tenant, id_: str, bodies: Sequence[str]) -> list[str]:
    """Submit one id with each of these bodies at once."""
    receipts = await asyncio.gather(*(tenant.client.submit(a_message(id_, body=body)) for body in bodies))
    return [verdict(receipt) for receipt in receipts]


def bodies_of(sink: Sink, id_: str) -> list[str]:
    """The bodies that came under an id."""
    return [str(each.parsed.get_payload()).strip() for each in sink.arrivals if each.mail_id == id_]


async def test_one_of_fifty_at_once_is_queued_and_the_last_content_is_sent(on_each_database: Instance) -> None:
    contents = [f"content {n}" for n in range(CLIENTS)]
    async with running_sink() as sink, new_tenant(on_each_database, sink.port) as acme:
        await acme.client.post("/commands/suspend")
        assert Counter(await submit_all(acme, "same", ["content"] * CLIENTS)) == {"queued": 1, "duplicate": 49}
        assert Counter(await submit_all(acme, "other", contents)) == {"queued": 1, "replaced": 49}
        standing = (await acme.client.message("other"))["message"]["body"]
        assert standing in contents
        assert await submit_all(acme, "other", [standing]) == ["duplicate"]
        assert await submit_all(acme, "other", ["the last"]) == ["replaced"]
        await acme.client.post("/commands/activate")
        await acme.client.message_when("same", "sent")
        await acme.client.message_when("other", "sent")
        assert Counter(await submit_all(acme, "other", contents)) == {"already_sent": 50}
        assert await submit_all(acme, "other", ["the last"]) == ["duplicate"]
    assert sorted(sink.ids) == ["other", "same"]
    assert bodies_of(sink, "other") == ["the last"]


async def test_what_is_refused_once_it_is_taken_up_is_never_sent(on_each_database: Instance) -> None:
    async with running_sink() as sink, new_tenant(on_each_database, sink.port, max_connections=2) as acme:
        sink.pause = 0.01
        ids = ["M0", "M1", "M2"]
        # the first of each id goes out while the others are still coming in
        asked = [(id_, f"content {n}") for n in range(CLIENTS) for id_ in ids]
        verdicts = await asyncio.gather(*(submit_all(acme, id_, [body]) for id_, body in asked))
        for id_ in ids:
            await acme.client.message_when(id_, "sent")
        said = {ask: words[0] for ask, words in zip(asked, verdicts, strict=True)}
        for id_ in ids:
            of_id = Counter(word for (other, _), word in said.items() if other == id_)
            assert of_id["queued"] == 1
            assert set(of_id) <= {"queued", "replaced", "already_taken", "already_sent"}
            (sent,) = bodies_of(sink, id_)
            assert said[id_, sent] in {"queued", "replaced"}
            assert (of_id["replaced"] == 0) == (said[id_, sent] == "queued")
            assert (await acme.client.message(id_))["message"]["body"] == sent
    assert set(sink.ledger.values()) == {1}


async def test_submitting_deleting_and_retrying_at_once_lose_nothing_and_send_nothing_twice(
    on_each_database: Instance,
) -> None:
    rng, ids = Random(5), [f"M{n}" for n in range(6)]
    counts: Counter[str] = Counter()

    async def client(acme: Tenant) -> None:
        for _ in range(12):
            some = rng.sample(ids, 2)
            match rng.choice(["submit", "submit", "delete", "retry", "clean up"]):
                case "submit":
                    body = f"content {rng.randrange(3)}"
                    message = a_message(some[0], ["ok@example.net", "gone@example.net"], body=body)
                    counts[verdict(await acme.client.submit(message))] += 1
                case "delete":
                    answer = await acme.client.post("/commands/delete-messages", {"ids": some})
                    assert answer["removed"] + len(answer["not_found"]) + len(answer["in_progress"]) == 2
                    counts["removed"] += answer["removed"]
                case "retry":
                    answer = await acme.client.post("/commands/retry-messages", {"ids": some})
                    assert answer["queued"] + answer["skipped"] == 2
                    counts["retried"] += answer["queued"]
                case _:
                    counts["cleaned"] += (await acme.client.post("/commands/cleanup-messages"))["removed"]

    async with (
        running_sink() as sink,
        CallbackServer() as endpoint,
        new_tenant(on_each_database, sink.port, callback=endpoint.url) as acme,
    ):
        sink.rcpt = lambda address: "550 5.1.1 no such user" if address.startswith("gone") else None
        await asyncio.gather(*(client(acme) for _ in range(20)))

        # Each round of each message ends in one event, which is told although its message is gone. G9
        rounds = counts["queued"] + counts["retried"]

        def ends() -> dict[str, Mapping[str, Any]]:
            told = endpoint.entries
            return {each["event_id"]: each for each in told if each["event"] in {"sent", "failed", "cancelled"}}

        await eventually(lambda: len(ends()) == rounds, f"{rounds} ends are told")
        left = await acme.client.messages()
        assert {each["state"] for each in left.values()} <= {"sent", "failed", "cancelled"}
        by_message: dict[str, list[Mapping[str, Any]]] = {}
        for end in ends().values():
            by_message.setdefault(end["pk"], []).append(end)
        assert len(by_message) == counts["queued"]
        served = [
            pk
            for pk, told in by_message.items()
            if any(who["address"] == "ok@example.net" and who["state"] == "sent" for who in told[-1]["recipients"])
        ]
        assert len(sink.arrivals) == len(served)  # G7: once for each message, however often it was retried
        deadline = time.monotonic() + 15
        while await acme.client.messages():  # the last ones are told, but perhaps not marked yet
            assert time.monotonic() < deadline
            await acme.client.post("/commands/cleanup-messages")
    assert all(counts[what] for what in ("queued", "duplicate", "removed", "retried")), counts
