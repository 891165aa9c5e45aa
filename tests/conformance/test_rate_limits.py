"""Rate limits of the queue, on SQLite and on PostgreSQL: reserved by the claim, counted by the settlement."""  # G10

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from random import Random

import pytest
from sqlalchemy import event, func, select, update

from mail_proxy.domain.account import Account
from mail_proxy.domain.attempt import Answer, Attempt, HostFailed, Stage
from mail_proxy.domain.claim import Claimed, Demand, Taking
from mail_proxy.domain.explanation import Here, Reason, explain
from mail_proxy.domain.message import MessageState
from mail_proxy.domain.rate_limit import LOOK_AGAIN, LimitBehavior, Limits, Windows
from mail_proxy.domain.recipient import RecipientKind
from mail_proxy.domain.reply import Reply
from mail_proxy.domain.retry import RetrySchedule
from mail_proxy.domain.settlement import Policy, give_back, reject, settle
from mail_proxy.domain.tenant import Tenant
from mail_proxy.ports.archive import MessageFilter
from mail_proxy.store.queue import StoreQueue
from mail_proxy.store.schema import usage
from mail_proxy.store.store import Store
from mail_proxy.store.usage import Usage, UsageSettings
from tests.support.stores import SetClock, a_message, enqueue, with_account

NOW = 1_800_000_001.0
OK = Answer(Reply(250, "2.0.0", "taken"), Stage.DOT)
POLICY = Policy(RetrySchedule())


@dataclass
class Limited:
    """A queue whose minute lasts an hour, so that nothing leaves a window while a test runs; and its clock."""

    store: Store
    queue: StoreQueue
    clock: SetClock
    tokens: int = 0

    async def claim(self, account: Account, limit: int = 10) -> Taking:
        self.tokens += 1
        return await self.queue.claim([Demand(account.pk, limit)], f"t{self.tokens}", NOW)

    async def send(self, *claims: Claimed) -> None:
        attempt = Attempt({0: OK}, transactions=1)
        assert all(await self.queue.settle([settle(c, attempt, POLICY, NOW + 1, Random(1)) for c in claims]))

    def let_pass(self, seconds: float) -> None:
        """Let time pass: PostgreSQL's clock cannot be set, so there what was used becomes older."""
        self.clock.time += seconds
        if self.store.database.dialect == "postgresql":
            with self.store.database.engine.begin() as connection:
                connection.execute(update(usage).values(until=usage.c.until - seconds))

    async def fill(self, account: Account, count: int, **changes: object) -> None:
        await enqueue(self.store, *(a_message(f"{account.id}{n}", account, **changes) for n in range(count)))


@pytest.fixture
async def limited(store: Store) -> Limited:
    clock = SetClock()
    windows = Windows(3600.0, 7200.0, 14400.0)
    queue = StoreQueue(store.database, store.instance_id, UsageSettings(windows, clock.now))
    return Limited(store, queue, clock)


def ids(claims: object) -> list[str]:
    assert isinstance(claims, (list, tuple))
    return [claimed.identity.mail_id for claimed in claims]


async def test_no_more_is_claimed_than_the_limit_lets_through(limited: Limited) -> None:
    account = await with_account(limited.store, limits=Limits(per_minute=3))
    await limited.fill(account, 5)
    first = await limited.claim(account)
    assert ids(first.claimed) == ["main0", "main1", "main2"]
    second = await limited.claim(account)
    assert not second.claimed
    assert second.limited[account.pk].reason == "3 per minute"
    await limited.send(*first.claimed)
    third = await limited.claim(account)
    assert not third.claimed
    assert 3590 < third.limited[account.pk].seconds <= 3600 + 3600 / 64


async def test_what_leaves_the_window_makes_room(limited: Limited) -> None:
    account = await with_account(limited.store, limits=Limits(per_minute=1))
    await limited.fill(account, 2)
    await limited.send(*(await limited.claim(account)).claimed)
    limited.let_pass((await limited.claim(account)).limited[account.pk].seconds - 5)
    assert not (await limited.claim(account)).claimed
    limited.let_pass(6)
    assert ids((await limited.claim(account)).claimed) == ["main1"]


async def test_a_claim_that_is_given_back_gives_its_place_back(limited: Limited) -> None:
    account = await with_account(limited.store, limits=Limits(per_hour=2))
    await limited.fill(account, 4)
    taking = await limited.claim(account)
    await limited.queue.release(taking.claimed[:1])
    assert ids((await limited.claim(account)).claimed) == ["main0"]
    assert not (await limited.claim(account)).claimed


