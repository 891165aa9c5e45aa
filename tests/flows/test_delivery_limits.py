"""Delivery under rate limits: just in time, urgent ones first, one transaction at a time."""  # G10

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from mail_proxy.delivery.claiming import LOOKED_AT
from mail_proxy.domain.account import Hold
from mail_proxy.domain.attempt import Attempt, Envelope, HostFailed
from mail_proxy.domain.claim import Demand
from mail_proxy.domain.message import MessageState
from mail_proxy.domain.rate_limit import LimitBehavior, Limits, Windows
from mail_proxy.domain.recipient import RecipientKind
from mail_proxy.domain.reply import Reply
from mail_proxy.domain.tenant import Tenant
from mail_proxy.smtp.capture import CaptureTransport
from mail_proxy.store.opening import database_url
from mail_proxy.store.usage import UsageSettings
from tests.flows.test_delivery import SETTINGS, Bench, FlakyQueue
from tests.support.fake_clock import FakeClock
from tests.support.stores import a_message, enqueue, open_test_store, ready_made, with_account

MINUTE = Windows(60.0, 3600.0, 86400.0)


class OneByOne(CaptureTransport):
    """Takes no more than two recipients in a transaction, as a server with a limit of its own."""

    async def send(self, account: object, envelope: Envelope, *rest: object) -> Attempt:
        first = replace(envelope, recipients=envelope.recipients[:2])
        assert envelope.transactions == 1
        return await super().send(account, first, *rest)  # type: ignore[arg-type]  # handed on as they came


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    clock = FakeClock(now=1_800_000_000.0)
    store = await open_test_store(ready_made(database_url(str(tmp_path / "mail.db"))), clock=clock)  # type: ignore[arg-type]  # both keep the port
    queue = FlakyQueue(store.database, store.instance_id, UsageSettings(MINUTE, clock.now))
    settings = replace(SETTINGS, poll_interval=0.02)
    yield Bench(store, queue, CaptureTransport(), clock, tmp_path / "flight-0.log", settings)
    await store.close()


async def until_sent(bench: Bench, count: int, seconds: float = 0.0) -> None:
    async def enough() -> bool:
        return len(bench.transport.messages) >= count

    await bench.until(enough, seconds=seconds)


async def test_a_window_lets_so_many_through_and_the_next_ones_go_when_it_does_again(bench: Bench) -> None:
    account = await with_account(bench.store, limits=Limits(per_minute=5))
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, *(f"M{n}" for n in range(12)))
        for n in range(5):
            await bench.until_state(f"M{n}", MessageState.SENT)  # before time goes on: it counts from then
        waiting = await bench.details("M11")
        await bench.clock.advance(50)
        assert len(bench.transport.messages) == 5
        assert waiting.state is MessageState.READY
        await until_sent(bench, 10, seconds=0.1)
        await until_sent(bench, 12, seconds=1)
    assert bench.sent_ids == [f"M{n}" for n in range(12)]
    assert (await bench.details("M11")).attempts == 1


async def test_an_urgent_message_gets_the_next_place(bench: Bench) -> None:
    account = await with_account(bench.store, limits=Limits(per_minute=2))
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, *(f"M{n}" for n in range(6)))
        await until_sent(bench, 2)
        await bench.submit(delivery, account, "urgent", priority=0)
        await until_sent(bench, 3, seconds=1)
        await bench.until_state("urgent", MessageState.SENT)
    assert bench.sent_ids[2] == "urgent"


async def test_no_place_waits_in_memory(bench: Bench) -> None:
    account = await with_account(bench.store, limits=Limits(per_hour=100), max_connections=3)
    bench.transport.gate.clear()
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, *(f"M{n}" for n in range(9)))
        await bench.until_state("M2", MessageState.SENDING)
        assert (await bench.details("M3")).state is MessageState.READY
        bench.transport.gate.set()
        for n in range(9):
            await bench.until_state(f"M{n}", MessageState.SENT)


