"""Deleting, sending again and cleaning up, on every database."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence

import pytest
from sqlalchemy import Connection

from mail_proxy.domain.account import Account
from mail_proxy.domain.claim import Claimed
from mail_proxy.domain.message import Details
from mail_proxy.domain.recipient import RecipientKind
from mail_proxy.domain.requeue import Skipped
from mail_proxy.ports.archive import MessageFilter
from mail_proxy.ports.message_changes import Requeueing, RetryFilter
from mail_proxy.store import loading, message_changes
from mail_proxy.store.loading import Loader
from mail_proxy.store.store import Store
from tests.conformance.steps import ACCEPTED, LATER, NOW, REFUSED, attempt, claim, settle_all
from tests.support.instance import eventually
from tests.support.stores import a_message, enqueue, with_account

TWO = (("ok@example.net", RecipientKind.TO), ("gone@example.net", RecipientKind.TO))


async def delete(store: Store, *ids: str, silent: bool = False) -> list[str | None]:
    """Delete messages of acme; return what became of each, None where it is not there."""
    known = await store.message_changes.find("acme", ids)
    became = await store.message_changes.delete(sorted(known.values()), NOW + 10, silent=silent)
    outcomes = [became.get(known.get(id_, 0)) for id_ in ids]
    return [outcome and outcome.value for outcome in outcomes]


async def requeue(store: Store, *ids: str, now: float = NOW + 20) -> Requeueing:
    known = await store.message_changes.find("acme", ids)
    return await store.message_changes.requeue(sorted(known.values()), now)


async def details(store: Store, id_: str) -> Details:
    found = await store.archive.message("acme", id_)
    assert found is not None
    return found


async def events(store: Store) -> list[tuple[str, str]]:
    """The unreported events of acme: which message, and what happened."""
    entries = [json.loads(each.event.entry) for each in await store.outbox.pending("acme", 100)]
    return [(entry["id"], entry["event"]) for entry in entries]


async def acknowledge(store: Store, count: int = 100) -> None:
    await store.outbox.acknowledge([e.event_id for e in await store.outbox.pending("acme", count)], NOW + 30)


def left(store: Store) -> dict[str, int]:
    """How many rows each table has that belongs to messages."""
    with store.database.engine.connect() as connection:
        counts = {
            name: connection.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar_one()  # noqa: S608 - our names
            for name in ("messages", "contents", "recipients", "events")
        }
    return {name: count for name, count in counts.items() if count}


async def test_what_waits_is_cancelled_and_told_in_the_same_transaction(store: Store) -> None:
    account = await with_account(store)
    later = a_message("later", account, due=NOW + 1000)
    await enqueue(store, a_message("ready", account), later, a_message("other", account))
    assert await delete(store, "ready", "later", "nowhere") == ["cancelled", "cancelled", None]
    assert await events(store) == [("ready", "cancelled"), ("later", "cancelled")]  # G9
    cancelled = await details(store, "later")
    assert (cancelled.state.value, cancelled.reply, cancelled.finished_ts) == (
        "cancelled",
        "deleted by request",
        NOW + 10,
    )
    assert [each.identity.mail_id for each in await claim(store, account)] == ["other"]


async def test_who_was_served_before_the_rest_was_cancelled_stays_served(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account, recipients=TWO))
    await attempt(store, account, ACCEPTED, LATER)
    assert await delete(store, "M1") == ["cancelled"]
    half = await details(store, "M1")
    assert half.state.value == "sent"
    assert [each.state.value for each in half.recipients] == ["sent", "cancelled"]


async def test_what_is_being_sent_is_left_alone(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account))
    claims = await claim(store, account)
    assert await delete(store, "M1") == ["in_progress"]
    await settle_all(store, claims, ACCEPTED)
    assert await events(store) == [("M1", "sent")]


async def test_what_is_finished_is_gone_from_every_read_and_told_all_the_same(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account, recipients=TWO), a_message("M2", account))
    await attempt(store, account, LATER, ACCEPTED, limit=1)
    await acknowledge(store)  # that it was put off; its end is not told yet
    await store.queue.promote(NOW + 1000, 10)
    await attempt(store, account, REFUSED, limit=1, now=NOW + 1001)
    assert await delete(store, "M1") == ["removed"]
    assert await store.archive.message("acme", "M1") is None
    assert await store.archive.history("acme", "M1") is None
    assert await store.archive.standing("acme", "M1") is None
    page = await store.archive.page("acme", MessageFilter(), None, 10, NOW)
    assert [each.id for each in page.messages] == ["M2"]
    assert await delete(store, "M1") == [None]
    assert await events(store) == [("M1", "sent")]
    await acknowledge(store)
    await delete(store, "M2")
    await acknowledge(store)
    assert await delete(store, "M2") == ["removed"]  # cancelled and told
    assert left(store) == {"events": 3}  # the feed keeps them, until they are as old as the retention
    assert await store.queue.prune(NOW + 10, 10, ()) == 1
    assert await store.queue.prune(math.inf, 10, ()) == 2
    assert left(store) == {}


async def test_the_id_of_what_was_deleted_is_free_and_both_ends_are_told_in_their_order(store: Store) -> None:  # G3
    account = await with_account(store)
    await enqueue(store, a_message("M1", account))
    await attempt(store, account, ACCEPTED)
    await delete(store, "M1")
    assert await enqueue(store, a_message("M1", account)) == ["queued"]
    await attempt(store, account, REFUSED, now=NOW + 5)
    assert await events(store) == [("M1", "sent"), ("M1", "failed")]
    await acknowledge(store, 1)
    assert await events(store) == [("M1", "failed")]
    await acknowledge(store)
    assert (await details(store, "M1")).reported_ts == NOW + 30
    assert left(store)["events"] == 2


async def test_what_is_told_to_nobody_goes_when_it_is_old(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account), a_message("M2", account))
    await attempt(store, account, ACCEPTED)
    assert await delete(store, "M1", silent=True) == ["removed"]
    assert await delete(store, "M2") == ["removed"]
    assert await events(store) == [("M2", "sent")]  # there was nobody to be told of the other one
    assert await store.queue.prune(NOW + 1, 10, ["acme"]) == 0
    assert left(store) == {"events": 2}
    assert await store.queue.prune(NOW + 3, 10, ()) == 1
    assert await events(store) == [("M2", "sent")]  # G9
    # the tenant's endpoint was taken away afterwards
    assert await store.queue.prune(NOW + 3, 10, ["acme"]) == 1
    assert left(store) == {}


async def test_a_tenant_takes_the_events_of_deleted_messages_along(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account), a_message("M2", account))
    await attempt(store, account, ACCEPTED)
    await delete(store, "M1")
    await acknowledge(store, 1)
    await store.directory.delete_tenant("acme", force=True)
    assert left(store) == {}


async def test_deleting_and_claiming_at_once_do_both_to_no_message(store: Store) -> None:
    account = await with_account(store)
    names = [f"M{n}" for n in range(60)]
    await enqueue(store, *(a_message(name, account) for name in names))
    claims, deleted = await asyncio.gather(
        asyncio.gather(*(claim(store, account, 10, token=f"t{n}") for n in range(4))),
        asyncio.gather(*(delete(store, *names[start::6]) for start in range(6))),
    )
    claimed = {each.identity.mail_id for one in claims for each in one}
    outcomes = {name: deleted[n % 6][n // 6] for n, name in enumerate(names)}
    assert {name for name, outcome in outcomes.items() if outcome == "in_progress"} <= claimed
    assert {name for name, outcome in outcomes.items() if outcome == "cancelled"} == set(names) - claimed
    assert len(await events(store)) == 60 - len(claimed)


async def retried(store: Store, account: Account, *answers: object, ids: Sequence[str] = ("M1",)) -> Requeueing:
    """Send messages to two recipients each, with these answers, and retry them."""
    await enqueue(store, *(a_message(id_, account, recipients=TWO) for id_ in ids))
    await attempt(store, account, *answers)  # type: ignore[arg-type]
    return await requeue(store, *ids)


async def test_only_failed_recipients_are_served_again(store: Store) -> None:  # G7
    account = await with_account(store)
    assert await retried(store, account, ACCEPTED, REFUSED) == Requeueing(1, {}, frozenset({account.pk}))
    waiting = await details(store, "M1")
    assert (waiting.state.value, waiting.attempts, waiting.finished_ts) == ("ready", 0, None)
    assert [(each.state.value, each.reply) for each in waiting.recipients] == [
        ("sent", "250 2.0.0 Ok"),
        ("waiting", "550 5.1.1 no such user"),
    ]
    (again,) = await claim(store, account, token="second")
    assert [each.address for each in again.waiting] == ["gone@example.net"]
    assert (again.attempts, again.first_attempt_ts, again.waiting[0].ts) == (1, NOW + 1, None)
    await settle_all(store, [again], ACCEPTED, ACCEPTED, now=NOW + 40)
    assert await events(store) == [("M1", "sent"), ("M1", "sent")]  # G9
    assert [each.ts for each in (await details(store, "M1")).recipients] == [NOW + 2, NOW + 40]


async def test_what_failed_altogether_is_as_if_it_had_never_been_tried_but_keeps_its_identity(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account, recipients=TWO))
    (first,) = await claim(store, account)
    await settle_all(store, [first], REFUSED, REFUSED)
    await requeue(store, "M1")
    (again,) = await claim(store, account, token="second")
    assert (again.pk, again.identity, again.fields) == (first.pk, first.identity, first.fields)  # G4
    assert again.recipients == first.recipients
    await settle_all(store, [again], REFUSED, LATER, now=NOW + 40)
    assert await events(store) == [("M1", "failed"), ("M1", "deferred")]
    await acknowledge(store, 1)
    assert (await details(store, "M1")).reported_ts is None
    assert [each.state.value for each in (await details(store, "M1")).recipients] == ["failed", "waiting"]


async def test_other_content_does_not_replace_what_is_retried(store: Store) -> None:  # G3
    account = await with_account(store)
    await retried(store, account, ACCEPTED, REFUSED)
    assert await enqueue(store, a_message("M1", account, digest="other")) == ["already_taken"]
    await attempt(store, account, ACCEPTED, ACCEPTED, now=NOW + 21)
    await retried(store, account, REFUSED, REFUSED, ids=["M2"])
    assert await enqueue(store, a_message("M2", account, digest="other")) == ["already_taken"]
    for id_ in ("M1", "M2"):
        assert await enqueue(store, a_message(id_, account)) == ["duplicate"]


async def test_other_content_does_not_replace_what_has_reached_somebody(store: Store) -> None:  # G3, G7
    account = await with_account(store)
    await enqueue(store, a_message("M1", account, recipients=TWO))
    # a rate limit let one transaction through: the attempt goes on, and is given back meanwhile
    await settle_all(store, await claim(store, account), ACCEPTED)
    assert (await details(store, "M1")).attempts == 0
    assert await enqueue(store, a_message("M1", account, digest="other")) == ["already_taken"]


async def test_what_cannot_be_retried_is_passed_over_with_a_reason(store: Store) -> None:
    account, leaving = await with_account(store), await with_account(store, "acme", "leaving")
    await enqueue(store, a_message("orphan", leaving), a_message("late", account, expires_ts=NOW + 15))
    await attempt(store, leaving, REFUSED)
    await attempt(store, account, REFUSED)
    await enqueue(store, a_message("cancelled", account))
    await delete(store, "cancelled")
    await enqueue(store, a_message("sent", account))
    await attempt(store, account, ACCEPTED)
    await enqueue(store, a_message("waiting", account))
    await store.directory.delete_account("acme", "leaving", force=False)
    names = ("orphan", "late", "cancelled", "sent", "waiting")
    known = await store.message_changes.find("acme", names)
    done = await store.message_changes.requeue([*known.values(), 4711], NOW + 20)
    assert done == Requeueing(
        0,
        {
            Skipped.NO_ACCOUNT: 1,
            Skipped.EXPIRED: 1,
            Skipped.CANCELLED: 1,
            Skipped.NOT_FAILED: 2,
            Skipped.NOT_FOUND: 1,
        },
        frozenset(),
    )
    anew = await with_account(store, "acme", "leaving")
    assert (await requeue(store, "orphan")).account_pks == {anew.pk}
    assert [each.identity.mail_id for each in await claim(store, anew, token="anew")] == ["orphan"]


async def test_a_message_is_retried_once_however_many_ask(store: Store) -> None:
    account = await with_account(store)
    names = [f"M{n}" for n in range(20)]
    await retried(store, account, REFUSED, REFUSED, ids=names[:1])
    await enqueue(store, *(a_message(name, account) for name in names[1:]))
    await attempt(store, account, REFUSED, limit=20)
    done = await asyncio.gather(*(requeue(store, *names[1:]) for _ in range(8)))
    assert sum(each.queued for each in done) == 19
    assert sum(each.skipped.get(Skipped.NOT_FAILED, 0) for each in done) == 7 * 19


async def test_failed_messages_are_found_by_what_they_are(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_changes, "LOOK", 4)
    account, other = await with_account(store), await with_account(store, "acme", "other")
    neighbour = await with_account(store, "neighbour")
    for each in (account, other, neighbour):
        batches = ["spring", None, None, None, "spring", None]
        messages = [
            a_message(f"{each.id}{n}", each, batch_code=batch, created_ts=NOW - 100 + n)
            for n, batch in enumerate(batches)
        ]
        await enqueue(store, *messages)
        await attempt(store, each, REFUSED, limit=5)

    async def found(wanted: RetryFilter) -> list[str]:
        pks, place = list[int](), 0
        while True:
            some = await store.message_changes.failed("acme", wanted, place)
            pks += some.pks
            if some.next_after is None:
                break
            place = some.next_after
        page = await store.archive.page("acme", MessageFilter(), None, 100, NOW)
        names = {each.pk: each.id for each in page.messages}
        return [names[pk] for pk in pks]

    everything = [f"{id_}{n}" for id_ in ("main", "other") for n in range(5)]
    assert await found(RetryFilter()) == everything
    assert await found(RetryFilter(state="failed")) == everything
    assert await found(RetryFilter(state="expired")) == []
    assert await found(RetryFilter(account_id="other")) == everything[5:]
    assert await found(RetryFilter(batch_code="spring", account_id="main")) == ["main0", "main4"]
    assert await found(RetryFilter(created_from=NOW - 99, created_to=NOW - 97, account_id="main")) == ["main1", "main2"]


async def test_only_what_is_finished_and_told_is_cleaned_up(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, *(a_message(f"M{n}", account) for n in range(4)))
    await attempt(store, account, ACCEPTED, limit=1)
    await attempt(store, account, ACCEPTED, limit=1, now=NOW + 5)
    await acknowledge(store)
    await attempt(store, account, ACCEPTED, limit=1, now=NOW + 6)
    everything = await store.message_changes.find("acme", [f"M{n}" for n in range(4)])

    async def clean(before: float, *, silent: bool = False) -> tuple[int, int]:
        found = await store.message_changes.told("acme", before, 0, silent=silent)
        # what is not as it was found stays
        removed = await store.message_changes.clean(sorted(everything.values()), before, silent=silent)
        return len(found.pks), removed

    assert await clean(NOW + 2) == (0, 0)
    assert await clean(NOW + 3) == (1, 1)
    assert await clean(math.inf) == (1, 1)
    assert await clean(math.inf) == (0, 0)
    assert await clean(NOW + 7, silent=True) == (1, 1)
    assert left(store) == {"messages": 1, "contents": 1, "recipients": 1, "events": 3}
    assert await events(store) == []
    assert await store.queue.prune(math.inf, 10, ()) == 3
    assert left(store) == {"messages": 1, "contents": 1, "recipients": 1}


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
async def test_a_deletion_does_not_stand_in_the_way_of_an_acknowledgement_that_it_waits_for(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account))
    await attempt(store, account, ACCEPTED)
    with store.database.engine.connect() as another:  # as an acknowledgement, between its two statements
        another.exec_driver_sql(f"UPDATE messages SET reported_ts = {NOW}")  # noqa: S608 - a number of our own
        deleting = asyncio.create_task(delete(store, "M1"))
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        await eventually(lambda: another.exec_driver_sql(waiting).scalar(), "the deletion waits")
        another.exec_driver_sql("SELECT event_id FROM events FOR UPDATE NOWAIT")
        another.exec_driver_sql(f"UPDATE events SET reported_ts = {NOW}")  # noqa: S608 - a number of our own
        another.commit()
    assert await deleting == ["removed"]
    assert await events(store) == []
    assert left(store) == {"events": 1}


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
async def test_an_id_is_free_for_one_who_waited_for_its_deletion(store: Store) -> None:  # G3
    account = await with_account(store)
    await enqueue(store, a_message("M1", account))
    with store.database.engine.connect() as another:  # as another instance would, between its two statements
        another.exec_driver_sql("SELECT pk FROM messages FOR UPDATE")
        submitting = asyncio.create_task(enqueue(store, a_message("M1", account, digest="other")))
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        await eventually(lambda: another.exec_driver_sql(waiting).scalar(), "the submission waits")
        for table in ("recipients", "contents", "messages"):
            another.exec_driver_sql(f"DELETE FROM {table}")  # noqa: S608 - names of our own
        another.commit()
    assert await submitting == ["queued"]
    (claimed,) = await claim(store, account)
    assert len(claimed.recipients) == 1


async def test_big_messages_are_read_a_few_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:  # G11
    account = await with_account(store)
    names, read = [f"M{n}" for n in range(5)], list[int]()
    load = Loader.load

    def counted(self: Loader, connection: Connection, pks: Sequence[int]) -> list[Claimed]:
        read.append(len(pks))
        return load(self, connection, pks)

    await enqueue(store, *(a_message(name, account) for name in names))
    monkeypatch.setattr(loading, "HELPING", 2 * len(a_message("M1", account).fields))
    monkeypatch.setattr(Loader, "load", counted)
    assert await delete(store, *names) == ["cancelled"] * 5
    assert read == [2, 2, 1]
    assert [id_ for id_, _ in await events(store)] == names