async def test_what_a_crashed_instance_had_begun_counts_as_used(limited: Limited) -> None:
    account = await with_account(limited.store, limits=Limits(per_day=2))
    await limited.fill(account, 3)
    dead = StoreQueue(limited.store.database, "dead", UsageSettings(Windows(), limited.clock.now))
    taking = await dead.claim([Demand(account.pk, 2)], "old", NOW)
    assert len(taking.claimed) == 2
    assert not (await limited.claim(account)).claimed
    rescued = await limited.queue.rescue(["dead"], 10)
    assert not (await limited.claim(account)).claimed
    assert all(await limited.queue.settle([give_back(claimed, NOW) for claimed in rescued]))
    assert not (await limited.claim(account)).claimed


async def test_every_transaction_counts_that_an_attempt_made(limited: Limited) -> None:
    account = await with_account(limited.store, limits=Limits(per_hour=4))
    await limited.fill(account, 5)
    (claimed,) = (await limited.claim(account, 1)).claimed
    attempt = Attempt({0: OK}, transactions=3)
    await limited.queue.settle([settle(claimed, attempt, POLICY, NOW, Random(1))])
    assert len((await limited.claim(account)).claimed) == 1


async def test_an_attempt_that_began_no_transaction_uses_nothing(limited: Limited) -> None:
    account = await with_account(limited.store, limits=Limits(per_hour=1))
    await limited.fill(account, 2)
    (claimed,) = (await limited.claim(account)).claimed
    attempt = Attempt(failure=HostFailed("refused"))
    await limited.queue.settle([settle(claimed, attempt, POLICY, NOW, Random(1))])
    assert ids((await limited.claim(account)).claimed) == ["main1"]


async def test_a_tenants_limit_holds_over_all_its_accounts(limited: Limited) -> None:
    store = limited.store
    await store.directory.put_tenant(Tenant("acme", limits=Limits(per_hour=3)), None)
    main, second = [await with_account(store, account_id=name) for name in ("main", "second")]
    await limited.fill(main, 2)
    await limited.fill(second, 3)
    taking = await limited.queue.claim([Demand(main.pk, 10), Demand(second.pk, 10)], "both", NOW)
    assert ids(taking.claimed) == ["main0", "main1", "second0"]
    again = await limited.claim(second)
    assert not again.claimed
    assert again.limited[second.pk].reason == "the tenant's 3 per hour"
    other = await with_account(store, "other")
    await limited.fill(other, 1)
    assert len((await limited.claim(other)).claimed) == 1


async def test_many_claims_at_once_never_take_more_than_the_limit(limited: Limited) -> None:
    account = await with_account(limited.store, limits=Limits(per_minute=10))
    await limited.fill(account, 60)
    others = [
        StoreQueue(limited.store.database, f"i{n}", UsageSettings(Windows(3600.0, 7200.0), limited.clock.now))
        for n in range(4)
    ]

    async def take(number: int) -> int:
        queue = others[number % 4]
        taking = await queue.claim([Demand(account.pk, 3)], f"c{number}", NOW)
        if number % 3 == 0:
            await queue.release(taking.claimed)
            return 0
        settlements = [settle(c, Attempt({0: OK}, transactions=1), POLICY, NOW, Random(1)) for c in taking.claimed]
        assert all(await queue.settle(settlements))
        return len(taking.claimed)

    assert sum(await asyncio.gather(*(take(n) for n in range(24)))) <= 10
    assert sum([await take(n) for n in range(1, 24, 3)]) <= 10
    assert not (await limited.claim(account)).claimed


async def test_a_message_is_told_once_that_a_limit_holds_it_up_and_those_behind_it_are_not_touched(
    limited: Limited,
) -> None:
    account = await with_account(limited.store, limits=Limits(per_minute=1))
    await limited.fill(account, 5)
    (sent,) = (await limited.claim(account, 1)).claimed
    assert (await limited.claim(account, 2)).limited[account.pk].told == 0  # nobody knows for how long yet
    await limited.send(sent)
    first = await limited.claim(account, 2)
    assert first.limited[account.pk].told == 2
    assert (await limited.claim(account, 2)).limited[account.pk].told == 0
    told = [json.loads(each.event.entry) for each in (await limited.store.outbox.pending("acme", 10))[1:]]
    assert [(each["id"], each["deferred_reason"]) for each in told] == [
        ("main1", "rate_limited"),
        ("main2", "rate_limited"),
    ]
    assert all(each["deferred_ts"] > NOW + 3500 for each in told)
    for id_, since in (("main1", NOW), ("main3", None)):
        standing = await limited.store.archive.standing("acme", id_)
        assert standing is not None
        (limit, *_) = explain(standing, Here(), NOW).obstacles
        assert (limit.reason, limit.since) == (Reason.RATE_LIMIT, since)


