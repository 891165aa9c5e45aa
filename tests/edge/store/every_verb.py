"""Every verb of the store, used once on a backlog of any size, while somebody watches."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from random import Random

import pytest
from sqlalchemy import text

from mail_proxy.domain.account import Account, Hold
from mail_proxy.domain.attempt import Answer, Attempt, Stage
from mail_proxy.domain.claim import Claimed, Demand
from mail_proxy.domain.command_log import EntryFilter, Position
from mail_proxy.domain.errors import Conflict
from mail_proxy.domain.rate_limit import Limits
from mail_proxy.domain.recipient import RecipientKind
from mail_proxy.domain.reply import Reply
from mail_proxy.domain.retry import RetrySchedule
from mail_proxy.domain.search import TextFilter
from mail_proxy.domain.settlement import Policy, Settlement, settle
from mail_proxy.domain.sync_lease import SyncMemory
from mail_proxy.domain.tenant import Suspension
from mail_proxy.ports.archive import MessageFilter
from mail_proxy.ports.message_changes import Deletion, RetryFilter
from mail_proxy.store.claim import Claim, ClaimRequest
from mail_proxy.store.operation import Transaction
from mail_proxy.store.store import Store
from mail_proxy.store.unanswered import PutBack, Unanswered
from mail_proxy.store.usage import Usage, UsageSettings
from tests.support.stores import a_message, an_entry, enqueue, with_account

NOW = 1_800_000_000.0
CHUNK = 15
A_FEW = 3
POLICY = Policy(RetrySchedule(delays=(60.0,), max_attempts=3))
VERBS = (
    "enqueue",
    "digests",
    "promote",
    "unhold",
    "unhold poison",
    "ready_accounts",
    "divert",
    "claim_expired",
    "claim_waited_out",
    "claim urgent",
    "claim and park",
    "claim",
    "claim again",
    "claim within a limit",
    "claim beyond a limit",
    "settle within a limit",
    "settle",
    "release",
    "put back",
    "rescue",
    "instances",
    "beat",
    "count_pending",
    "survey",
    "tenants_with_events",
    "pending events",
    "take the turn",
    "sync records",
    "acknowledge",
    "give the turn back",
    "feed",
    "ends of feeds",
    "page",
    "next page",
    "page of what waits",
    "page of what was sent",
    "page of what failed",
    "page of what is being sent",
    "page of an account",
    "page of a batch",
    "page of a time",
    "filtered page",
    "searched page",
    "message",
    "history",
    "standing",
    "key in use",
    "adopt a key",
    "reseal",
    "pending of tenant",
    "pending of batch",
    "find",
    "look for failed",
    "requeue",
    "delete messages",
    "look for told",
    "clean",
    "add to the log",
    "add to the log again",
    "log",
    "log of tenant",
    "next of log",
    "log from the oldest",
    "log of a route",
    "prune the log",
    "remove bodies",
    "prune",
    "prune silent",
    "prune what is left behind",
    "refuse to delete account",
    "delete account",
    "refuse to delete tenant",
    "delete tenant",
)
COUNTS_IN_THE_BACKGROUND = frozenset({"count_pending", "survey"})
"""Their work grows with what waits, but not with what has been; nobody's message waits for them."""
COUNTS_UP_TO_MANY = frozenset(
    {
        "pending of tenant",
        "pending of batch",
        "standing",
        "sync records",
        "look for failed",
        "look for told",
        "log of a route",
    }
)
"""Their work ends at thousands of messages, events or entries, about as many as there are of one tenant here."""
LOOKS_AT_MORE_THAN_IT_SHOWS = frozenset({"filtered page", "searched page"})
"""Their work ends at ten thousand messages: what they want is in no list of its own."""
ON_POSTGRESQL_ALONE = frozenset({"take the turn", "give the turn back"})
"""On SQLite there is nothing to be done for them."""

Observe = Callable[[str], AbstractContextManager[None]]

