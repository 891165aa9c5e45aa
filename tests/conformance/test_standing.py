"""What decides when a message is sent is read on every database."""

from __future__ import annotations

from functools import partial

from mail_proxy.administration.scheduling import activated, suspended
from mail_proxy.domain.account import Hold
from mail_proxy.domain.backlog import MANY
from mail_proxy.domain.explanation import Ahead, Standing
from mail_proxy.domain.message import MessageState
from mail_proxy.domain.recipient import RecipientKind
from mail_proxy.domain.tenant import Tenant
from mail_proxy.store.store import Store
from tests.conformance.steps import ACCEPTED, LATER, NOW, REFUSED, attempt, claim
from tests.support.backlog import fill
from tests.support.stores import a_message, enqueue, with_account


async def standing(store: Store, id_: str) -> Standing:
    found = await store.archive.standing("acme", id_)
    assert found is not None
    return found


async def test_a_free_message_has_only_its_place(store: Store) -> None:
    account, other = await with_account(store), await with_account(store, account_id="other")
    await enqueue(store, *(a_message(f"M{n}", account, priority=n % 2 + 1) for n in range(6)))
    await enqueue(store, a_message("elsewhere", other, priority=0))
    places = {n: (await standing(store, f"M{n}")).ahead for n in range(6)}
    assert places == {0: Ahead(0), 2: Ahead(1), 4: Ahead(2), 1: Ahead(3), 3: Ahead(4), 5: Ahead(5)}
    found = await standing(store, "M0")
    assert (found.hold, found.limited_until, found.last_told_ts) == (None, None, None)
    assert found.tenant_active
    assert found.scheduler_active
    assert (found.tenant_suspended, found.batch_suspended, found.batch_ending) == (False, False, False)
    assert await store.archive.standing("acme", "unknown") is None
    assert await store.archive.standing("other", "M0") is None


async def test_a_place_far_behind_is_counted_up_to_a_bound(store: Store) -> None:
    account = await with_account(store)
    fill(store, account, MANY + 2)
    assert (await standing(store, f"bulk-{MANY + 1}")).ahead == Ahead(MANY)
    assert (await standing(store, f"bulk-{MANY + 2}")).ahead == Ahead(MANY, at_least=True)


async def test_whatever_is_stopped_is_seen(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account, batch_code="spring"))
    change = store.directory.change_suspension
    await change("acme", partial(suspended, batch_code="spring"))
    assert await claim(store, account) == []
    found = await standing(store, "M1")
    assert (found.state, found.batch_suspended, found.batch_ending) == (MessageState.HELD, True, False)
    await change("acme", partial(activated, batch_code="spring"))
    found = await standing(store, "M1")
    assert (found.batch_suspended, found.batch_ending) == (False, True)
    await change("acme", partial(suspended, batch_code=None))
    await store.directory.put_tenant(Tenant("acme", active=False), None)
    await store.directory.set_hold(account.pk, Hold("535", 5.0))
    await store.directory.set_scheduler_active(active=False)
    found = await standing(store, "M1")
    assert (found.tenant_suspended, found.tenant_active, found.scheduler_active) == (True, False, False)
    assert found.hold == Hold("535", 5.0)


async def test_attempts_and_ends_are_seen(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("later", account), a_message("sent", account))
    await attempt(store, account, LATER, limit=1)
    await attempt(store, account, ACCEPTED)
    later, sent = await standing(store, "later"), await standing(store, "sent")
    assert (later.state, later.attempts, later.last_told_ts) == (MessageState.SCHEDULED, 1, NOW + 2)
    assert (later.reply, later.ahead) == ("450 4.2.0 greylisted", None)
    assert (sent.state, sent.finished_ts) == (MessageState.SENT, NOW + 2)


async def test_whom_a_sent_message_did_not_reach_is_seen(store: Store) -> None:
    account = await with_account(store)
    people = tuple((f"{name}@example.net", RecipientKind.TO) for name in ("a", "b", "c"))
    await enqueue(store, a_message("M1", account, recipients=people), a_message("M2", account))
    await attempt(store, account, ACCEPTED, REFUSED, REFUSED, limit=1)
    await attempt(store, account, ACCEPTED)
    some, everybody = await standing(store, "M1"), await standing(store, "M2")
    assert (some.state, some.missed, some.missed_reply) == (MessageState.SENT, 2, "550 5.1.1 no such user")
    assert (everybody.state, everybody.missed, everybody.missed_reply) == (MessageState.SENT, 0, None)