async def test_what_waits_for_a_limit_is_shown_with_its_time_from_the_account(limited: Limited) -> None:
    account = await with_account(limited.store, limits=Limits(per_minute=1))
    await limited.fill(account, 3)
    await limited.send(*(await limited.claim(account, 1)).claimed)
    until = (await limited.claim(account, 1)).limited[account.pk].until
    for id_ in ("main1", "main2"):
        details = await limited.store.archive.message("acme", id_)
        assert details is not None
        assert details.state is MessageState.READY
        assert (details.due_ts, details.deferred_reason) == (until, "rate_limited: no more than 1 per minute")


async def test_where_the_account_says_reject_what_meets_the_limit_is_taken_to_be_failed(limited: Limited) -> None:
    account = await with_account(limited.store, limits=Limits(per_minute=1), limit_behavior=LimitBehavior.REJECT)
    await limited.fill(account, 3)
    (first,) = (await limited.claim(account, 1)).claimed
    taking = await limited.claim(account, 1)
    assert (list(taking.claimed), ids(taking.refused)) == ([], [])  # the first one may come to nothing yet
    assert taking.limited[account.pk].seconds == LOOK_AGAIN
    await limited.send(first)
    taking = await limited.claim(account, 1)
    assert (list(taking.claimed), ids(taking.refused)) == ([], ["main1", "main2"])
    assert all(await limited.queue.settle([reject(c, NOW, "1 per minute") for c in taking.refused]))
    details = await limited.store.archive.message("acme", "main1")
    assert details is not None
    assert (details.state, details.attempts) == (MessageState.FAILED, 0)
    assert details.reply == "rate_limited: no more than 1 per minute"
    (_, event, _) = await limited.store.outbox.pending("acme", 10)
    assert json.loads(event.event.entry)["error_code"] == "rate_limited"


async def test_what_was_used_is_known_after_a_restart_and_old_records_go(limited: Limited) -> None:
    account = await with_account(limited.store, limits=Limits(per_minute=2))
    await limited.fill(account, 4)
    await limited.send(*(await limited.claim(account)).claimed)
    settings = UsageSettings(Windows(3600.0, 7200.0), limited.clock.now)
    assert not (
        await StoreQueue(limited.store.database, "next", settings).claim([Demand(account.pk, 1)], "n", NOW)
    ).claimed


async def test_what_is_settled_while_records_are_put_right_is_counted(limited: Limited) -> None:
    """As another instance does it between what this one has read and what it writes."""
    engine = limited.store.database.engine
    if limited.store.database.dialect == "sqlite":
        return  # which has one writer
    account = await with_account(limited.store, limits=Limits(per_minute=5))
    await limited.fill(account, 3)
    await limited.send(*(await limited.claim(account, 1)).claimed)
    with engine.begin() as connection:
        connection.execute(update(usage).values(until=usage.c.until + 10_000_000))
    others = Usage("postgresql", UsageSettings(Windows(3600.0, 7200.0, 14400.0)))
    settled: list[bool] = []

    @event.listens_for(engine, "before_cursor_execute")
    def settle_first(_1: object, _2: object, statement: str, *_: object) -> None:
        if statement.startswith("DELETE FROM usage") and not settled:
            settled.append(True)
            with engine.begin() as connection:
                others.spend(connection, {(account.tenant_id, account.pk): 1})

    await limited.claim(account, 1)
    event.remove(engine, "before_cursor_execute", settle_first)
    assert settled
    of_a_minute = select(func.sum(usage.c.used)).where(usage.c.scope == f"account/{account.pk}/minute")
    assert await limited.store.database.read(lambda c: c.execute(of_a_minute).scalar_one()) == 2


async def test_a_clock_that_was_set_back_holds_nothing_up_for_longer_than_a_window(limited: Limited) -> None:
    if limited.store.database.dialect == "postgresql":
        return  # its own clock counts
    account = await with_account(limited.store, limits=Limits(per_minute=1))
    await limited.fill(account, 2)
    limited.clock.time += 10_000_000
    await limited.send(*(await limited.claim(account)).claimed)
    limited.clock.time -= 10_000_000
    held = (await limited.claim(account)).limited[account.pk]
    assert held.seconds <= 3600 + 3600 / 64
    limited.clock.time += held.seconds
    assert len((await limited.claim(account)).claimed) == 1  # G14