# Of twenty messages six are ready, two scheduled, two held, one is being sent, and nine were sent.
PAGES = {
    "page of what waits": MessageFilter(state="waiting"),
    "page of what was sent": MessageFilter(state="sent"),
    "page of what failed": MessageFilter(status="error"),
    "page of what is being sent": MessageFilter(state="sending"),
    "page of an account": MessageFilter(account_id="main"),
    "page of a batch": MessageFilter(batch_code="autumn"),
    "page of a time": MessageFilter(created_from=NOW - 200, created_to=NOW - 1),
    "filtered page": MessageFilter(status="pending", account_id="main", active_only=True),
    "searched page": MessageFilter(texts=TextFilter("A@EXAMPLE", metadata=(("key", "value"),))),
}

_FILL = """
INSERT INTO messages (tenant_id, id, account_pk, account_id, priority, batch_code, state, due, expires_ts, attempts,
    token, instance_id, digest, size, created_ts, first_attempt_ts, finished_ts, reported_ts)
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)
SELECT 'tenant' || ((i / 20) % 4), 'F' || :count || '-' || i, :account + ((i / 20) % 4), 'main', i % 4,
    CASE WHEN i % 20 = 3 THEN 'spring' WHEN i % 20 IN (8, 9) THEN 'autumn' END,
    CASE WHEN i % 20 < 6 THEN 'ready' WHEN i % 20 < 8 THEN 'scheduled' WHEN i % 20 < 10 THEN 'held'
         WHEN i % 20 < 11 THEN 'sending' ELSE 'sent' END,
    CASE WHEN i % 20 IN (6, 7) THEN :now - 1 END,
    CASE WHEN i % 20 IN (4, 8) THEN :now - 1 END,
    CASE WHEN i % 20 > 9 THEN 1 ELSE 0 END,
    CASE WHEN i % 20 = 10 THEN 'lost' END,
    CASE WHEN i % 20 = 10 THEN 'dead' END,
    'digest', 2, :now - 100, NULL,
    CASE WHEN i % 20 > 10 THEN :now - 100 END,
    CASE WHEN i % 20 > 15 THEN :now - 50 END
FROM n
"""
_FILL_CONTENTS = """
INSERT INTO contents (message_pk, fields, message_id, date)
SELECT pk, '{"metadata":{"key":"value"}}', id, created_ts FROM messages WHERE pk > :before
"""
_FILL_RECIPIENTS = """
INSERT INTO recipients (message_pk, n, address, kind)
SELECT pk, n, 'a@example.net', 'to' FROM messages, (SELECT 0 AS n UNION ALL SELECT 1) AS numbers WHERE pk > :before
"""
_FILL_EVENTS = """
INSERT INTO events (tenant_id, message_pk, type, ts, entry, reported_ts)
SELECT tenant_id, pk, 'sent', finished_ts, '{}', reported_ts FROM messages
WHERE pk > :before AND finished_ts IS NOT NULL
"""
_LEAVE_BEHIND = """
INSERT INTO events (tenant_id, message_pk, type, ts, entry, reported_ts, left_behind)
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)
SELECT 'left', 0, 'sent', :now - 1000, '{}', CASE WHEN i % 4 = 0 THEN :now END, TRUE FROM n
"""
_FILL_LOG = """
INSERT INTO command_log (key, ts, by_admin, tenant_id, method, route, status, details)
SELECT id, created_ts + pk, TRUE, CASE WHEN pk % 7 > 0 THEN tenant_id END, 'POST', '/tenant', 200, '{}'
FROM messages WHERE pk > :before
"""


async def fill(store: Store, count: int) -> Account:
    """Give four tenants so many more messages in all; return the account of the first."""
    accounts = [await with_account(store, f"tenant{n}") for n in range(4)]
    with store.database.engine.begin() as connection:
        before = connection.execute(text("SELECT coalesce(max(pk), 0) FROM messages")).scalar_one()
        connection.execute(text(_FILL), {"count": count, "account": accounts[0].pk, "now": NOW})
        for statement in (_FILL_CONTENTS, _FILL_RECIPIENTS, _FILL_EVENTS, _FILL_LOG):
            connection.execute(text(statement), {"before": before})
    return accounts[0]


