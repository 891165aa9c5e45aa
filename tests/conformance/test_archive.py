"""Messages and their histories are shown on every database, to their own tenant only."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mail_proxy.domain.account import Account, Hold
from mail_proxy.domain.message import MessageState
from mail_proxy.domain.recipient import RecipientKind, RecipientState
from mail_proxy.domain.report import EventType
from mail_proxy.domain.settlement import expire
from mail_proxy.domain.tenant import Suspension
from mail_proxy.ports.archive import MessageFilter, Page, Place
from mail_proxy.store import page_size
from mail_proxy.store.store import Store
from tests.conformance.steps import ACCEPTED, LATER, NOW, REFUSED, attempt, claim, settle_all
from tests.support.stores import a_message, enqueue, with_account

METACHARACTERS = ["%", "_", "\\", "'", '"', "';--", "x' OR 'a'='a", "a%b", "$1", ":now", "%(x)s", "{}", "🜁", "ß"]


async def page(store: Store, *, below: Place | None = None, limit: int = 100, now: float = NOW, **wanted: Any) -> Page:
    return await store.archive.page("acme", MessageFilter(**wanted), below, limit, now)


async def listed(store: Store, *, now: float = NOW, **wanted: Any) -> list[str]:
    return [details.id for details in (await page(store, now=now, **wanted)).messages]


async def one_of_each(store: Store) -> Account:
    """Make a message in every state that one can be in, with its name for an id."""
    account = await with_account(store)
    await store.directory.change_suspension("acme", lambda _: Suspension(batches=frozenset({"winter"})))
    ends = {"sent": ACCEPTED, "failed": REFUSED, "retried": LATER}
    for id_, answer in ends.items():
        await enqueue(store, a_message(id_, account))
        await attempt(store, account, answer)
    await enqueue(store, a_message("expired", account, expires_ts=NOW))
    (late,) = await store.queue.claim_expired(NOW, 1, "late")
    assert all(await store.queue.settle([expire(late, NOW)]))
    await enqueue(store, a_message("held", account, batch_code="winter"), a_message("sending", account))
    assert len(await claim(store, account)) == 1
    gone = await with_account(store, account_id="gone")
    await enqueue(store, a_message("cancelled", gone))
    await store.directory.delete_account("acme", "gone", force=True)
    await enqueue(store, a_message("ready", account), a_message("deferred", account, due=NOW + 100))
    return account


async def test_a_message_is_shown_with_all_that_was_submitted(store: Store) -> None:
    account = await with_account(store)
    people = (("b@example.net", RecipientKind.TO), ("c@example.net", RecipientKind.BCC))
    fields = '{"id":"M1","subject":"Grüße \\u0000 \\"x\\"","metadata":{"order":7}}'
    message = a_message("M1", account, recipients=people, fields=fields, priority=1, batch_code="spring", due=NOW + 10)
    await enqueue(store, message)
    details = await store.archive.message("acme", "M1")
    assert details is not None
    assert details.fields == {"id": "M1", "subject": 'Grüße \0 "x"', "metadata": {"order": 7}}
    assert (details.tenant_id, details.account_id, details.batch_code) == ("acme", "main", "spring")
    assert (details.priority, details.attempts, details.state) == (1, 0, MessageState.SCHEDULED)
    assert (details.created_ts, details.due_ts) == (NOW, NOW + 10)
    assert (details.finished_ts, details.reported_ts, details.reply) == (None, None, None)
    assert [(r.n, r.address, r.kind, r.state) for r in details.recipients] == [
        (0, "b@example.net", RecipientKind.TO, RecipientState.WAITING),
        (1, "c@example.net", RecipientKind.BCC, RecipientState.WAITING),
    ]
    assert (await page(store)).messages == [details]


@pytest.mark.parametrize("size", [4, 400_000])
async def test_of_a_complete_message_its_octets_are_left_out_and_the_rest_stays_as_it_was(
    store: Store, size: int
) -> None:
    account = await with_account(store)
    others = '"id":"M1","metadata":{"raw":"x","n":1e+300,"f":1.0,"u":"\\u00e9\U0001f389"}'
    await enqueue(store, a_message("M1", account, fields=f'{{{others},"raw":"{"A" * size}","raw_size":3}}'))
    details = await store.archive.message("acme", "M1")
    assert details is not None
    assert json.dumps(details.fields) == json.dumps(json.loads(f'{{{others},"raw_size":3}}'))
    (claimed,) = await claim(store, account)
    assert json.loads(claimed.fields)["raw"] == "A" * size


async def test_recipients_share_the_end_of_their_message_where_it_is_the_same_for_all(store: Store) -> None:
    account = await with_account(store)
    people = (("a@example.net", RecipientKind.TO), ("b@example.net", RecipientKind.TO))
    await enqueue(store, a_message("same", account, recipients=people), a_message("other", account, recipients=people))
    same, other = await claim(store, account)
    await settle_all(store, [same], REFUSED, REFUSED)
    await settle_all(store, [other], ACCEPTED, REFUSED)
    for id_, expected in (("same", ["failed", "failed"]), ("other", ["sent", "failed"])):
        details = await store.archive.message("acme", id_)
        assert details is not None
        assert [r.state.value for r in details.recipients] == expected  # G7
        assert all(r.ts == NOW + 2 and r.reply is not None for r in details.recipients)


@pytest.mark.parametrize("limit", [1, 3, 7])
async def test_pages_follow_one_another_without_a_gap_and_without_a_repetition(store: Store, limit: int) -> None:
    account, other = await with_account(store), await with_account(store, "other")
    for n in range(7):
        await enqueue(store, a_message(f"M{n}", account), a_message(f"M{n}", other))
    seen: list[str] = []
    below = None
    while True:
        found = await page(store, below=below, limit=limit)
        seen += [details.id for details in found.messages]
        assert len(found.messages) <= limit
        below = found.below
        if below is None:
            break
        await enqueue(store, a_message(f"new {below.pk}", account))  # newer ones do not shift the pages
    assert seen == [f"M{n}" for n in range(6, -1, -1)]


async def test_a_page_can_be_asked_for_again_and_an_empty_one_ends(store: Store) -> None:
    account = await with_account(store)
    assert await page(store) == Page([], None)
    await enqueue(store, *(a_message(f"M{n}", account) for n in range(4)))
    first = await page(store, limit=2)
    assert [details.id for details in first.messages] == ["M3", "M2"]
    second = await page(store, limit=2, below=first.below)
    assert [details.id for details in second.messages] == ["M1", "M0"]
    assert second.below is None
    assert await page(store, limit=2) == first
    assert await page(store, below=Place(NOW, second.messages[-1].pk)) == Page([], None)


async def test_messages_are_found_by_their_public_state(store: Store) -> None:
    await one_of_each(store)
    assert await listed(store, state="waiting") == ["deferred", "ready", "held", "retried"]
    for state in ("sending", "sent", "failed", "expired", "cancelled"):
        assert await listed(store, state=state) == [state]


async def test_messages_are_found_by_the_historic_words(store: Store) -> None:
    await one_of_each(store)
    assert await listed(store, status="pending") == ["ready", "sending", "held"]
    assert await listed(store, status="deferred") == ["deferred", "retried"]
    assert await listed(store, status="sent") == ["sent"]
    assert await listed(store, status="error") == ["expired", "failed"]
    after = NOW + 1_000  # once its time has come, it is no longer deferred
    assert await listed(store, status="deferred", now=after) == []
    assert await listed(store, status="pending", now=after) == ["deferred", "ready", "sending", "held", "retried"]


async def test_filters_are_joined_by_and(store: Store) -> None:
    account, second = await with_account(store), await with_account(store, account_id="second")
    messages = [
        a_message(f"{each.id} {batch} {priority}", each, batch_code=batch, priority=priority)
        for each in (account, second)
        for batch in ("spring", None)
        for priority in (0, 2)
    ]
    await enqueue(store, *messages)
    await attempt(store, account, ACCEPTED, limit=1)
    assert await listed(store, account_id="second", batch_code="spring") == ["second spring 2", "second spring 0"]
    assert await listed(store, account_id="second", batch_code="spring", priority=0) == ["second spring 0"]
    assert await listed(store, priority=0, active_only=True) == ["second None 0", "second spring 0", "main None 0"]
    assert await listed(store, priority=0, state="sent") == ["main spring 0"]
    assert await listed(store, status="sent", active_only=True) == []
    assert await listed(store, account_id="third") == []


async def test_a_message_that_is_being_sent_or_put_off_is_active_and_a_finished_one_is_not(store: Store) -> None:
    await one_of_each(store)
    assert await listed(store, active_only=True) == ["deferred", "ready", "sending", "held", "retried"]


async def test_why_a_message_waits_is_told(store: Store) -> None:
    account = await one_of_each(store)

    async def reasons() -> dict[str, str | None]:
        return {details.id: details.deferred_reason for details in (await page(store, active_only=True)).messages}

    assert await reasons() == {
        "deferred": None,
        "ready": None,
        "sending": None,
        "held": "batch suspended",
        "retried": "450 4.2.0 greylisted",
    }
    await store.directory.set_hold(account.pk, Hold("535 5.7.8 wrong password", NOW))
    on_hold = "account on hold: 535 5.7.8 wrong password"
    assert await reasons() == dict.fromkeys(("deferred", "ready", "held", "retried"), on_hold) | {"sending": None}
    assert [d.deferred_reason for d in (await page(store, state="sent")).messages] == [None]


async def test_a_history_begins_with_the_message_itself(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account))
    await attempt(store, account, LATER)
    await store.queue.promote(NOW + 1_000, 10)
    await attempt(store, account, ACCEPTED, now=NOW + 900)
    first, _ = await store.outbox.pending("acme", 10)
    await store.outbox.acknowledge([first.event_id], NOW + 901)
    history = await store.archive.history("acme", "M1")
    assert history is not None
    assert [(past.type, past.ts, past.reported_ts) for past in history] == [
        (EventType.QUEUED, NOW, None),
        (EventType.DEFERRED, NOW + 2, NOW + 901),
        (EventType.SENT, NOW + 900, None),
    ]
    assert (history[0].event_id, history[0].entry) == (None, None)
    assert [past.event_id for past in history[1:]] == [first.event_id, first.event_id + 1]
    assert history[1].entry == first.event.entry


async def test_tenants_do_not_see_each_others_messages(store: Store) -> None:
    account = await with_account(store)
    others = [await with_account(store, tenant_id) for tenant_id in ("aaa", "acme2", "zzz")]
    await enqueue(store, a_message("ours", account))
    for other in others:
        await enqueue(store, a_message("theirs", other, batch_code="spring"))
        await attempt(store, other, ACCEPTED)
    await enqueue(store, a_message("ours too", account))
    assert await listed(store) == ["ours too", "ours"]
    assert await listed(store, batch_code="spring") == []
    assert await store.archive.message("acme", "theirs") is None
    assert await store.archive.history("acme", "theirs") is None
    assert (await store.archive.pending("acme"), await store.archive.pending("zzz")) == (2, 0)
    assert await store.archive.pending("nobody") == 0


async def test_unfinished_messages_are_counted_for_a_tenant_and_for_a_batch(store: Store) -> None:
    account, second = await with_account(store), await with_account(store, account_id="second")
    other = await with_account(store, "other")
    await enqueue(store, *(a_message(f"S{n}", account, batch_code="spring") for n in range(3)))
    await enqueue(store, a_message("S3", second, batch_code="spring"), a_message("M1", second, due=NOW + 5))
    await enqueue(store, a_message("S0", other, batch_code="spring"))
    assert len(await claim(store, account, 2)) == 2
    assert (await store.archive.pending("acme"), await store.archive.pending("acme", "spring")) == (5, 4)
    await settle_all(store, await claim(store, account), ACCEPTED)
    assert (await store.archive.pending("acme"), await store.archive.pending("acme", "spring")) == (4, 3)


async def test_characters_that_mean_something_to_a_database_mean_nothing(store: Store) -> None:
    account = await with_account(store)
    bodies = {text: json.dumps({"id": text, "body": text}) for text in METACHARACTERS}
    await enqueue(store, *(a_message(t, account, batch_code=t, fields=bodies[t]) for t in METACHARACTERS))
    await enqueue(store, a_message("axb", account, batch_code="axb"))
    for text in METACHARACTERS:
        assert await listed(store, batch_code=text) == [text]
        assert await listed(store, account_id=text) == []
        assert await store.archive.pending("acme", text) == 1
        details = await store.archive.message("acme", text)
        assert details is not None
        assert (details.id, details.batch_code, details.fields["body"]) == (text, text, text)
    await store.directory.change_suspension("acme", lambda _: Suspension(batches=frozenset(METACHARACTERS)))
    tenant = await store.directory.tenant("acme")
    assert tenant is not None
    assert tenant.suspension.batches == set(METACHARACTERS)
    assert [claimed.identity.mail_id for claimed in await claim(store, account, 100)] == ["axb"]


async def test_a_page_of_large_messages_ends_early_and_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    account = await with_account(store)
    sizes = [10, 10, 500, 10, 10, 90, 10, 10, 10, 10, 500, 500]
    await enqueue(
        store, *(a_message(f"M{n}", account, fields=json.dumps({"body": "x" * size})) for n, size in enumerate(sizes))
    )
    monkeypatch.setattr(page_size, "PAGE_BYTES", 200)
    pages: list[list[str]] = []
    before: Place | None = None
    while True:
        found = await page(store, below=before, limit=4)
        pages.append([each.id for each in found.messages])
        before = found.below
        if before is None:
            break
    assert [id_ for ids in pages for id_ in ids] == [f"M{n}" for n in reversed(range(len(sizes)))]
    assert pages[:3] == [["M11"], ["M10"], ["M9", "M8", "M7", "M6"]]  # one too large for a page is one by itself
    assert pages[3] == ["M5", "M4", "M3"]


async def test_a_long_message_with_a_nul_in_it_is_shown(store: Store) -> None:
    account = await with_account(store)
    fields = {"id": "M1", "body": "x" * 20_000 + "\x00\\u0000", "subject": "S", "raw_size": 3, "raw": "AAAA"}
    await enqueue(store, a_message("M1", account, fields=json.dumps(fields)))
    found = await store.archive.message("acme", "M1")
    assert found is not None
    assert found.fields == {name: value for name, value in fields.items() if name != "raw"}
