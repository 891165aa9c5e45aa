"""Whatever goes wrong with one message: it costs that one an attempt, and nobody else anything."""  # G13

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import anyio
import pytest
from typing_extensions import override

import mail_proxy.delivery.maintenance
import mail_proxy.delivery.sender
from mail_proxy.delivery.journal import FlightJournal
from mail_proxy.domain.account import Hold, OnUncertain
from mail_proxy.domain.attempt import AccountRefused, Attempt
from mail_proxy.domain.claim import Claimed, Demand
from mail_proxy.domain.explanation import Here, Reason, explain
from mail_proxy.domain.message import MessageState
from mail_proxy.domain.poison import MOST_CRASHES, POISON
from mail_proxy.domain.reply import Reply
from mail_proxy.domain.settlement import Policy, Settlement, recover, settle
from mail_proxy.smtp.capture import CaptureTransport
from mail_proxy.store.opening import database_url
from mail_proxy.store.queue import StoreQueue
from tests.flows.test_delivery import SETTINGS, Bench, FlakyQueue
from tests.support import emptied
from tests.support.fake_clock import FakeClock
from tests.support.stores import a_message, enqueue, open_test_store, ready_made, with_account

shared_database, postgres_url = emptied.shared_database, emptied.postgres_url


class PickyQueue(FlakyQueue):
    """A real queue that takes no settlement of a certain message, whatever it says."""

    refused: int | None = None
    tried = 0

    @override
    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        self.tried += 1
        if any(settlement.pk == self.refused for settlement in settlements):
            raise ValueError("this one cannot be written")
        return await super().settle(settlements)


