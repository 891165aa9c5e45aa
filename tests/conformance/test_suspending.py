"""What is suspended is set aside and put back in bounded steps, whatever its number, and holds up nothing else."""

from __future__ import annotations

import asyncio
from functools import partial

from sqlalchemy import func, select

from mail_proxy.administration.scheduling import activated, suspended
from mail_proxy.domain.account import Account
from mail_proxy.domain.claim import Demand
from mail_proxy.store.claim import PARKED_AT_A_TIME
from mail_proxy.store.schema import messages, suspended_batches
from mail_proxy.store.store import Store
from tests.conformance.steps import NOW, claim
from tests.support.backlog import fill
from tests.support.stores import a_message, enqueue, open_test_store, with_account


async def in_state(store: Store, state: str) -> int:
    statement = select(func.count()).select_from(messages).where(messages.c.state == state)
    return await store.database.read(lambda connection: int(connection.execute(statement).scalar_one()))


async def suspend(store: Store, batch_code: str = "spring") -> None:
    await store.directory.change_suspension("acme", partial(suspended, batch_code=batch_code))


async def activate(store: Store, batch_code: str = "spring") -> None:
    await store.directory.change_suspension("acme", partial(activated, batch_code=batch_code))


async def test_a_claim_sets_a_bounded_number_aside_and_says_that_more_may_follow(store: Store) -> None:
    account = await with_account(store)
    fill(store, account, 2 * PARKED_AT_A_TIME + 500, batch_code="spring")
    fill(store, account, 30, prefix="other-")
    await suspend(store)
    for n in (1, 2):
        taking = await store.queue.claim([Demand(account.pk, 20)], f"t{n}", NOW)
        assert (list(taking.claimed), taking.parked) == ([], frozenset({account.pk}))
        assert await in_state(store, "held") == n * PARKED_AT_A_TIME
    taking = await store.queue.claim([Demand(account.pk, 20)], "t3", NOW)
    assert [each.identity.mail_id for each in taking.claimed] == [f"other-{n}" for n in range(1, 21)]
    taking = await store.queue.claim([Demand(account.pk, 20)], "t4", NOW)
    assert (len(taking.claimed), taking.parked) == (10, frozenset())


async def test_the_accounts_of_a_claim_share_what_it_may_set_aside(store: Store) -> None:
    accounts = [await with_account(store, account_id=f"a{n}") for n in range(20)]
    for account in accounts:
        fill(store, account, 120, batch_code="spring", prefix=f"{account.id}-")
        fill(store, account, 1, prefix=f"free-{account.id}-")
    await suspend(store)
    wanted, found, turns = {account.pk for account in accounts}, set[int](), 0
    while wanted:
        turns += 1
        before = await in_state(store, "held")
        taking = await store.queue.claim([Demand(pk, 100) for pk in sorted(wanted)], f"t{turns}", NOW)
        assert await in_state(store, "held") - before <= PARKED_AT_A_TIME
        assert all(each.batch_code is None for each in taking.claimed)
        found |= {each.account_pk for each in taking.claimed}
        wanted = set(taking.parked)
    assert found == {account.pk for account in accounts}
    assert turns <= 5


async def test_suspended_messages_between_others_are_passed_over(store: Store) -> None:
    account = await with_account(store)
    for n in range(10):
        await enqueue(store, a_message(f"spring-{n}", account, batch_code="spring"))
        await enqueue(store, a_message(f"other-{n}", account, batch_code="autumn"))
    await suspend(store)
    seen: list[str] = []
    turns = 0
    while (taking := await store.queue.claim([Demand(account.pk, 4)], f"t{turns}", NOW)).claimed or taking.parked:
        seen += [each.identity.mail_id for each in taking.claimed]
        turns += 1
    assert seen == [f"other-{n}" for n in range(10)]
    assert await in_state(store, "held") == 10


async def test_what_was_set_aside_for_nothing_comes_back_as_it_was(store: Store) -> None:
    account = await with_account(store)
    fill(store, account, 1200, batch_code="spring")
    await suspend(store)
    assert await claim(store, account) == []
    await activate(store)
    # Neither those that are back nor those that were never set aside wait for the rest.
    assert (await store.queue.unhold(100)).account_pks == {account.pk}
    assert [each.identity.mail_id for each in await claim(store, account, 5)] == [f"bulk-{n}" for n in range(1, 6)]
    while (await store.queue.unhold(100)).more:
        pass
    assert await in_state(store, "ready") == 1195
    statement = select(suspended_batches)
    assert await store.database.read(lambda connection: connection.execute(statement).all()) == []


async def claim_all(store: Store, account: Account, name: str) -> list[str]:
    """Claim as the dispatcher does: again as long as something came or was set aside."""
    found: list[str] = []
    turn = 0
    while True:
        taking = await store.queue.claim([Demand(account.pk, 50)], f"{name} {turn}", NOW)
        found += [each.identity.mail_id for each in taking.claimed]
        if not taking.claimed and not taking.parked:
            return found
        turn += 1


async def test_two_claimers_find_everything_behind_a_suspended_batch_once(postgres_url: str) -> None:
    ours, theirs = await open_test_store(postgres_url), await open_test_store(postgres_url)
    account = await with_account(ours)
    fill(ours, account, 10_000, batch_code="spring")
    fill(ours, account, 300, prefix="other-")
    await suspend(ours)
    found = await asyncio.gather(claim_all(ours, account, "ours"), claim_all(theirs, account, "theirs"))
    assert sorted([*found[0], *found[1]]) == sorted(f"other-{n}" for n in range(1, 301))
    assert await in_state(ours, "held") == 10_000
    await theirs.close()
    await ours.close()


async def test_a_batch_suspended_and_freed_while_two_claim_loses_nothing(postgres_url: str) -> None:
    ours, theirs = await open_test_store(postgres_url), await open_test_store(postgres_url)
    account = await with_account(ours)
    fill(ours, account, 3_000, batch_code="spring")

    async def put_back() -> None:
        while (await ours.queue.unhold(200)).more:
            pass

    async def change_again_and_again() -> None:
        for _ in range(5):
            await suspend(theirs)
            await asyncio.gather(activate(theirs), put_back())

    (_, *found) = await asyncio.gather(
        change_again_and_again(), claim_all(ours, account, "ours"), claim_all(theirs, account, "theirs")
    )
    await put_back()
    found.append(await claim_all(ours, account, "the rest"))
    assert sorted(id_ for each in found for id_ in each) == sorted(f"bulk-{n}" for n in range(1, 3_001))
    assert await in_state(ours, "held") == 0
    await theirs.close()
    await ours.close()
