"""Messages change over to a fallback in chunks, and only to one that may send."""

from __future__ import annotations

import asyncio
import json

from mail_proxy.domain.account import Account, Hold
from mail_proxy.domain.message import MessageState
from mail_proxy.domain.tenant import Suspension
from mail_proxy.store.store import Store
from tests.conformance.steps import ACCEPTED, claim, settle_all
from tests.support.stores import a_message, enqueue, open_test_store, with_account

HOLD = Hold("535 wrong password", 1_800_000_000.0)


async def two_accounts(store: Store, tenant_id: str = "acme") -> tuple[Account, Account]:
    account = await with_account(store, tenant_id, "main", fallback_account_id="spare")
    fallback = await with_account(store, tenant_id, "spare")
    await store.directory.set_hold(account.pk, HOLD)
    return account, fallback


async def test_ready_messages_are_claimed_for_the_fallback_and_sent_under_its_name(store: Store) -> None:
    account, fallback = await two_accounts(store)
    await enqueue(store, *(a_message(f"M{n}", account) for n in range(3)))
    assert await store.queue.divert(account.pk, fallback.pk, 10) == 3
    claims = await claim(store, fallback)
    assert [(c.identity.mail_id, c.account_pk, c.account_id) for c in claims] == [
        (f"M{n}", fallback.pk, "spare") for n in range(3)
    ]
    await settle_all(store, claims, ACCEPTED)
    details = await store.archive.message("acme", "M0")
    assert details is not None
    assert (details.account_id, details.state, details.attempts) == ("spare", MessageState.SENT, 1)
    history = await store.archive.history("acme", "M0")
    assert history is not None
    assert json.loads(history[-1].entry or "")["account_id"] == "spare"


async def test_each_call_fills_the_fallback_up_to_the_limit_urgent_ones_and_oldest_first(store: Store) -> None:
    account, fallback = await two_accounts(store)
    await enqueue(store, *(a_message(f"own{n}", fallback) for n in range(3)))
    await enqueue(store, *(a_message(f"M{n}", account) for n in range(6)))
    await enqueue(store, *(a_message(f"urgent{n}", account, priority=0) for n in range(6)))
    assert await store.queue.divert(account.pk, fallback.pk, 4) == 4 + 1  # G11: of each priority four
    assert await store.queue.divert(account.pk, fallback.pk, 4) == 0
    taken = [c.identity.mail_id for c in await claim(store, fallback)]
    assert taken == ["urgent0", "urgent1", "urgent2", "urgent3", "own0", "own1", "own2", "M0"]
    assert await store.queue.divert(account.pk, fallback.pk, 4) == 2 + 4


async def test_what_is_left_goes_by_the_account_itself_once_it_is_free(store: Store) -> None:
    account, fallback = await two_accounts(store)
    await enqueue(store, *(a_message(f"M{n}", account) for n in range(5)))
    assert await store.queue.divert(account.pk, fallback.pk, 2) == 2
    await store.directory.set_hold(account.pk, None)
    assert [c.identity.mail_id for c in await claim(store, account)] == ["M2", "M3", "M4"]


async def test_nothing_goes_to_an_account_that_may_not_send(store: Store) -> None:
    account, fallback = await two_accounts(store)
    strange = await with_account(store, "other", "spare")
    await enqueue(store, a_message("M1", account))
    assert await store.queue.divert(account.pk, strange.pk, 10) == 0
    assert await store.queue.divert(account.pk, 4711, 10) == 0
    await store.directory.set_hold(fallback.pk, HOLD)
    assert await store.queue.divert(account.pk, fallback.pk, 10) == 0
    await store.directory.set_hold(fallback.pk, None)
    await store.directory.change_suspension("acme", lambda _: Suspension(whole_tenant=True))
    assert await store.queue.divert(account.pk, fallback.pk, 10) == 0
    await store.directory.change_suspension("acme", lambda _: Suspension())
    assert await store.queue.divert(account.pk, fallback.pk, 10) == 1


async def test_only_ready_messages_change_over(store: Store) -> None:
    account, fallback = await two_accounts(store)
    await store.directory.set_hold(account.pk, None)
    await enqueue(store, a_message("taken up", account))
    (claimed,) = await claim(store, account)
    await enqueue(store, a_message("later", account, due=1_900_000_000.0), a_message("ready", account))
    assert await store.queue.divert(account.pk, fallback.pk, 10) == 1
    await settle_all(store, [claimed], ACCEPTED)
    accounts = {}
    for id_ in ("taken up", "later", "ready"):
        details = await store.archive.message("acme", id_)
        assert details is not None
        accounts[id_] = details.account_id
    assert accounts == {"taken up": "main", "later": "main", "ready": "spare"}


async def test_a_fallback_is_not_deleted_with_messages_that_change_over_at_that_moment(store: Store) -> None:
    account, fallback = await two_accounts(store)
    await enqueue(store, *(a_message(f"M{n}", account) for n in range(200)))
    await asyncio.gather(
        *(store.queue.divert(account.pk, fallback.pk, 20 * n) for n in range(1, 6)),
        store.directory.delete_account("acme", "spare", force=True),
        return_exceptions=True,
    )
    known = {each.pk for each in await store.directory.accounts_of("acme")}
    for n in range(200):
        details = await store.archive.message("acme", f"M{n}")
        assert details is not None
        assert details.state is MessageState.CANCELLED or details.account_id == "main" or fallback.pk in known


async def test_several_instances_move_each_message_once(postgres_url: str) -> None:
    first, second = [await open_test_store(postgres_url) for _ in range(2)]
    account, fallback = await two_accounts(first)
    await enqueue(first, *(a_message(f"M{n}", account) for n in range(300)))
    moved = await asyncio.gather(
        *(each.queue.divert(account.pk, fallback.pk, 1000) for each in (first, second) for _ in range(4))
    )
    assert sum(moved) == 300
    assert len(await claim(first, fallback, 1000)) == 300
    await first.close()
    await second.close()
