"""What finished messages say goes before they do, on every database."""

from __future__ import annotations

import json

import pytest

from mail_proxy.domain.requeue import Skipped
from mail_proxy.domain.search import TextFilter
from mail_proxy.ports.archive import MessageFilter
from mail_proxy.store import bodies
from mail_proxy.store.store import Store
from tests.conformance.steps import ACCEPTED, NOW, REFUSED, attempt
from tests.support.stores import a_message, enqueue, with_account

SUBMITTED = {
    "id": "M1",
    "from": "shop@acme.example",
    "to": ["ann@example.org"],
    "subject": "Your order\x00",
    "metadata": {"order": 1042, "cents": 1.10},
    "expires_ts": 1.8e9 + 1e6,
}
SAID = {"text": "what it says\x00", "html": "<p>what it says</p>", "headers": {"X-Case": "4711"}}


async def remove(store: Store, *, before: float = NOW + 100, limit: int = 100) -> int:
    return await store.queue.remove_bodies(before, NOW + 50, limit)


async def test_what_a_finished_message_said_goes_and_what_is_known_of_it_stays(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account, fields=json.dumps(SUBMITTED | SAID)))
    assert await remove(store) == 0  # it waits
    await attempt(store, account, ACCEPTED)
    assert await remove(store, before=NOW) == 0  # too soon
    assert await remove(store) == 1
    assert await remove(store) == 0
    found = await store.archive.message("acme", "M1")
    assert found is not None
    assert (found.fields, found.body_removed_ts) == (SUBMITTED, NOW + 50)
    assert len(found.recipients) == 1
    texts = TextFilter(subject="order", metadata=(("order", "1042"),))
    page = await store.archive.page("acme", MessageFilter(texts=texts), None, 10, NOW)
    assert [each.id for each in page.messages] == ["M1"]
    standing = await store.archive.standing("acme", "M1")
    assert standing is not None
    assert standing.body_removed
    assert await enqueue(store, a_message("M1", account)) == ["duplicate"]  # G3
    assert [each.event.message_pk for each in await store.outbox.pending("acme", 10)] == [found.pk]  # G9


async def test_what_has_no_body_is_not_sent_again(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("bare", account))
    await attempt(store, account, REFUSED)
    assert await remove(store) == 1
    await enqueue(store, a_message("whole", account))
    await attempt(store, account, REFUSED)
    known = await store.message_changes.find("acme", ["bare", "whole"])
    done = await store.message_changes.requeue(sorted(known.values()), NOW + 60)
    assert (done.queued, done.skipped) == (1, {Skipped.BODY_REMOVED: 1})
    assert await remove(store) == 0  # the other one waits


async def test_it_goes_in_chunks_of_rows_and_of_bytes_the_oldest_first(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = await with_account(store)
    for n in range(5):
        await enqueue(store, a_message(f"M{n}", account))
        await attempt(store, account, ACCEPTED, now=NOW + 10 - n)
    assert await remove(store, limit=2) == 2
    monkeypatch.setattr(bodies, "CHUNK_BYTES", 50)
    assert await remove(store) == 1
    bare = [n for n in range(5) if await _is_bare(store, f"M{n}")]
    assert bare == [2, 3, 4]


async def _is_bare(store: Store, id_: str) -> bool:
    found = await store.archive.message("acme", id_)
    assert found is not None
    assert ("body" in found.fields) == (found.body_removed_ts is None)
    return found.body_removed_ts is not None