async def test_what_a_limit_holds_up_is_found_as_deferred_and_not_as_pending(limited: Limited) -> None:
    account = await with_account(limited.store, limits=Limits(per_minute=1))
    await limited.fill(account, 3)
    await limited.send(*(await limited.claim(account, 1)).claimed)
    await limited.claim(account, 1)
    archive = limited.store.archive
    for status, found in (("deferred", ["main2", "main1"]), ("pending", []), ("sent", ["main0"])):
        page = await archive.page("acme", MessageFilter(status=status), None, 10, NOW)
        assert [details.id for details in page.messages] == found


async def test_what_an_account_and_a_tenant_have_used_goes_with_them(limited: Limited) -> None:
    store = limited.store
    await store.directory.put_tenant(Tenant("acme", limits=Limits(per_hour=5)), None)
    account, second = [
        await with_account(store, account_id=name, limits=Limits(per_day=9)) for name in ("main", "second")
    ]
    for each in (account, second):
        await limited.fill(each, 1)
        await limited.send(*(await limited.claim(each)).claimed)

    def scopes() -> set[str]:
        with store.database.engine.begin() as connection:
            return {scope.rpartition("/")[0] for scope in connection.execute(select(usage.c.scope)).scalars()}

    assert scopes() == {f"account/{account.pk}", f"account/{second.pk}", "tenant/acme"}
    assert await store.directory.delete_account("acme", "main", force=False)
    assert scopes() == {f"account/{second.pk}", "tenant/acme"}
    assert await store.directory.delete_tenant("acme", force=True)
    assert scopes() == set()


async def test_recipients_end_with_their_message_whatever_was_said_to_each_before(limited: Limited) -> None:
    account = await with_account(limited.store, limits=Limits(per_minute=50))
    people = tuple((f"r{n}@example.net", RecipientKind.TO) for n in range(3))
    await limited.fill(account, 1, recipients=people)
    (claimed,) = (await limited.claim(account)).claimed
    first = settle(claimed, Attempt({0: OK, 1: OK}, transactions=1), POLICY, NOW, Random(1))
    assert (first.state, first.attempts) == (MessageState.READY, 0)  # the third one follows at once
    await limited.queue.settle([first])
    (claimed,) = (await limited.claim(account)).claimed
    await limited.queue.settle([settle(claimed, Attempt({2: OK}, transactions=1), POLICY, NOW, Random(1))])
    details = await limited.store.archive.message("acme", "main0")
    assert details is not None
    assert [recipient.state.value for recipient in details.recipients] == ["sent"] * 3  # G7


async def test_recipients_of_a_rejected_message_have_failed_although_each_was_put_off_before(limited: Limited) -> None:
    account = await with_account(limited.store, limits=Limits(per_minute=1), limit_behavior=LimitBehavior.REJECT)
    people = tuple((f"r{n}@example.net", RecipientKind.TO) for n in range(2))
    await limited.fill(account, 1, recipients=people)
    (claimed,) = (await limited.claim(account)).claimed
    later = {n: Answer(Reply(450, "4.2.0", f"greylisted {n}"), Stage.RCPT) for n in range(2)}
    await limited.queue.settle([settle(claimed, Attempt(later, transactions=1), POLICY, NOW, Random(1))])
    await limited.queue.promote(NOW + 100_000, 10)
    (claimed,) = (await limited.claim(account)).refused
    await limited.queue.settle([reject(claimed, NOW, "1 per minute")])
    details = await limited.store.archive.message("acme", "main0")
    assert details is not None
    assert [recipient.state.value for recipient in details.recipients] == ["failed"] * 2


async def test_what_a_limit_has_said_ends_with_the_tenants_limit(limited: Limited) -> None:
    await limited.store.directory.put_tenant(Tenant("acme", limits=Limits(per_day=1)), None)
    account = await with_account(limited.store)
    await limited.fill(account, 2)
    await limited.send(*(await limited.claim(account, 1)).claimed)
    await limited.claim(account, 1)
    held_up = await limited.store.archive.message("acme", "main1")
    assert held_up is not None
    assert held_up.deferred_reason == "rate_limited: no more than the tenant's 1 per day"
    await limited.store.directory.put_tenant(Tenant("acme"), None)
    details = await limited.store.archive.message("acme", "main1")
    assert details is not None
    assert (details.due_ts, details.deferred_reason) == (None, None)
