"""What becomes of single messages: each recipient apart, later attempts, due times and ends."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from tests.acceptance.conftest import NewInstance
from tests.acceptance.sinks import running_sink
from tests.acceptance.tenants import new_tenant
from tests.support.callback_server import CallbackServer
from tests.support.instance import Instance, a_message, eventually

OK, REFUSED, LATER = "ok@example.net", "refused@example.net", "later@example.net"
LATENESS = 2.0
"""Seconds within which a due message has to go out, on a machine that is busy."""


def by_address(told: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {recipient["address"]: recipient for recipient in told["recipients"]}


async def test_one_copy_to_each_acceptable_recipient_and_the_refusal_reported_with_its_code(shared: Instance) -> None:
    replies = {REFUSED: ["550 5.1.1 no such user"] * 9, LATER: ["450 4.2.0 come back later"]}
    async with (
        running_sink() as sink,
        CallbackServer() as endpoint,
        new_tenant(shared, sink.port, callback=endpoint.url) as acme,
    ):
        sink.rcpt = lambda address: replies[address].pop() if replies.get(address) else None
        await acme.client.submit(a_message("M1", [OK, REFUSED, LATER], metadata={"order": 7}, batch_code="b"))
        message = await acme.client.message_when("M1", "sent")
        await eventually(lambda: len(endpoint.entries) >= 2, "both attempts are reported")

    # G7: one copy each, and never a second one because of somebody else
    first, second = sink.arrivals
    assert (first.recipients, second.recipients) == ((OK,), (LATER,))
    for header in ("Message-ID", "Date", "X-Genro-Mail-ID"):  # G4
        assert first.parsed[header], header
        assert first.parsed[header] == second.parsed[header], header
    assert first.content == second.content
    assert len(replies[REFUSED]) == 8  # and whoever was refused is not asked again

    assert message["attempts"] == 2
    states = {address: (r["state"], r["code"], r["enhanced_code"]) for address, r in by_address(message).items()}
    assert states == {OK: ("sent", 250, "2.0.0"), REFUSED: ("failed", 550, "5.1.1"), LATER: ("sent", 250, "2.0.0")}

    deferred, sent = endpoint.entries
    assert (deferred["event"], sent["event"]) == ("deferred", "sent")
    assert deferred["deferred_reason"] == "450 4.2.0 come back later"
    assert {address: r["state"] for address, r in by_address(deferred).items()} == {
        OK: "sent",
        REFUSED: "failed",
        LATER: "waiting",
    }
    refusal = by_address(sent)[REFUSED]
    assert (refusal["code"], refusal["enhanced_code"], refusal["text"]) == (550, "5.1.1", "no such user")
    for entry in (deferred, sent):
        assert (entry["id"], entry["tenant_id"], entry["account_id"]) == ("M1", acme.id, "main")
        assert (entry["metadata"], entry["batch_code"]) == ({"order": 7}, "b")
    assert sent["sent_ts"] == message["sent_ts"]


async def test_a_refusal_for_good_is_reported_at_once_and_not_tried_again(shared: Instance) -> None:
    async with (
        running_sink() as sink,
        CallbackServer() as endpoint,
        new_tenant(shared, sink.port, callback=endpoint.url) as acme,
    ):
        sink.rcpt = lambda address: "550 5.7.1 we know you" if address == "b@example.net" else None
        sink.dot = lambda: "554 5.6.0 not like that"
        await acme.client.submit(a_message("rcpt", "b@example.net"), a_message("dot", "c@example.net"))
        await endpoint.wait_for(1)
        await eventually(lambda: len(endpoint.entries) >= 2, "both are reported")
        messages = await acme.client.messages()
    told = {entry["id"]: (entry["event"], entry["error_code"], entry["error"]) for entry in endpoint.entries}
    assert told == {
        "rcpt": ("failed", "550", "550 5.7.1 we know you"),
        "dot": ("failed", "554", "554 5.6.0 not like that"),
    }
    assert {message["attempts"] for message in messages.values()} == {1}
    assert {message["status"] for message in messages.values()} == {"error"}


async def test_a_greylisted_message_is_sent_at_the_second_attempt(shared: Instance) -> None:
    known: set[str] = set()

    def greylisting(address: str) -> str | None:
        if address in known:
            return None
        known.add(address)
        return "450 4.7.1 greylisted"

    async with (
        running_sink() as sink,
        CallbackServer() as endpoint,
        new_tenant(shared, sink.port, callback=endpoint.url) as acme,
    ):
        sink.rcpt = greylisting
        await acme.client.submit(*(a_message(f"M{n}", f"u{n}@example.net") for n in range(20)))
        await sink.wait_for(20)
        await eventually(lambda: len(endpoint.entries) == 40, "all are reported")
        messages = await acme.client.messages()
    assert sink.ledger == {f"M{n}": 1 for n in range(20)}
    assert {(each["state"], each["attempts"]) for each in messages.values()} == {("sent", 2)}
    for id_ in messages:
        assert [entry["event"] for entry in endpoint.entries if entry["id"] == id_] == ["deferred", "sent"]


async def test_attempts_back_off_until_they_are_used_up_and_the_failure_is_reported(shared: Instance) -> None:
    async with (
        running_sink() as sink,
        CallbackServer() as endpoint,
        new_tenant(shared, sink.port, callback=endpoint.url) as acme,
    ):
        sink.rcpt = lambda _address: "451 4.3.0 try again"
        await acme.client.submit(a_message("M1"))
        message = await acme.client.message_when("M1", "failed")
        await eventually(lambda: len(endpoint.entries) == 3, "the failure is reported")
    # GMP_RETRY_DELAYS=0.2,0.4 with a fifth of jitter, GMP_MAX_RETRIES=3
    first, second, third = (when for when, _ in sink.asked)
    assert 0.16 <= second - first < 0.24 + LATENESS
    assert 0.32 <= third - second < 0.48 + LATENESS
    assert (message["attempts"], message["error"]) == (3, "451 4.3.0 try again")
    *before, failed = endpoint.entries
    assert [entry["event"] for entry in before] == ["deferred", "deferred"]
    assert all(entry["deferred_ts"] > message["created_ts"] for entry in before)
    assert (failed["event"], failed["error"], failed["error_code"]) == ("failed", "451 4.3.0 try again", "451")
    assert failed["error_ts"] == message["error_ts"]
    assert sink.arrivals == []


async def test_a_deferred_message_goes_out_at_its_time_and_not_before(shared: Instance) -> None:
    async with running_sink() as sink, new_tenant(shared, sink.port) as acme:
        due = round(time.time() + 1.2, 3)
        await acme.client.submit(a_message("later", deferred_ts=due), a_message("now"))
        await sink.wait_for(1)
        assert sink.ids == ["now"]
        waiting = await acme.client.message("later")
        assert (waiting["state"], waiting["status"], waiting["deferred_ts"]) == ("waiting", "deferred", due)
        await sink.wait_for(2)
    assert due <= sink.arrivals[1].at < due + LATENESS


async def test_what_expires_is_reported_and_never_sent(new_instance: NewInstance) -> None:
    instance = new_instance(MAX_RETRIES="1000")  # so that time ends before attempts do
    await instance.start()
    async with (
        running_sink() as sink,
        CallbackServer() as endpoint,
        new_tenant(instance, sink.port, callback=endpoint.url) as acme,
    ):
        sink.rcpt = lambda address: "450 4.2.0 later" if address == LATER else None
        await acme.client.post("/commands/suspend", batch_code="held")
        expires = round(time.time() + 1.5, 3)
        await acme.client.submit(
            a_message("tried", LATER, expires_ts=expires),
            a_message("held", expires_ts=expires, batch_code="held"),
            a_message("deferred", expires_ts=expires + 0.2, deferred_ts=expires + 0.1, batch_code="held"),
        )
        await eventually(lambda: len({e["id"] for e in endpoint.entries if e["event"] == "expired"}) == 3, "all expire")
        messages = await acme.client.messages()
        # The server would take them now, but their time has passed.
        sink.rcpt = lambda _address: None
        await acme.client.post("/commands/activate", batch_code="held")
        await acme.client.submit(a_message("last", LATER))
        await sink.wait_for(1)
        await asyncio.sleep(0.3)
    assert sink.ids == ["last"]
    assert {message["state"] for message in messages.values()} == {"expired"}
    assert messages["tried"]["attempts"] >= 1
    assert {messages[id_]["attempts"] for id_ in ("held", "deferred")} == {0}
    for entry in endpoint.entries:
        if entry["event"] == "expired":
            assert entry["error_ts"] >= expires
            assert entry["error"]