async def use_every_verb(store: Store, account: Account, observe: Observe) -> None:
    """Use each verb once; `observe(verb)` watches while it works."""
    await take_in(store, account, observe)
    await send(store, account, observe)
    await look(store, observe)
    await look_at_the_log(store, observe)
    await take_leave(store, observe)
    await change(store, observe)
    await remove(store, observe)


async def take_in(store: Store, account: Account, observe: Observe) -> None:
    big = '{"body":"' + "x" * 200_000 + '"}'
    new = [a_message(f"V{n}", account) for n in range(CHUNK)] + [a_message("big", account, fields=big)]
    with observe("enqueue"):
        await enqueue(store, *new)
        await enqueue(store, new[0], a_message("V1", account, digest="other"))
    with observe("digests"):
        assert await store.queue.digests("tenant0", ["V0", "unknown"]) == {"V0": "digest of V0"}
    with observe("promote"):
        await store.queue.promote(NOW, CHUNK)
    await store.directory.change_suspension("tenant0", lambda _: Suspension(batches=frozenset({"autumn"})))
    await store.directory.change_suspension("tenant0", lambda _: Suspension())
    with observe("unhold"):
        await store.queue.unhold(CHUNK)
    while (await store.queue.unhold(10_000)).more:
        pass
    await store.directory.change_suspension("tenant1", lambda _held: Suspension(batches=frozenset({"autumn"})))
    await store.directory.free_poison("tenant1")
    with observe("unhold poison"):
        await store.queue.unhold(CHUNK)
    with observe("ready_accounts"):
        await store.queue.ready_accounts()


async def send(store: Store, account: Account, observe: Observe) -> None:
    queue = store.queue
    with observe("claim_expired"):
        late = await queue.claim_expired(NOW, CHUNK, "late")
    held = await with_account(store, "held")
    await store.directory.set_hold(held.pk, Hold("535", NOW - 100))
    await enqueue(store, *(a_message(f"H{n}", held, created_ts=NOW - 100) for n in range(CHUNK)))
    with observe("claim_waited_out"):
        waited = await queue.claim_waited_out(NOW - 50, CHUNK, "waited")
    assert len(waited) == CHUNK
    with observe("claim urgent"):
        urgent = (await queue.claim([Demand(account.pk, CHUNK, urgent_only=True)], "urgent", NOW)).claimed
    await store.directory.change_suspension("tenant0", lambda _: Suspension(batches=frozenset({"spring"})))
    with observe("claim and park"):
        parked = (await queue.claim([Demand(account.pk, CHUNK)], "park", NOW)).claimed
    with observe("claim"):
        claimed = (await queue.claim([Demand(account.pk, CHUNK)], "claim", NOW)).claimed
    with store.database.engine.begin() as connection, observe("claim again"):
        transaction = Transaction(connection, store.database.dialect, again=True)
        request = ClaimRequest((Demand(account.pk, CHUNK),), "claim", store.instance_id, NOW)
        dialect = store.database.dialect
        again = Claim(dialect, Usage(dialect, UsageSettings())).run(transaction, [request])
    assert [taking.claimed for taking in again] == [claimed]
    with observe("settle"):
        assert all(await queue.settle([outcome(c) for c in [*late, *urgent, *claimed]]))
    account = await store.directory.put_account(replace(account, limits=Limits(per_minute=CHUNK)))
    with observe("claim within a limit"):
        within = (await queue.claim([Demand(account.pk, CHUNK)], "within", NOW)).claimed
    with observe("settle within a limit"):
        assert all(await queue.settle([outcome(c) for c in within]))
    with observe("claim beyond a limit"):
        assert (await queue.claim([Demand(account.pk, 4)], "beyond", NOW)).limited[account.pk].told == 4
    with observe("release"):
        await queue.release(parked)
    fallback = await with_account(store, account.tenant_id, "fallback")
    with observe("divert"):
        assert await queue.divert(account.pk, fallback.pk, A_FEW) > 0


