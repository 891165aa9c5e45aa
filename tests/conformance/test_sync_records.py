"""What the database knows of reporting is told in pages, at a cost that has a bound."""

from __future__ import annotations

from sqlalchemy import text

from mail_proxy.domain.sync_lease import MANY_EVENTS, SyncMemory, SyncRecord
from mail_proxy.store.store import Store
from tests.conformance.steps import ACCEPTED, NOW, attempt
from tests.support.stores import a_message, enqueue, with_account

MEMORY = SyncMemory(3, NOW + 8, NOW + 60, NOW - 5, NOW + 8.125, "HTTP 500", "mark", gone=True)
_MANY = """
INSERT INTO events (tenant_id, message_pk, type, ts, entry)
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)
SELECT 'b', 1, 'sent', 1.0, '{}' FROM n
"""


async def test_pending_events_are_counted_for_each_tenant_up_to_many(store: Store) -> None:
    accounts = [await with_account(store, tenant_id) for tenant_id in ("c", "a", "b")]
    await enqueue(store, *(a_message(f"M{n}", accounts[0]) for n in range(3)))
    await attempt(store, accounts[0], ACCEPTED)
    first, *_ = await store.outbox.pending("c", 1)
    assert await store.outbox.acknowledge([first.event_id], NOW)
    with store.database.engine.begin() as connection:
        connection.execute(text(_MANY), {"count": MANY_EVENTS + 1})
    counts = [("a", 0), ("b", MANY_EVENTS), ("c", 2)]
    everything = await store.sync_records.records(None, 10)
    assert [(record.tenant_id, record.pending) for record in everything] == counts
    assert await store.sync_records.records(None, 2) == everything[:2]
    assert await store.sync_records.records("a", 1) == everything[1:2]
    assert await store.sync_records.records("bb", 10) == everything[2:]
    assert await store.sync_records.records("c", 10) == []


async def test_what_was_handed_on_is_told(store: Store) -> None:
    await with_account(store, "a")
    await with_account(store, "b")
    for memory in (MEMORY, SyncMemory(synced_ts=NOW + 1)):
        lease = await store.sync_leases.take("a")
        assert lease is not None
        await store.sync_leases.release(lease, memory)
        assert await store.sync_records.records(None, 10) == [SyncRecord("a", memory, 0), SyncRecord("b", None, 0)]
