"""Servers that are left alone and accounts on hold: what is seen of them, and the way round them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from typing_extensions import override

from mail_proxy.delivery.breaker import HOLD_PAUSE, Breaker, failed, held, taken_up
from mail_proxy.delivery.delivery import Delivery
from mail_proxy.domain.account import Account, Hold
from mail_proxy.domain.attempt import AccountRefused, Attempt, Envelope, HostFailed, ProbeResult
from mail_proxy.domain.compose import Wire
from mail_proxy.domain.message import MessageState
from mail_proxy.domain.rate_limit import LimitBehavior, Limits
from mail_proxy.ports.archive import MessageFilter
from mail_proxy.ports.transport import BeforeDot
from mail_proxy.smtp.capture import CaptureTransport
from tests.flows.test_delivery import Bench, bench  # noqa: F401 - the fixture
from tests.support.stores import a_message, enqueue, with_account

WRONG = AccountRefused("535 5.7.8 wrong password")
DEAD = HostFailed("connection refused")


@dataclass
class SomeFail(CaptureTransport):
    """A transport whose accounts fail one by one."""

    failing: dict[str, HostFailed | AccountRefused] = field(default_factory=dict)
    probes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        CaptureTransport.__init__(self)

    @override
    async def send(self, account: Account, envelope: Envelope, wire: Wire, before_dot: BeforeDot) -> Attempt:
        if account.id in self.failing:
            return Attempt(failure=self.failing[account.id])
        return await super().send(account, envelope, wire, before_dot)

    @override
    async def probe(self, account: Account) -> ProbeResult:
        self.probes.append(account.id)
        return self.failing.get(account.id) or await super().probe(account)

    @property
    def ways(self) -> list[str]:
        """The accounts that the messages went by, in order."""
        return [message.account.id for message in self.messages]


def test_what_was_left_alone_before_its_hold_stays_so_since_then() -> None:
    broken = failed(Breaker(), "refused", 100.0)
    on_hold = held(broken, "wrong password", 160.0)
    assert (on_hold.opened_at, on_hold.probe_at, on_hold.reason) == (100.0, 160.0 + HOLD_PAUSE, "wrong password")
    assert held(Breaker(), "wrong password", 160.0).opened_at == 160.0


@pytest.mark.parametrize(("age", "wait"), [(0, 300), (10, 290), (299, 1), (301, 299), (86400 + 100, 200), (-50, 300)])
def test_logins_stay_five_minutes_apart_however_often_an_instance_starts(age: float, wait: float) -> None:
    breaker = taken_up("wrong password", age, 1000.0)
    assert breaker.probe_at == 1000.0 + wait
    assert breaker.opened_at == 1000.0 - max(age, 0)


async def test_a_server_that_is_left_alone_is_seen_with_reason_and_times(bench: Bench) -> None:  # noqa: F811
    account = await with_account(bench.store, max_connections=1)
    bench.transport.failure = DEAD
    async with bench.delivering() as delivery:
        assert delivery.outage_of(account.pk) is None
        await bench.submit(delivery, account, "M1", "M2")
        await bench.until_state("M1", MessageState.SCHEDULED)
        began = bench.clock.now()
        await bench.until_state("M2", MessageState.READY)
        outage = delivery.outage_of(account.pk)
        assert outage is not None
        assert (outage.reason, outage.since_ts, outage.next_probe_ts) == ("connection refused", began, began + 5)
        await bench.clock.advance(7)
        outage = delivery.outage_of(account.pk)
        assert outage is not None
        assert outage.since_ts == began
        assert outage.next_probe_ts == pytest.approx(began + 15)
        bench.transport.failure = None
        await bench.until_state("M2", MessageState.SENT, seconds=5)
        assert delivery.outage_of(account.pk) is None


async def test_a_server_that_was_seen_to_answer_is_used_at_once(bench: Bench) -> None:  # noqa: F811
    account = await with_account(bench.store, max_connections=1)
    bench.transport.failure = DEAD
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, "M1", "M2")
        await bench.until_state("M1", MessageState.SCHEDULED)
        await bench.until_state("M2", MessageState.READY)
        bench.transport.failure = None
        delivery.server_answers(account.pk)
        await bench.until_state("M2", MessageState.SENT)


async def test_a_hold_lasts_since_it_began_whatever_is_tried_meanwhile(bench: Bench) -> None:  # noqa: F811
    account = await with_account(bench.store)
    bench.transport.failure = WRONG
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, "M1")
        await bench.until_on_hold(account)
        first = await bench.store.directory.account(account.pk)
        version = bench.store.directory.version
        await bench.clock.advance(3 * HOLD_PAUSE + 10)
        assert await bench.store.directory.account(account.pk) == first
        assert bench.store.directory.version == version  # and nobody has to read the directory again for it
        assert (await bench.details("M1")).attempts == 0


async def test_three_hundred_messages_behind_a_dead_host_cost_one_of_them_an_attempt(
    bench: Bench,  # noqa: F811
) -> None:
    account = await with_account(bench.store, max_connections=1, batch_size=100)
    bench.transport.failure = DEAD
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, *(f"M{n}" for n in range(300)))
        await bench.until_state("M0", MessageState.SCHEDULED)
        await bench.clock.advance(50)  # several probes, and not yet the second attempt of the one
        page = await bench.store.archive.page("acme", MessageFilter(), None, 1000, bench.clock.now())
        assert sorted(each.attempts for each in page.messages) == [0] * 299 + [1]  # G8


async def test_who_only_waited_for_the_session_of_another_pays_nothing(bench: Bench) -> None:  # noqa: F811
    account = await with_account(bench.store, max_connections=4)
    bench.transport.failure = HostFailed("connection refused", shared=True)
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, *(f"M{n}" for n in range(4)))
        await bench.until(lambda: left_alone(delivery, account))
        for n in range(4):
            assert (await bench.until_state(f"M{n}", MessageState.READY)).attempts == 0


async def left_alone(delivery: Delivery, account: Account) -> bool:
    return delivery.outage_of(account.pk) is not None


@pytest.fixture
def some_fail(bench: Bench) -> SomeFail:  # noqa: F811
    bench.transport = transport = SomeFail()
    return transport


async def two_accounts(bench: Bench, **changes: Any) -> tuple[Account, Account]:  # noqa: F811
    fallback = await with_account(bench.store, account_id="spare", **changes)
    return await with_account(bench.store, fallback_account_id="spare", max_connections=1), fallback


async def test_messages_of_an_account_on_hold_go_by_its_fallback(bench: Bench, some_fail: SomeFail) -> None:  # noqa: F811
    account, _ = await two_accounts(bench)
    some_fail.failing["main"] = WRONG
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, *(f"M{n}" for n in range(20)))
        for n in range(20):
            sent = await bench.until_state(f"M{n}", MessageState.SENT, seconds=0.5)
            assert (sent.account_id, sent.attempts) == ("spare", 1)
        await bench.submit(delivery, account, "late")
        assert (await bench.until_state("late", MessageState.SENT, seconds=0.5)).account_id == "spare"
        del some_fail.failing["main"]
        delivery.server_answers(account.pk)
        await bench.store.directory.set_hold(account.pk, None)
        await bench.submit(delivery, account, "own")
        assert (await bench.until_state("own", MessageState.SENT, seconds=0.5)).account_id == "main"


async def test_a_dead_server_has_five_minutes_before_its_messages_go_another_way(
    bench: Bench,  # noqa: F811
    some_fail: SomeFail,
) -> None:
    account, _ = await two_accounts(bench)
    some_fail.failing["main"] = DEAD
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, "M0", "M1")
        await bench.until_state("M0", MessageState.SCHEDULED)
        await bench.until_state("M1", MessageState.READY)
        await bench.clock.advance(290)
        assert (await bench.details("M1")).account_id == "main"
        for id_ in ("M0", "M1"):
            assert (await bench.until_state(id_, MessageState.SENT, seconds=1)).account_id == "spare"
    assert some_fail.ways == ["spare"] * 2


async def test_two_accounts_that_name_each_other_throw_no_messages_to_and_fro(
    bench: Bench,  # noqa: F811
    some_fail: SomeFail,
) -> None:
    account, fallback = await two_accounts(bench, fallback_account_id="main")
    some_fail.failing |= {"main": WRONG, "spare": WRONG}
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, "M1")
        await bench.until_on_hold(account)
        # M1 was given to the fallback before that was known to fail as well
        await bench.until(lambda: left_alone(delivery, fallback), seconds=0.5)
        await bench.until_on_hold(fallback)
        before = await bench.details("M1")
        await bench.clock.advance(280)
        after = await bench.details("M1")
        assert (after.account_id, after.attempts, after.state) == (before.account_id, 0, MessageState.READY)


async def test_the_fallback_of_a_fallback_is_not_asked(bench: Bench, some_fail: SomeFail) -> None:  # noqa: F811
    await with_account(bench.store, account_id="third")
    account, fallback = await two_accounts(bench, fallback_account_id="third")
    await bench.store.directory.set_hold(fallback.pk, Hold("535", bench.clock.now()))
    await bench.store.directory.set_hold(account.pk, Hold("535", bench.clock.now()))
    some_fail.failing |= {"main": WRONG, "spare": WRONG}
    await enqueue(bench.store, a_message("M1", account))
    async with bench.delivering():
        await bench.clock.advance(30)
        assert (await bench.details("M1")).account_id == "main"
    assert some_fail.ways == []


async def test_a_fallback_that_is_gone_leaves_the_messages_where_they_are(
    bench: Bench,  # noqa: F811
    some_fail: SomeFail,
) -> None:
    account, _ = await two_accounts(bench)
    some_fail.failing["main"] = WRONG
    await bench.store.directory.delete_account("acme", "spare", force=False)
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, "M1")
        await bench.until_on_hold(account)
        await bench.clock.advance(30)
        assert (await bench.until_state("M1", MessageState.READY)).account_id == "main"


async def test_a_fallback_whose_limit_rejects_gets_nothing_that_can_wait(
    bench: Bench,  # noqa: F811
    some_fail: SomeFail,
) -> None:
    limits = Limits(per_day=2)
    account, _ = await two_accounts(bench, limits=limits, limit_behavior=LimitBehavior.REJECT)
    some_fail.failing["main"] = WRONG
    await bench.store.directory.set_hold(account.pk, Hold("535", bench.clock.now()))
    await enqueue(bench.store, *(a_message(f"M{n}", account) for n in range(3)))
    async with bench.delivering():
        await bench.clock.advance(60)
        assert {(await bench.details(f"M{n}")).account_id for n in range(3)} == {"main"}  # G8