async def take_leave(store: Store, observe: Observe) -> None:
    with observe("rescue"):
        rescued = await store.queue.rescue(["dead"], CHUNK)
        await store.queue.rescue(["nobody"], CHUNK)
    assert len(rescued) == CHUNK
    with store.database.engine.begin() as connection, observe("put back"):
        taken = Unanswered({"claim"}, {"late"}, {c.token for c in rescued})
        PutBack(store.database.dialect).run(
            Transaction(connection, store.database.dialect), [(store.instance_id, taken)]
        )
    with observe("instances"):
        await store.queue.instances()
    with observe("beat"):
        await store.queue.beat(1.0)


async def look(store: Store, observe: Observe) -> None:
    archive, outbox = store.archive, store.outbox
    with observe("count_pending"):
        await store.queue.count_pending()
    with observe("survey"):
        await store.queue.survey(CHUNK)
    with observe("tenants_with_events"):
        await outbox.tenants_with_events()
    with observe("pending events"):
        events = await outbox.pending("tenant0", CHUNK)
        await outbox.pending("tenant0", CHUNK, after=events[-1].event_id)
    with observe("take the turn"):
        lease = await store.sync_leases.take("tenant0")
    with observe("sync records"):
        assert {record.tenant_id for record in await store.sync_records.records("tenant0", 2)} == {"tenant1", "tenant2"}
    with observe("acknowledge"):
        assert await outbox.acknowledge([event.event_id for event in events], NOW, lease)
    assert lease is not None
    with observe("give the turn back"):
        await store.sync_leases.release(lease, SyncMemory())
    with observe("feed"):
        stretch = await store.feed.stretch("tenant0", None, CHUNK, 1_000_000)
        assert (await store.feed.stretch("tenant0", stretch.events[-1].event_id, CHUNK, 1_000_000)).events
    with observe("ends of feeds"):
        assert len(await store.feed.ends(["tenant0", "tenant1", "nobody"])) == 3
    with observe("page"):
        page = await archive.page("tenant0", MessageFilter(), None, CHUNK, NOW)
    with observe("next page"):
        await archive.page("tenant0", MessageFilter(), page.below, CHUNK, NOW)
    for verb, wanted in PAGES.items():
        with observe(verb):
            first = await archive.page("tenant1", wanted, None, A_FEW, NOW)
            await archive.page("tenant1", wanted, first.below, A_FEW, NOW)
        assert bool(first.messages) == (verb != "page of what failed"), verb
    with observe("message"):
        await archive.message("tenant0", "V0")
    with observe("history"):
        await archive.history("tenant0", "V0")
    with observe("standing"):
        standing = await archive.standing("tenant0", "V9")
    assert standing is not None
    assert standing.ahead is not None
    with observe("key in use"):
        assert await store.seals.may_go_on()
    with observe("adopt a key"):
        await store.seals.adopt()
    with observe("reseal"):
        assert (await store.seals.reseal(None, CHUNK)).count == 0
    with observe("pending of tenant"):
        await archive.pending("tenant0")
    with observe("pending of batch"):
        await archive.pending("tenant0", "autumn")