async def test_where_a_limit_rejects_what_is_beyond_it_fails_at_once_untried(bench: Bench) -> None:
    account = await with_account(bench.store, limits=Limits(per_day=2), limit_behavior=LimitBehavior.REJECT)
    await enqueue(bench.store, *(a_message(f"M{n}", account) for n in range(250)))
    async with bench.delivering():
        await bench.until_state("M249", MessageState.FAILED, seconds=0.2)
        failed = await bench.details("M2")
        assert (failed.state, failed.attempts) == (MessageState.FAILED, 0)
        assert failed.reply == "rate_limited: no more than 2 per day"
    assert len(bench.transport.messages) == 2


async def test_a_tenants_limit_is_shared_by_its_accounts_and_no_other_tenants(bench: Bench) -> None:
    await bench.store.directory.put_tenant(Tenant("acme", limits=Limits(per_hour=3)), None)
    main, second = [await with_account(bench.store, account_id=name) for name in ("main", "second")]
    other = await with_account(bench.store, "other")
    async with bench.delivering() as delivery:
        await bench.submit(delivery, main, *(f"M{n}" for n in range(3)))
        await bench.submit(delivery, second, *(f"S{n}" for n in range(3)))
        await bench.submit(delivery, other, *(f"O{n}" for n in range(5)))
        await until_sent(bench, 8)
        await bench.clock.advance(600)
        assert len(bench.transport.messages) == 8
        assert len([id_ for id_ in bench.sent_ids if id_.startswith("O")]) == 5


async def test_a_limit_that_was_raised_is_heeded_soon(bench: Bench) -> None:
    account = await with_account(bench.store, limits=Limits(per_day=1))
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, *(f"M{n}" for n in range(4)))
        await until_sent(bench, 1)
        await bench.store.directory.put_account(replace(account, limits=Limits(per_day=3)))
        await until_sent(bench, 3, seconds=1)  # also without being told, within half a minute
        assert bench.clock.now() < 1_800_000_000 + 40


async def test_a_message_of_several_transactions_takes_a_place_for_each(bench: Bench) -> None:
    bench.transport = OneByOne()
    account = await with_account(bench.store, limits=Limits(per_minute=2))
    people = tuple((f"r{n}@example.net", RecipientKind.TO) for n in range(5))
    to = [address for address, _ in people]
    fields = json.dumps({"id": "M1", "from": "a@example.com", "to": to, "subject": "S", "body": "B"})
    async with bench.delivering() as delivery:
        await enqueue(bench.store, a_message("M1", account, recipients=people, fields=fields))
        delivery.notify({account.pk})

        async def two_are_recorded() -> bool:
            states = [recipient.state.value for recipient in (await bench.details("M1")).recipients]
            return states == ["sent"] * 4 + ["waiting"]

        await bench.until(two_are_recorded)
        assert (await bench.details("M1")).attempts == 0
        assert len(bench.transport.messages) == 2
        done = await bench.until_state("M1", MessageState.SENT, seconds=1)
    assert (done.attempts, bench.clock.now() > 1_800_000_059) == (1, True)
    assert [m.accepted for m in bench.transport.messages] == [tuple(to[:2]), tuple(to[2:4]), tuple(to[4:])]


async def test_a_recipient_that_was_put_off_waits_for_the_untried_ones(bench: Bench) -> None:
    bench.transport = OneByOne()
    bench.transport.rule = lambda address: Reply(450, "4.2.0", "later") if address.startswith("r0") else None
    account = await with_account(bench.store, limits=Limits(per_minute=50))
    people = tuple((f"r{n}@example.net", RecipientKind.TO) for n in range(4))
    to = [address for address, _ in people]
    fields = json.dumps({"id": "M1", "from": "a@example.com", "to": to, "subject": "S", "body": "B"})
    async with bench.delivering() as delivery:
        await enqueue(bench.store, a_message("M1", account, recipients=people, fields=fields))
        delivery.notify({account.pk})
        waiting = await bench.until_state("M1", MessageState.SCHEDULED)
        assert [r.state.value for r in waiting.recipients] == ["waiting", "sent", "sent", "sent"]
        assert waiting.attempts == 1


