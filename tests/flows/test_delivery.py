"""Delivery over a real store, with a transport in memory and time under the test's control."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import anyio
import pytest
from typing_extensions import override

from mail_proxy.attachments.inline import InlineSource
from mail_proxy.attachments.sources import Sources
from mail_proxy.delivery.delivery import Delivery
from mail_proxy.delivery.journal import FlightJournal
from mail_proxy.delivery.needs import Needs
from mail_proxy.delivery.settings import DeliverySettings
from mail_proxy.domain.account import Account, OnUncertain
from mail_proxy.domain.attachment import FetchMode
from mail_proxy.domain.attempt import AccountRefused, Answer, Attempt, HostFailed, Stage
from mail_proxy.domain.claim import Demand
from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.domain.message import Details, MessageState
from mail_proxy.domain.reply import Reply
from mail_proxy.domain.retry import RetrySchedule
from mail_proxy.domain.settlement import Settlement
from mail_proxy.domain.tenant import Tenant
from mail_proxy.ports.attachments import AttachmentSource
from mail_proxy.ports.report_sink import ReportSink, SinkAnswer
from mail_proxy.runtime.telemetry import PrometheusMeter
from mail_proxy.runtime.tracing import NoTracer
from mail_proxy.smtp.capture import CaptureTransport
from mail_proxy.store.opening import database_url
from mail_proxy.store.queue import StoreQueue
from mail_proxy.store.store import Store
from tests.support.fake_clock import FakeClock
from tests.support.storages import MemoryStorages
from tests.support.stores import a_message, enqueue, open_test_store, ready_made, with_account

SETTINGS = DeliverySettings(schedule=RetrySchedule(delays=(60.0,), max_attempts=3, jitter=0.0), batch_size=10)


class NobodyListens(ReportSink):
    """A sink for tenants without an endpoint."""

    @override
    def has_endpoint(self, tenant: Tenant) -> bool:
        return False

    @override
    async def deliver(self, tenant: Tenant, payload: bytes, report_id: str) -> SinkAnswer:
        raise AssertionError("there is no endpoint")


class FlakyQueue(StoreQueue):
    """A real queue whose settlements can be refused, as by a full disk."""

    away = False

    @override
    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        if self.away:
            raise StoreUnavailable("the disk is full")
        return await super().settle(settlements)


@dataclass
class Bench:
    store: Store
    queue: FlakyQueue
    transport: CaptureTransport
    clock: FakeClock
    journal: Path
    settings: DeliverySettings = SETTINGS
    alone: bool = True
    meter: PrometheusMeter = field(default_factory=lambda: PrometheusMeter(process=False))
    sink: ReportSink = field(default_factory=NobodyListens)
    storages: MemoryStorages = field(default_factory=MemoryStorages)
    attachments: AttachmentSource = field(default_factory=lambda: Sources({FetchMode.BASE64: InlineSource()}))

    @asynccontextmanager
    async def delivering(self) -> AsyncIterator[Delivery]:
        """Run delivery; it is stopped in good order at the end."""
        journal = FlightJournal(self.journal, self.store.instance_id, "boot")
        delivery = self.made(journal)
        running = asyncio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(delivery.run, running.set)
            await running.wait()
            yield delivery
            delivery.stop()
        journal.close()

    def made(self, journal: FlightJournal) -> Delivery:
        """Put delivery together as the composition root does."""
        return Delivery(self.needs(), self.settings, journal, lambda _news: None, alone=self.alone, rng=Random(1))

    def needs(self) -> Needs:
        """What it works through."""
        return Needs(
            self.store.instance_id,
            self.queue,
            self.store.directory,
            self.store.directory,
            self.transport,
            self.attachments,
            self.store.files,
            self.storages,
            self.store.cipher,
            self.sink,
            self.clock,
            self.meter,
            NoTracer(),
        )

    async def submit(self, delivery: Delivery, account: Account, *ids: str, **changes: object) -> None:
        await enqueue(self.store, *(a_message(id_, account, **changes) for id_ in ids))
        delivery.notify({account.pk}, urgent=changes.get("priority") == 0)

    async def details(self, id_: str, tenant_id: str = "acme") -> Details:
        details = await self.store.archive.message(tenant_id, id_)
        assert details is not None
        return details

    async def until(self, condition: Callable[[], Awaitable[bool]], *, seconds: float = 0.0) -> None:
        """Wait for the store's threads, letting `seconds` of the test's time pass each time it is looked at."""
        with anyio.fail_after(10):
            while not await condition():
                await asyncio.sleep(0.001)
                if seconds:
                    await self.clock.advance(seconds)

    async def until_state(self, id_: str, state: MessageState, *, seconds: float = 0.0) -> Details:
        async def reached() -> bool:
            return (await self.details(id_)).state is state

        await self.until(reached, seconds=seconds)
        return await self.details(id_)

    async def until_begun(self, attempts: int) -> None:
        async def begun() -> bool:
            return self.transport.begun >= attempts

        await self.until(begun)

    async def until_on_hold(self, account: Account) -> None:
        async def on_hold() -> bool:
            known = await self.store.directory.account(account.pk)
            return known is not None and known.hold is not None

        await self.until(on_hold)

    @property
    def sent_ids(self) -> list[str]:
        heads = (message.content.partition(b"\r\n\r\n")[0].decode() for message in self.transport.messages)
        return [head.partition("X-Genro-Mail-ID: ")[2].partition("\r\n")[0] for head in heads]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    clock = FakeClock(now=1_800_000_000.0)
    store = await open_test_store(ready_made(database_url(str(tmp_path / "mail.db"))), clock=clock)  # type: ignore[arg-type]  # both keep the port
    queue = FlakyQueue(store.database, store.instance_id)
    yield Bench(store, queue, CaptureTransport(), clock, tmp_path / "flight-0.log")
    await store.close()


async def test_what_is_queued_goes_out_and_is_recorded(bench: Bench) -> None:
    account = await with_account(bench.store)
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, *(f"M{n}" for n in range(35)))
        for n in range(35):
            await bench.until_state(f"M{n}", MessageState.SENT)
    assert sorted(bench.sent_ids) == sorted(f"M{n}" for n in range(35))


async def test_messages_of_before_the_start_are_found(bench: Bench) -> None:
    account = await with_account(bench.store)
    await enqueue(bench.store, a_message("M1", account))
    async with bench.delivering():
        await bench.until_state("M1", MessageState.SENT)


async def test_few_messages_are_taken_up_for_a_server_that_takes_none(bench: Bench) -> None:  # G6
    bench.settings = replace(SETTINGS, batch_size=100)
    account = await with_account(bench.store, max_connections=4)
    bench.transport.gate.clear()
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, *(f"M{n}" for n in range(60)))
        await bench.until_state("M3", MessageState.SENDING)
        await bench.clock.advance(10)
        states = [(await bench.details(f"M{n}")).state for n in range(60)]
        assert states.count(MessageState.SENDING) <= 3 * 2 * 4  # the rest is there for other instances
        bench.transport.gate.set()
        await bench.until_state("M59", MessageState.SENT)


async def test_an_account_has_as_many_messages_taken_up_as_its_batch_size_says(bench: Bench) -> None:
    account = await with_account(bench.store, max_connections=1, batch_size=3)
    bench.transport.gate.clear()
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, *(f"M{n}" for n in range(30)))
        await bench.until_state("M2", MessageState.SENDING)
        await bench.clock.advance(10)
        states = [(await bench.details(f"M{n}")).state for n in range(30)]
        taken_up = states.count(MessageState.SENDING)
        assert 3 <= taken_up <= 6  # one batch, and the next once half of it is done
        bench.transport.gate.set()
        await bench.until_state("M29", MessageState.SENT)


async def test_an_urgent_message_overtakes_what_was_claimed_before_it(bench: Bench) -> None:
    account = await with_account(bench.store, max_connections=1)
    bench.transport.gate.clear()
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, *(f"M{n}" for n in range(30)))
        await bench.until_begun(1)
        await bench.submit(delivery, account, "urgent", priority=0)
        await bench.until_state("urgent", MessageState.SENDING)
        bench.transport.gate.set()
        await bench.until_state("M29", MessageState.SENT)
    assert bench.sent_ids[1] == "urgent"  # the first was on its way already
    assert bench.sent_ids[2:] == [f"M{n}" for n in range(1, 30)]


async def test_a_temporary_refusal_is_tried_again_at_its_time_and_not_before(bench: Bench) -> None:
    account = await with_account(bench.store)
    bench.transport.rule = lambda _address: Reply(450, "4.2.0", "greylisted")
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, "M1")
        waiting = await bench.until_state("M1", MessageState.SCHEDULED)
        assert waiting.due_ts == pytest.approx(bench.clock.now() + 60)
        bench.transport.rule = lambda _address: None
        await bench.clock.advance(50)
        assert (await bench.details("M1")).state is MessageState.SCHEDULED
        sent = await bench.until_state("M1", MessageState.SENT, seconds=2)
    assert sent.attempts == 2


async def test_a_dead_server_costs_one_message_an_attempt_and_the_others_nothing(bench: Bench) -> None:
    account = await with_account(bench.store, max_connections=1)
    bench.transport.failure = HostFailed("connection refused")
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, *(f"M{n}" for n in range(8)))
        await bench.until_state("M0", MessageState.SCHEDULED)
        for n in range(1, 8):
            assert (await bench.until_state(f"M{n}", MessageState.READY)).attempts == 0
        await bench.clock.advance(20)  # probes fail, no message is at stake
        assert (await bench.details("M1")).attempts == 0
        bench.transport.failure = None
        for n in range(1, 8):
            assert (await bench.until_state(f"M{n}", MessageState.SENT, seconds=5)).attempts == 1


async def test_a_refused_login_holds_the_account_and_its_messages_keep_their_attempts(bench: Bench) -> None:
    account = await with_account(bench.store)
    bench.transport.failure = AccountRefused("535 5.7.8 wrong password")
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, *(f"M{n}" for n in range(8)))
        await bench.until_on_hold(account)
        for n in range(8):
            assert (await bench.until_state(f"M{n}", MessageState.READY)).attempts == 0  # G8
        assert (await bench.details("M0")).deferred_reason == "account on hold: 535 5.7.8 wrong password"
        bench.transport.failure = None
        await bench.store.directory.put_account(replace(account, user="new"))
        delivery.notify({account.pk})
        for n in range(8):
            assert (await bench.until_state(f"M{n}", MessageState.SENT)).attempts == 1


async def test_an_account_on_hold_is_tried_every_five_minutes(bench: Bench) -> None:
    account = await with_account(bench.store)
    bench.transport.failure = AccountRefused("535 wrong password")
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, "M1")
        await bench.until_on_hold(account)
        await bench.until_state("M1", MessageState.READY)
        bench.transport.failure = None
        await bench.clock.advance(290)
        assert (await bench.details("M1")).state is MessageState.READY
        await bench.until_state("M1", MessageState.SENT, seconds=5)


async def test_a_message_that_breaks_something_costs_itself_an_attempt_and_nobody_else(bench: Bench) -> None:
    account = await with_account(bench.store)
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, "poison", fields='{"from": "nobody"}')
        await bench.submit(delivery, account, "good")
        await bench.until_state("good", MessageState.SENT)
        poison = await bench.until_state("poison", MessageState.SCHEDULED)
        assert poison.attempts == 1  # G13
        assert poison.reply is not None
        assert poison.reply.startswith("Invalid: ")
        failed = await bench.until_state("poison", MessageState.FAILED, seconds=30)
        assert failed.attempts == 3


async def test_nothing_goes_out_while_outcomes_cannot_be_recorded(bench: Bench) -> None:
    account = await with_account(bench.store, max_connections=1)
    async with bench.delivering() as delivery:
        bench.queue.away = True
        await bench.submit(delivery, account, *(f"M{n}" for n in range(40)))

        async def refused() -> bool:
            return not delivery.recorder.available

        await bench.until(refused)
        await bench.clock.advance(30)
        at_most = len(bench.transport.messages)
        await bench.clock.advance(30)
        assert len(bench.transport.messages) == at_most <= 10  # G12: what was on its way when it was noticed
        bench.queue.away = False
        for n in range(40):
            await bench.until_state(f"M{n}", MessageState.SENT, seconds=1)
    assert len(bench.sent_ids) == len(set(bench.sent_ids)) == 40


async def test_an_unanswered_dot_is_uncertain_and_sent_again(bench: Bench) -> None:
    account = await with_account(bench.store)
    bench.transport.silent = True
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, "M1")
        await bench.until_state("M1", MessageState.SCHEDULED)
        bench.transport.silent = False
        await bench.until_state("M1", MessageState.SENT, seconds=5)
    history = await bench.store.archive.history("acme", "M1")
    assert history is not None
    assert [event.type.value for event in history] == ["queued", "uncertain", "deferred", "sent"]


async def test_an_expired_message_is_not_sent(bench: Bench) -> None:
    account = await with_account(bench.store)
    await enqueue(bench.store, a_message("M1", account, expires_ts=bench.clock.now() - 1))
    async with bench.delivering():
        await bench.until_state("M1", MessageState.EXPIRED)
    assert bench.transport.messages == []


async def test_a_deferred_message_goes_out_at_its_time(bench: Bench) -> None:
    account = await with_account(bench.store)
    due = bench.clock.now() + 30
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, "M1", due=due)
        await bench.clock.advance(28)
        assert (await bench.details("M1")).state is MessageState.SCHEDULED
        await bench.until_state("M1", MessageState.SENT, seconds=0.5)
        assert bench.clock.now() >= due


async def test_stopping_lets_transactions_finish_and_gives_the_rest_back(bench: Bench) -> None:
    account = await with_account(bench.store, max_connections=2)
    bench.transport.gate.clear()
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, *(f"M{n}" for n in range(10)))
        await bench.until_state("M9", MessageState.SENDING)
        await bench.until_begun(2)
        delivery.stop()
        for n in range(2, 10):
            assert (await bench.until_state(f"M{n}", MessageState.READY)).attempts == 0  # G6
        bench.transport.gate.set()
    assert sorted(bench.sent_ids) == ["M0", "M1"]
    assert (await bench.details("M0")).state is MessageState.SENT


async def test_a_transaction_that_outlives_the_grace_is_given_back(bench: Bench) -> None:
    account = await with_account(bench.store)
    bench.transport.gate.clear()
    bench.settings = replace(SETTINGS, grace=0.05)
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, "M1")
        await bench.until_state("M1", MessageState.SENDING)
    after = await bench.details("M1")
    assert (after.state, after.attempts) == (MessageState.READY, 0)


async def test_on_demand_nothing_is_sent_before_it_is_asked_for(bench: Bench) -> None:
    account = await with_account(bench.store)
    bench.settings = replace(SETTINGS, only_on_demand=True)
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, "M1")
        await bench.clock.advance(60)
        assert bench.transport.messages == []
        delivery.run_now()
        await bench.until_state("M1", MessageState.SENT)


async def test_where_a_copy_is_worse_than_a_failure_nothing_is_claimed_ahead(bench: Bench) -> None:
    account = await with_account(bench.store, max_connections=2, on_uncertain=OnUncertain.FAIL)
    bench.transport.gate.clear()
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, *(f"M{n}" for n in range(6)))
        await bench.until_state("M1", MessageState.SENDING)
        await bench.clock.advance(10)
        assert [(await bench.details(f"M{n}")).state for n in range(2, 6)] == [MessageState.READY] * 4  # G4
        bench.transport.gate.set()
        for n in range(6):
            await bench.until_state(f"M{n}", MessageState.SENT, seconds=1)


async def claimed_by_a_run_that_died(bench: Bench, *, dot: bool, reply: bool) -> None:
    """Leave a message as a crash leaves it: claimed, and the journal as far as it had got."""
    account = await with_account(bench.store)
    await enqueue(bench.store, a_message("M1", account))
    dead = StoreQueue(bench.store.database, "dead")
    (claimed,) = (await dead.claim([Demand(account.pk, 1)], "old token", bench.clock.now())).claimed
    journal = FlightJournal(bench.journal, "dead", "boot")
    journal.begin()
    if dot:
        journal.dot(claimed.pk, claimed.token)
    if reply:
        journal.reply(claimed.pk, claimed.token, Attempt({0: Answer(Reply(250, "2.0.0", "taken"), Stage.DOT)}))
    journal.close()


async def test_after_a_crash_a_recorded_250_is_settled_without_a_second_copy(bench: Bench) -> None:
    await claimed_by_a_run_that_died(bench, dot=True, reply=True)
    async with bench.delivering():
        sent = await bench.until_state("M1", MessageState.SENT)
    assert sent.reply == "250 2.0.0 taken"
    assert bench.transport.messages == []  # G4


async def test_after_a_crash_a_claim_without_dot_has_its_attempt_back(bench: Bench) -> None:
    await claimed_by_a_run_that_died(bench, dot=False, reply=False)
    async with bench.delivering():
        sent = await bench.until_state("M1", MessageState.SENT)
    assert sent.attempts == 1
    history = await bench.store.archive.history("acme", "M1")
    assert history is not None
    assert [event.type.value for event in history] == ["queued", "sent"]


@pytest.mark.parametrize("deleted", [False, True])
async def test_after_a_crash_a_dot_without_reply_is_uncertain(bench: Bench, deleted: bool) -> None:
    await claimed_by_a_run_that_died(bench, dot=not deleted, reply=False)
    if deleted:
        bench.journal.unlink()
    async with bench.delivering():
        await bench.until_state("M1", MessageState.SENT)
    history = await bench.store.archive.history("acme", "M1")
    assert history is not None
    assert [event.type.value for event in history] == ["queued", "uncertain", "sent"]


async def test_the_queue_is_looked_at_from_time_to_time_however_often_delivery_is_woken(bench: Bench) -> None:
    account = await with_account(bench.store)
    bench.settings = replace(SETTINGS, poll_interval=0.05)
    async with bench.delivering() as delivery:
        await enqueue(bench.store, a_message("M1", account))  # by another instance: nobody tells this one

        async def sent_while_it_is_woken_all_the_time() -> bool:
            delivery.notify(())
            return bool(bench.transport.messages)

        await bench.until(sent_while_it_is_woken_all_the_time)


async def test_what_a_message_said_goes_when_its_time_has_come_and_not_before(bench: Bench) -> None:
    account = await with_account(bench.store)
    bench.settings = replace(bench.settings, body_retention=60.0)
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, "M1")
        sent = await bench.until_state("M1", MessageState.SENT)
        assert sent.finished_ts is not None

        async def bare() -> bool:
            return (await bench.details("M1")).body_removed_ts is not None

        await bench.until(bare, seconds=5)
    details = await bench.details("M1")
    assert details.body_removed_ts is not None
    assert 60 <= details.body_removed_ts - sent.finished_ts <= 120
    assert details.fields["subject"] == "S"
    assert "body" not in details.fields