async def change(store: Store, observe: Observe) -> None:
    changes = store.message_changes
    with observe("find"):
        known = await changes.find("tenant0", [f"V{n}" for n in range(CHUNK)])
    assert len(known) == CHUNK
    with observe("look for failed"):
        await changes.failed("tenant0", RetryFilter(account_id="main", batch_code="spring", created_from=NOW), 0)
    with store.database.engine.connect() as connection:  # what was sent by the steps above, to one of two
        ended = text(
            "SELECT pk FROM messages "
            "WHERE state = 'sent' AND finished_ts = :now AND expires_ts IS NULL AND id LIKE 'F%'"
        )
        settled = list(connection.execute(ended, {"now": NOW}).scalars())[:CHUNK]
        untold = text("SELECT max(pk) FROM messages WHERE finished_ts = :then AND reported_ts IS NULL")
        unreported = list(connection.execute(untold, {"then": NOW - 100}).scalars())
    with observe("requeue"):
        assert (await changes.requeue(settled, NOW)).queued == CHUNK
    with observe("delete messages"):
        became = await changes.delete([*settled[:A_FEW], *unreported], NOW, silent=False)
    assert set(became.values()) == {Deletion.CANCELLED, Deletion.REMOVED}
    with observe("look for told"):
        told = await changes.told("tenant0", NOW, 0, silent=False)
    with observe("clean"):
        assert await changes.clean(told.pks[:CHUNK], NOW, silent=False) == CHUNK


async def look_at_the_log(store: Store, observe: Observe) -> None:
    log, tenant = store.command_log, EntryFilter(tenant_id="tenant0", since=NOW - 50, until=NOW + 10_000)
    new = [an_entry(n, tenant_id="tenant0") for n in range(CHUNK)]
    with observe("add to the log"):
        await log.append(new, again=False)
    with observe("add to the log again"):
        await log.append(new, again=True)
    with observe("log"):
        page = await log.page(EntryFilter(), None, CHUNK)
    with observe("log of tenant"):
        await log.page(tenant, None, CHUNK)
    with observe("next of log"):
        await log.page(EntryFilter(), page.next_position, CHUNK)
        assert (await log.page(tenant, page.next_position, CHUNK)).entries
    with observe("log from the oldest"):
        await log.page(EntryFilter(), Position(NOW, 0), CHUNK, oldest_first=True)
        assert (await log.page(tenant, Position(NOW, 0), CHUNK, oldest_first=True)).entries
    with observe("log of a route"):
        assert not (await log.page(EntryFilter(route="/none"), None, CHUNK)).entries
        assert not (await log.page(replace(tenant, route="/none", method="PUT"), None, CHUNK)).entries
    with observe("prune the log"):
        assert await log.prune(NOW, CHUNK) == CHUNK


async def remove(store: Store, observe: Observe) -> None:
    with observe("remove bodies"):
        assert await store.queue.remove_bodies(NOW, NOW, CHUNK) == CHUNK
    with observe("prune"):
        assert await store.queue.prune(NOW, CHUNK, ()) == CHUNK
    with observe("prune silent"):
        assert await store.queue.prune(NOW - 99, 10 * CHUNK, ("tenant0",)) == 10 * CHUNK
    with store.database.engine.begin() as connection:  # more than is left by the few that were deleted above
        connection.execute(text(_LEAVE_BEHIND), {"count": 4 * CHUNK, "now": NOW})
    with observe("prune what is left behind"):
        assert await store.queue.prune(NOW - 200, 2 * CHUNK, ("left",)) == 2 * CHUNK
    account = await with_account(store, "leaving")
    wide = (("a@example.net", RecipientKind.TO), ("b@example.net", RecipientKind.TO))
    await enqueue(store, *(a_message(f"L{n}", account, recipients=wide) for n in range(3)))
    with observe("refuse to delete account"), pytest.raises(Conflict):
        await store.directory.delete_account("leaving", "main", force=False)
    with observe("refuse to delete tenant"), pytest.raises(Conflict):
        await store.directory.delete_tenant("leaving", force=False)
    with observe("delete account"):
        await store.directory.delete_account("leaving", "main", force=True)
    with observe("delete tenant"):
        await store.directory.delete_tenant("leaving", force=True)


def outcome(claimed: Claimed) -> Settlement:
    """The first recipient is served, the others are refused."""
    answers = {r.n: Answer(Reply(250 if r.n == 0 else 550, None, "said"), Stage.DOT) for r in claimed.recipients}
    return settle(claimed, Attempt(answers=answers), POLICY, NOW, Random(1))