async def test_what_is_taken_back_after_a_crash_still_counts(bench: Bench) -> None:
    account = await with_account(bench.store, limits=Limits(per_minute=2))
    await enqueue(bench.store, *(a_message(f"M{n}", account) for n in range(4)))
    dead = FlakyQueue(bench.store.database, "dead", UsageSettings(MINUTE, bench.clock.now))
    assert len((await dead.claim([Demand(account.pk, 1)], "old", bench.clock.now())).claimed) == 1
    async with bench.delivering():
        await until_sent(bench, 1)
        await bench.clock.advance(30)
        assert len(bench.transport.messages) == 1
        await until_sent(bench, 2, seconds=1)


async def test_recipients_that_are_all_put_off_do_not_keep_a_message_going_round(bench: Bench) -> None:
    bench.transport = OneByOne()
    tried: list[str] = []

    def put_off(address: str) -> Reply:
        tried.append(address)
        return Reply(450, "4.2.0", "greylisted")

    bench.transport.rule = put_off
    account = await with_account(bench.store, limits=Limits(per_minute=1000))
    people = tuple((f"r{n}@example.net", RecipientKind.TO) for n in range(5))
    fields = json.dumps(
        {"id": "M1", "from": "a@example.com", "to": [a for a, _ in people], "subject": "S", "body": "B"}
    )
    async with bench.delivering() as delivery:
        await enqueue(bench.store, a_message("M1", account, recipients=people, fields=fields))
        delivery.notify({account.pk})
        waiting = await bench.until_state("M1", MessageState.SCHEDULED)
        assert sorted(tried[:5]) == [address for address, _ in people]  # each once
        assert (waiting.attempts, len(tried)) == (1, 6)  # and the last transaction had place for one more
        await bench.clock.advance(59)
        assert len(tried) == 6


async def test_urgent_messages_do_not_wait_in_memory_either(bench: Bench) -> None:
    account = await with_account(bench.store, limits=Limits(per_hour=100), max_connections=1)
    bench.transport.gate.clear()
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, *(f"M{n}" for n in range(6)), priority=0)
        await bench.until_state("M0", MessageState.SENDING)
        await bench.submit(delivery, account, "another", priority=0)
        await bench.clock.advance(1)
        states = [(await bench.details(id_)).state for id_ in ("M1", "M5", "another")]
        assert set(states) == {MessageState.READY}
        bench.transport.gate.set()
        await bench.until_state("another", MessageState.SENT)


async def test_a_limit_holds_for_what_was_claimed_before_there_was_one(bench: Bench) -> None:
    account = await with_account(bench.store, max_connections=1)
    bench.transport.gate.clear()
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, *(f"M{n}" for n in range(8)))
        await bench.until_state("M1", MessageState.SENDING)
        await bench.store.directory.put_account(replace(account, limits=Limits(per_hour=2)))
        delivery.notify({account.pk})
        await bench.until_state("M1", MessageState.READY)
        bench.transport.gate.set()
        await until_sent(bench, 3)  # the one that was on its way was not counted
        await bench.clock.advance(600)
        assert len(bench.transport.messages) == 3


async def test_where_a_limit_rejects_nobody_fails_for_attempts_that_come_to_nothing(bench: Bench) -> None:
    account = await with_account(bench.store, limits=Limits(per_hour=2), limit_behavior=LimitBehavior.REJECT)
    bench.transport.failure = HostFailed("refused")
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, *(f"M{n}" for n in range(10)))
        await bench.until_state("M0", MessageState.SCHEDULED)
        await bench.clock.advance(3)
        states = {(await bench.details(f"M{n}")).state for n in range(10)}
        assert MessageState.FAILED not in states  # G8


async def test_accounts_behind_many_that_are_on_hold_do_not_wait_for_the_next_look(bench: Bench) -> None:
    bench.settings = replace(SETTINGS, poll_interval=3600.0)
    hold = Hold("535", bench.clock.now())
    held = [await with_account(bench.store, account_id=f"held{n}") for n in range(LOOKED_AT)]
    for account in held:
        await bench.store.directory.set_hold(account.pk, hold)
    last = await with_account(bench.store, account_id="last")
    await enqueue(bench.store, *(a_message(f"H{n}", account) for n, account in enumerate(held)), a_message("M1", last))
    async with bench.delivering():  # whose first look finds them all
        await bench.until_state("M1", MessageState.SENT)