@pytest.fixture(params=["sqlite", "postgresql"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    """Delivery over a store of each kind."""
    if request.param == "sqlite":
        url = ready_made(database_url(str(tmp_path / "mail.db")))
    else:
        url = request.getfixturevalue("postgres_url")
    clock = FakeClock(now=1_800_000_000.0)
    store = await open_test_store(url, clock=clock)  # type: ignore[arg-type]  # both keep the port
    queue = PickyQueue(store.database, store.instance_id)
    yield Bench(store, queue, CaptureTransport(), clock, tmp_path / "flight-0.log", replace(SETTINGS, grace=0.05))
    await store.close()


async def restart(bench: Bench) -> None:
    """Start, take back what the last run left, and end before anything is sent."""
    journal = FlightJournal(bench.journal, bench.store.instance_id, "boot")
    delivery = bench.made(journal)
    async with anyio.create_task_group() as group:
        group.start_soon(delivery.recorder.run)
        await delivery.maintenance.at_start()
        group.cancel_scope.cancel()
    journal.close()


async def crash(bench: Bench, account_pk: int, *, begun: int, reliable: bool = True) -> list[Claimed]:
    """Claim up to ten messages and begin some of them, as an instance does that then ends."""
    dead = StoreQueue(bench.store.database, "dead")
    taking = await dead.claim([Demand(account_pk, 10)], f"token {bench.clock.monotonic()}", bench.clock.now())
    await bench.clock.advance(1)
    journal = FlightJournal(bench.journal, "dead", "boot")
    journal.begin()
    for claimed in taking.claimed[:begun]:
        journal.took_up(claimed.pk, claimed.token)
    journal.close()
    if not reliable:
        bench.journal.unlink()
    return list(taking.claimed)


async def told(bench: Bench, id_: str) -> list[str]:
    history = await bench.store.archive.history("acme", id_)
    assert history is not None
    return [event.type.value for event in history]


def counted(bench: Bench, name: str) -> float:
    lines = bench.meter.render().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{"))


async def test_a_message_that_was_begun_at_five_crashes_is_held_and_told(bench: Bench) -> None:
    account = await with_account(bench.store)
    await enqueue(bench.store, a_message("poison", account), a_message("behind", account))
    for n in range(MOST_CRASHES):
        poison, behind = await crash(bench, account.pk, begun=1)
        assert (poison.crashes, behind.crashes) == (n, 0)  # what only waited in memory is not at fault
        await restart(bench)
    held = await bench.details("poison")
    assert (held.state, held.attempts, held.deferred_reason) == (MessageState.HELD, 0, POISON)
    assert await told(bench, "poison") == ["queued", "deferred"]
    standing = await bench.store.archive.standing("acme", "poison")
    assert standing is not None
    (why, *_) = explain(standing, Here(), bench.clock.now()).obstacles
    (*_, last) = await bench.store.archive.history("acme", "poison") or ()
    assert (why.reason, why.since) == (Reason.POISON, last.ts)
    assert counted(bench, "gmp_poison_total") == 1
    async with bench.delivering():
        await bench.until_state("behind", MessageState.SENT)
        await bench.clock.advance(10)
    assert bench.sent_ids == ["behind"]

    await bench.store.directory.free_poison("acme")
    async with bench.delivering():
        await bench.until_state("poison", MessageState.SENT, seconds=1)


async def test_without_a_journal_every_claim_counts_as_begun(bench: Bench) -> None:
    account = await with_account(bench.store)
    await enqueue(bench.store, *(a_message(f"M{n}", account) for n in range(3)))
    for _ in range(MOST_CRASHES):
        assert len(await crash(bench, account.pk, begun=0, reliable=False)) == 3
        await restart(bench)
    assert [(await bench.details(f"M{n}")).state for n in range(3)] == [MessageState.HELD] * 3
    assert await told(bench, "M0") == ["queued", *["uncertain"] * MOST_CRASHES, "deferred"]
    assert counted(bench, "gmp_uncertain_total") == 3 * MOST_CRASHES  # G4


async def test_a_message_that_was_put_back_untried_is_not_at_fault(bench: Bench) -> None:
    account = await with_account(bench.store)
    await enqueue(bench.store, a_message("M1", account))
    (claimed,) = await crash(bench, account.pk, begun=1)
    journal = FlightJournal(bench.journal, "dead", "boot")
    journal.begin()
    journal.took_up(claimed.pk, claimed.token)
    journal.put_back(claimed.pk, claimed.token)
    journal.close()
    await restart(bench)
    (again,) = await crash(bench, account.pk, begun=0)
    assert again.crashes == 0


async def test_what_is_held_as_poison_expires_by_its_age(bench: Bench) -> None:
    account = await with_account(bench.store)
    await enqueue(bench.store, a_message("poison", account))
    for _ in range(MOST_CRASHES):
        await crash(bench, account.pk, begun=1)
        await restart(bench)
    async with bench.delivering():
        bench.clock.jump(SETTINGS.schedule.max_age - 60)
        await bench.clock.advance(4)
        assert (await bench.details("poison")).state is MessageState.HELD
        await bench.until_state("poison", MessageState.EXPIRED, seconds=10)


async def test_a_recovery_that_fails_holds_its_message_and_the_start_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(claimed: Claimed, choice: OnUncertain, now: float) -> Settlement:
        if claimed.identity.mail_id == "bad":
            raise KeyError("a mistake")
        return recover(claimed, choice, now)

    monkeypatch.setattr(mail_proxy.delivery.maintenance, "recover", failing)
    account = await with_account(bench.store)
    await enqueue(bench.store, a_message("bad", account), a_message("good", account))
    await crash(bench, account.pk, begun=0, reliable=False)
    async with bench.delivering():
        await bench.until_state("good", MessageState.SENT)
    bad = await bench.details("bad")
    assert bad.state is MessageState.HELD
    assert bad.deferred_reason == "held: what became of it cannot be decided (KeyError: 'a mistake')"


def failing_decision(
    claimed: Claimed, attempt: Attempt, policy: Policy, now: float, rng: Random, *, ends: str
) -> Settlement:
    """A decision with a mistake in it that concerns one message."""
    settlement = settle(claimed, attempt, policy, now, rng)
    if claimed.identity.mail_id != "bad":
        return settlement
    if ends == "raises":
        raise RuntimeError("a mistake")
    return replace(settlement, due=float("nan"))


@pytest.mark.parametrize("ends", ["raises", "cannot be stored"])
async def test_a_decision_with_a_mistake_costs_its_message_an_attempt_and_nobody_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    monkeypatch.setattr(mail_proxy.delivery.sender, "settle", partial(failing_decision, ends=ends))
    bench.transport.rule = lambda address: Reply(450, "4.2.0", "greylisted") if address.startswith("bad") else None
    account = await with_account(bench.store)
    people = a_message("M", account).recipients
    bad = tuple((f"bad-{address}", kind) for address, kind in people)
    async with bench.delivering() as delivery:
        await enqueue(bench.store, a_message("bad", account, recipients=bad))
        await bench.submit(delivery, account, *(f"M{n}" for n in range(20)))
        for n in range(20):
            await bench.until_state(f"M{n}", MessageState.SENT)
        waiting = await bench.until_state("bad", MessageState.SCHEDULED)
        assert waiting.attempts == 1
        ended = "RuntimeError: a mistake" if ends == "raises" else "its outcome could not be recorded as it was"
        assert waiting.reply is not None
        assert waiting.reply.startswith(ended)
        if ends == "raises":
            failed = await bench.until_state("bad", MessageState.FAILED, seconds=30)
            assert failed.attempts == SETTINGS.schedule.max_attempts
            assert await told(bench, "bad") == ["queued", "deferred", "deferred", "failed"]


async def test_a_message_that_was_accepted_is_sent_also_where_the_decision_fails(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mail_proxy.delivery.sender, "settle", partial(failing_decision, ends="raises"))
    account = await with_account(bench.store)
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, "bad")
        await bench.until_state("bad", MessageState.SENT)
    assert bench.sent_ids == ["bad"]


async def test_an_outcome_that_cannot_be_written_at_all_stays_claimed_and_nothing_spins(bench: Bench) -> None:
    account = await with_account(bench.store)
    queue = bench.queue
    assert isinstance(queue, PickyQueue)
    async with bench.delivering() as delivery:
        await enqueue(bench.store, a_message("bad", account))
        queue.refused = (await bench.details("bad")).pk
        await bench.submit(delivery, account, *(f"M{n}" for n in range(20)))
        for n in range(20):
            await bench.until_state(f"M{n}", MessageState.SENT)
        await delivery.recorder.drained()
        tried = queue.tried
        await bench.clock.advance(60)
        assert queue.tried == tried
        assert (await bench.details("bad")).state is MessageState.SENDING
    assert delivery.recorder.available


@pytest.mark.parametrize(
    "fields", ["", "{", "[]", "null", '{"metadata": ', '["metadata"]', '{"from": "a@example.com", "metadata": 7}']
)
async def test_a_stored_message_that_is_damaged_fails_like_any_other(bench: Bench, fields: str) -> None:
    account = await with_account(bench.store)
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, "damaged", fields=fields)
        await bench.submit(delivery, account, "good")
        await bench.until_state("good", MessageState.SENT)

        async def failed() -> bool:
            return (await told(bench, "damaged"))[-1:] == ["failed"]

        await bench.until(failed, seconds=30)


async def test_a_reply_that_no_database_takes_is_recorded_as_far_as_it_can_be(bench: Bench) -> None:
    account = await with_account(bench.store)
    bench.transport.rule = lambda _address: Reply(550, "5.1.1", "no \x00 such \ud800 user")
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, "M1")
        failed = await bench.until_state("M1", MessageState.FAILED)
    assert failed.reply == "550 5.1.1 no \ufffd such \ufffd user"
    assert await told(bench, "M1") == ["queued", "failed"]


async def test_what_an_account_on_hold_keeps_waiting_for_the_maximum_age_expires(bench: Bench) -> None:
    account = await with_account(bench.store)
    bench.transport.failure = AccountRefused("535 wrong password")  # probes keep telling it
    await bench.store.directory.set_hold(account.pk, Hold("535 wrong password", bench.clock.now()))
    await enqueue(bench.store, a_message("M1", account))
    async with bench.delivering():
        bench.clock.jump(SETTINGS.schedule.max_age - 300)
        await bench.clock.advance(120)
        assert (await bench.details("M1")).state is MessageState.READY
        await bench.until_state("M1", MessageState.EXPIRED, seconds=60)
    assert bench.transport.messages == []
