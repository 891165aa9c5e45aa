"""The queue's verbs keep their promises on every database."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random

import pytest

from mail_proxy.domain.account import Hold, OnUncertain
from mail_proxy.domain.attempt import Answer, Attempt, HostFailed, Stage
from mail_proxy.domain.claim import Claimed, Demand
from mail_proxy.domain.message import FoundBy, MessageState, Verdict
from mail_proxy.domain.recipient import RecipientKind, RecipientState
from mail_proxy.domain.reply import Reply
from mail_proxy.domain.report import EventType
from mail_proxy.domain.retry import RetrySchedule
from mail_proxy.domain.settlement import Policy, Settlement, expire, recover, settle
from mail_proxy.domain.tenant import Suspension, Tenant
from mail_proxy.ports.queue import Stale
from mail_proxy.store.store import Store
from tests.support.stores import SetClock, a_message, enqueue, open_test_store, with_account

POLICY = Policy(RetrySchedule(delays=(60.0,), max_attempts=3))
ACCEPTED = Answer(Reply(250, "2.0.0", "Ok: queued as 4711"), Stage.DOT)
REFUSED = Answer(Reply(550, "5.1.1", "no such user"), Stage.RCPT)
LATER = Answer(Reply(450, "4.2.0", "greylisted"), Stage.RCPT)


async def claim(
    store: Store, account_pk: int, limit: int = 10, *, token: str = "t1", urgent: bool = False
) -> list[Claimed]:
    demand = Demand(account_pk, limit, urgent_only=urgent)
    return list((await store.queue.claim([demand], token, 1_800_000_001.0)).claimed)


def outcome(claimed: Claimed, *answers: Answer, now: float = 1_800_000_002.0) -> Settlement:
    attempt = Attempt(answers=dict(enumerate(answers)))
    return settle(claimed, attempt, POLICY, now, Random(1))


async def settled(store: Store, settlement: Settlement) -> bool:
    (written,) = await store.queue.settle([settlement])
    return written


async def test_a_message_that_is_too_heavy_stays_and_so_does_what_comes_after_it(store: Store) -> None:
    account = await with_account(store)
    small, large = (a_message(id_, account) for id_ in ("small", "large"))
    large = replace(large, fields=large.fields[:-1] + ', "html": "' + "x" * 1000 + '"}')
    after, urgent = a_message("after", account), a_message("urgent", account, priority=0)
    await enqueue(store, small, large, after)
    demand = Demand(account.pk, 10, heaviest=500)
    taking = await store.queue.claim([demand], "t1", 1_800_000_001.0)
    assert ([each.identity.mail_id for each in taking.claimed], taking.heavy) == (["small"], frozenset({account.pk}))
    await enqueue(store, urgent)
    taking = await store.queue.claim([replace(demand, urgent_only=True)], "t2", 1_800_000_001.0)
    assert ([each.identity.mail_id for each in taking.claimed], taking.heavy) == (["urgent"], frozenset())
    taking = await store.queue.claim([demand], "t3", 1_800_000_001.0)
    assert (list(taking.claimed), taking.heavy) == ([], frozenset({account.pk}))
    left = await claim(store, account.pk)
    assert [(each.identity.mail_id, each.attempts) for each in left] == [("large", 1), ("after", 1)]


async def test_what_was_enqueued_is_claimed_with_all_that_sending_needs(store: Store) -> None:
    account = await with_account(store)
    people = (("b@example.net", RecipientKind.TO), ("c@example.net", RecipientKind.BCC))
    message = a_message("M1", account, recipients=people, priority=1, batch_code="spring", expires_ts=1_900_000_000.5)
    assert await enqueue(store, message) == ["queued"]

    (claimed,) = await claim(store, account.pk)

    assert (claimed.tenant_id, claimed.identity, claimed.fields) == ("acme", message.identity, message.fields)
    assert (claimed.account_id, claimed.priority, claimed.batch_code) == ("main", 1, "spring")
    assert (claimed.attempts, claimed.expires_ts, claimed.token) == (1, 1_900_000_000.5, "t1")
    assert [(r.n, r.address, r.kind, r.state) for r in claimed.recipients] == [
        (0, "b@example.net", RecipientKind.TO, RecipientState.WAITING),
        (1, "c@example.net", RecipientKind.BCC, RecipientState.WAITING),
    ]


async def test_a_message_is_claimed_once(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, *(a_message(f"M{n}", account) for n in range(40)))
    claims = await asyncio.gather(*(claim(store, account.pk, 7, token=f"t{n}") for n in range(12)))
    taken = [claimed.pk for group in claims for claimed in group]
    assert len(taken) == len(set(taken)) == 40


async def test_urgent_messages_first_then_by_age(store: Store) -> None:
    account = await with_account(store)
    for id_, priority in (("old low", 3), ("old", 2), ("young", 2), ("urgent", 0), ("high", 1)):
        await enqueue(store, a_message(id_, account, priority=priority))
    assert [c.identity.mail_id for c in await claim(store, account.pk)] == ["urgent", "high", "old", "young", "old low"]


async def test_an_urgent_claim_takes_nothing_else(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("slow", account), a_message("fast", account, priority=0))
    assert [c.identity.mail_id for c in await claim(store, account.pk, urgent=True)] == ["fast"]


async def test_big_messages_are_claimed_in_bounded_helpings(store: Store) -> None:
    account = await with_account(store)
    big = '{"id":"x","body":"' + "x" * 3_000_000 + '"}'
    await enqueue(store, *(a_message(f"M{n}", account, fields=big) for n in range(6)))
    first = await claim(store, account.pk)
    assert len(first) == 3  # G11
    assert first[0].fields == big
    assert len(await claim(store, account.pk, token="t2")) == 3


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_repeated_id_with_the_same_content_changes_nothing(store: Store, replaced: bool) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account, digest="before" if replaced else "same"))
    if replaced:
        assert await enqueue(store, a_message("M1", account, digest="same")) == ["replaced"]
    assert await enqueue(store, a_message("M1", account, digest="same")) == ["duplicate"]
    assert len(await claim(store, account.pk)) == 1


async def test_other_content_takes_the_place_of_a_message_never_tried(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account), a_message("M2", account))
    people = (("new@example.net", RecipientKind.TO), ("two@example.net", RecipientKind.CC))
    changed = a_message("M1", account, digest="other", fields='{"id":"M1","body":"new"}', recipients=people)
    assert await enqueue(store, changed) == ["replaced"]
    first, second = await claim(store, account.pk)
    assert (first.identity.mail_id, first.fields) == ("M1", '{"id":"M1","body":"new"}')
    assert [r.address for r in first.recipients] == ["new@example.net", "two@example.net"]
    assert second.identity.mail_id == "M2"


async def test_other_content_is_refused_once_a_message_was_taken_up(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account), a_message("M2", account), a_message("M3", account))
    sent, failed, _taken = await claim(store, account.pk)
    await settled(store, outcome(sent, ACCEPTED))
    await settled(store, outcome(failed, REFUSED))
    others = [a_message(f"M{n}", account, digest="other") for n in (1, 2, 3)]
    assert await enqueue(store, *others) == ["already_sent", "already_failed", "already_taken"]


async def test_the_same_id_twice_in_one_batch_is_answered_twice(store: Store) -> None:
    account = await with_account(store)
    same, other = a_message("M1", account), a_message("M1", account, digest="other")
    assert await enqueue(store, same, same, other, other) == ["queued", "duplicate", "replaced", "duplicate"]
    assert len(await claim(store, account.pk)) == 1


async def test_fifty_clients_with_one_id_store_one_message(store: Store) -> None:
    account = await with_account(store)
    verdicts = await asyncio.gather(*(enqueue(store, a_message("M1", account)) for _ in range(50)))
    assert sorted(v for (v,) in verdicts) == ["duplicate"] * 49 + ["queued"]


async def test_ids_of_two_tenants_do_not_meet(store: Store) -> None:
    ours, theirs = await with_account(store, "acme"), await with_account(store, "other")
    assert await enqueue(store, a_message("M1", ours), a_message("M1", theirs)) == ["queued", "queued"]


async def test_a_change_that_is_none_of_its_concern_does_not_hold_a_message_up(store: Store) -> None:  # G11
    account = await with_account(store)
    before = store.directory.version
    await with_account(store, "neighbour")
    await with_account(store, "acme", "other")
    (taken,) = await store.queue.enqueue([a_message("M1", account)], before)
    assert taken.verdict is Verdict.QUEUED


async def test_a_message_is_not_stored_once_its_account_is_another_one(store: Store) -> None:
    account = await with_account(store)
    default = await with_account(store, "acme", "default", is_default=True)
    before = store.directory.version
    await store.directory.delete_account("acme", "main", force=True)
    again = await with_account(store)
    for stale in (
        a_message("M1", account),
        a_message("M2", replace(again, pk=default.pk)),
        a_message("M3", again, found_by=FoundBy.DEFAULT),
        a_message("M4", default, found_by=FoundBy.ELIMINATION),
    ):
        with pytest.raises(Stale):
            await store.queue.enqueue([a_message("M0", default), stale], before)
    assert await claim(store, default.pk) == []
    (taken,) = await store.queue.enqueue([a_message("M5", default, found_by=FoundBy.DEFAULT)], before)
    assert taken.verdict is Verdict.QUEUED


async def test_an_only_account_is_the_default_until_there_is_another(store: Store) -> None:
    account = await with_account(store)
    before = store.directory.version
    await with_account(store, "neighbour")
    (taken,) = await store.queue.enqueue([a_message("M1", account, found_by=FoundBy.DEFAULT)], before)
    assert taken.verdict is Verdict.QUEUED
    await with_account(store, "acme", "other")
    with pytest.raises(Stale):
        await store.queue.enqueue([a_message("M2", account, found_by=FoundBy.DEFAULT)], before)


async def test_a_message_is_not_stored_once_its_tenant_is_inactive(store: Store) -> None:
    account = await with_account(store)
    before = store.directory.version
    await store.directory.put_tenant(Tenant("acme", active=False), None)
    with pytest.raises(Stale):
        await store.queue.enqueue([a_message("M1", account)], before)
    assert await claim(store, account.pk) == []


async def test_a_sent_message_is_finished_with_its_reply_and_event(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account))
    (claimed,) = await claim(store, account.pk)
    assert await settled(store, outcome(claimed, ACCEPTED))
    details = await store.archive.message("acme", "M1")
    assert details is not None
    assert (details.state, details.reply, details.attempts) == (MessageState.SENT, "250 2.0.0 Ok: queued as 4711", 1)
    assert [(r.state, r.reply) for r in details.recipients] == [(RecipientState.SENT, "250 2.0.0 Ok: queued as 4711")]
    (event,) = await store.outbox.pending("acme", 10)
    assert event.event.type is EventType.SENT
    assert await claim(store, account.pk) == []


async def test_each_recipient_keeps_its_own_outcome_over_attempts(store: Store, clock: SetClock) -> None:
    account = await with_account(store)
    people = tuple((f"{name}@example.net", RecipientKind.TO) for name in ("ok", "gone", "later"))
    await enqueue(store, a_message("M1", account, recipients=people))
    (claimed,) = await claim(store, account.pk)
    assert await settled(store, outcome(claimed, ACCEPTED, REFUSED, LATER))

    await store.queue.promote(clock.now() + 100, 10)
    (again,) = await claim(store, account.pk, token="t2")
    assert [r.address for r in again.waiting] == ["later@example.net"]  # G7
    done = settle(again, Attempt(answers={2: ACCEPTED}), POLICY, clock.now(), Random(1))
    assert await settled(store, done)

    details = await store.archive.message("acme", "M1")
    assert details is not None
    assert details.state is MessageState.SENT
    assert [r.state.value for r in details.recipients] == ["sent", "failed", "sent"]
    assert details.recipients[1].reply == "550 5.1.1 no such user"


async def test_a_settlement_without_the_claims_token_changes_nothing(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account))
    (claimed,) = await claim(store, account.pk)
    assert not await settled(store, outcome(replace(claimed, token="stolen"), REFUSED))  # G5
    assert await store.outbox.pending("acme", 10) == []
    assert await settled(store, outcome(claimed, ACCEPTED))


async def test_a_second_settlement_of_one_claim_changes_nothing(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account))
    (claimed,) = await claim(store, account.pk)
    assert await settled(store, outcome(claimed, ACCEPTED))
    assert not await settled(store, outcome(claimed, REFUSED))
    assert len(await store.outbox.pending("acme", 10)) == 1


async def test_settlements_handed_over_together_are_judged_one_by_one(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, *(a_message(f"M{n}", account) for n in range(20)))
    claims = await claim(store, account.pk, 20)
    settlements = [outcome(replace(c, token="stolen") if c.pk % 3 == 0 else c, ACCEPTED) for c in claims]
    written = await asyncio.gather(*(settled(store, s) for s in settlements))
    assert list(written) == [c.pk % 3 != 0 for c in claims]
    assert len(await store.outbox.pending("acme", 100)) == sum(written)


async def test_a_released_message_has_its_attempt_back_and_its_place(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account), a_message("M2", account))
    first = await claim(store, account.pk, 1)
    await store.queue.release(first)
    again = await claim(store, account.pk, 2, token="t2")
    assert [(c.identity.mail_id, c.attempts) for c in again] == [("M1", 1), ("M2", 1)]
    await store.queue.release(first)  # its claim is over: nothing happens
    assert await claim(store, account.pk, token="t3") == []


async def test_a_temporary_failure_waits_for_its_time(store: Store, clock: SetClock) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account))
    (claimed,) = await claim(store, account.pk)
    failure = settle(claimed, Attempt(failure=HostFailed("refused")), POLICY, clock.now(), Random(1))
    assert failure.due is not None
    await settled(store, failure)

    early = await store.queue.promote(failure.due - 1, 10)
    assert not early.account_pks
    assert early.next_due == pytest.approx(failure.due)
    assert await claim(store, account.pk, token="t2") == []
    late = await store.queue.promote(failure.due, 10)
    assert late.account_pks == frozenset({account.pk})
    assert late.next_due is None
    (again,) = await claim(store, account.pk, token="t2")
    assert again.attempts == 2


async def test_a_deferred_message_becomes_ready_in_chunks_with_urgent_ones_first(store: Store, clock: SetClock) -> None:
    account = await with_account(store)
    due = clock.now() + 10
    messages = [a_message(f"M{n}", account, due=due, priority=3 - n % 4) for n in range(8)]
    await enqueue(store, *messages)
    assert (await store.queue.promote(clock.now(), 3)).next_due == pytest.approx(due)
    first = await store.queue.promote(due, 3)
    assert first.more
    assert [c.priority for c in await claim(store, account.pk)] == [0, 0, 1]
    while (await store.queue.promote(due, 3)).more:
        pass
    assert [c.priority for c in await claim(store, account.pk, token="t2")] == [1, 2, 2, 3, 3]


@pytest.mark.parametrize("how", ["tenant suspended", "tenant inactive", "account on hold", "scheduler stopped"])
async def test_nothing_is_claimed_for_what_is_stopped(store: Store, how: str) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account))
    match how:
        case "tenant suspended":
            await store.directory.change_suspension("acme", lambda _: Suspension(whole_tenant=True))
        case "tenant inactive":
            await store.directory.put_tenant(Tenant("acme", active=False), None)
        case "account on hold":
            await store.directory.set_hold(account.pk, Hold("535", 1.0))
        case _:
            await store.directory.set_scheduler_active(active=False)
    assert await claim(store, account.pk) == []
    await store.directory.change_suspension("acme", lambda _: Suspension())
    await store.directory.put_tenant(Tenant("acme"), None)
    await store.directory.set_hold(account.pk, None)
    await store.directory.set_scheduler_active(active=True)
    assert len(await claim(store, account.pk)) == 1


async def test_a_suspended_batch_is_set_aside_and_put_back_in_chunks(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, *(a_message(f"B{n}", account, batch_code="spring") for n in range(5)))
    await enqueue(store, a_message("other", account, batch_code="autumn"))
    await store.directory.change_suspension("acme", lambda _: Suspension(batches=frozenset({"spring"})))
    assert [c.identity.mail_id for c in await claim(store, account.pk)] == ["other"]
    details = await store.archive.message("acme", "B0")
    assert details is not None
    assert details.state is MessageState.HELD

    await store.directory.change_suspension("acme", lambda _: Suspension())
    chunks = 0
    while (await store.queue.unhold(2)).more:
        chunks += 1
    assert chunks == 3
    back = await claim(store, account.pk, token="t2")
    assert [(c.identity.mail_id, c.attempts) for c in back] == [(f"B{n}", 1) for n in range(5)]


async def test_accounts_with_ready_messages_are_found(store: Store) -> None:
    accounts = [await with_account(store, account_id=f"a{n}") for n in range(4)]
    await enqueue(store, *(a_message(f"M{n}", accounts[n % 2 + 1]) for n in range(6)))
    assert list(await store.queue.ready_accounts()) == [accounts[1].pk, accounts[2].pk]


async def test_messages_whose_time_has_passed_are_taken_and_end_as_expired(store: Store, clock: SetClock) -> None:
    account = await with_account(store)
    at = clock.now() + 60
    await enqueue(store, a_message("M1", account, expires_ts=at), a_message("M2", account))
    assert list(await store.queue.claim_expired(at - 1, 10, "t1")) == []
    (late,) = await store.queue.claim_expired(at, 10, "t1")
    assert await settled(store, expire(late, at))
    details = await store.archive.message("acme", "M1")
    assert details is not None
    assert details.state is MessageState.EXPIRED
    (event,) = await store.outbox.pending("acme", 10)
    assert event.event.type is EventType.EXPIRED


async def test_claims_of_a_dead_instance_are_taken_over(store: Store, store_url: str, clock: SetClock) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account), a_message("M2", account))
    (first, second) = await claim(store, account.pk)
    await store.queue.beat(1.0)
    assert (await store.queue.instances())[store.instance_id] == 1

    rescued = await store.queue.rescue([store.instance_id], 1)
    assert [c.pk for c in rescued] == [first.pk]
    assert await settled(store, recover(rescued[0], OnUncertain.RESEND, clock.now()))
    assert await settled(store, outcome(second, ACCEPTED))
    (again,) = await claim(store, account.pk, token="t2")
    assert (again.pk, again.attempts) == (first.pk, 1)
    events = await store.outbox.pending("acme", 10)
    assert [e.event.type for e in events] == [EventType.UNCERTAIN, EventType.SENT]
    assert not await settled(store, outcome(first, ACCEPTED))  # G5: somebody else has it now


async def test_a_late_250_counts_until_the_message_is_claimed_anew(store: Store, clock: SetClock) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account))
    (claimed,) = await claim(store, account.pk)
    (rescued,) = await store.queue.rescue([store.instance_id], 10)
    assert rescued.token == claimed.token
    await settled(store, recover(rescued, OnUncertain.RESEND, clock.now()))
    assert await settled(store, outcome(claimed, ACCEPTED))
    assert await claim(store, account.pk, token="t2") == []


async def test_only_finished_and_reported_messages_are_pruned(store: Store, clock: SetClock) -> None:
    account = await with_account(store)
    await enqueue(store, *(a_message(f"M{n}", account) for n in range(4)))
    claims = await claim(store, account.pk, 3)
    for claimed in claims[:2]:
        await settled(store, outcome(claimed, ACCEPTED))
    first, _second = await store.outbox.pending("acme", 10)
    await store.outbox.acknowledge([first.event_id], clock.now())

    assert await store.queue.prune(1_800_000_003.0, 10, ()) == 1
    assert await store.archive.message("acme", "M0") is None
    assert await store.archive.message("acme", "M1") is not None  # finished, not reported  G9
    assert await store.queue.prune(1_800_000_003.0, 10, ("acme",)) == 1  # nobody to report to
    assert await store.archive.message("acme", "M1") is None
    assert await store.queue.count_pending() == 2
    assert await enqueue(store, a_message("M0", account, digest="new")) == ["queued"]  # the id is free again


async def test_what_was_stored_survives_closing_and_opening(store_url: str) -> None:
    first = await open_test_store(store_url)
    account = await with_account(first)
    await enqueue(first, a_message("M1", account))
    await first.close()
    second = await open_test_store(store_url)
    assert [c.identity.mail_id for c in await claim(second, account.pk)] == ["M1"]
    await second.close()


@pytest.mark.parametrize("stale_last", [False, True])
async def test_a_claim_is_given_back_whatever_older_one_of_it_is_given_back_at_once(
    store: Store, *, stale_last: bool
) -> None:  # G6
    account = await with_account(store)
    await enqueue(store, a_message("M1", account))
    (stale,) = await claim(store, account.pk)
    await store.queue.release([stale])
    (current,) = await claim(store, account.pk, token="t2")
    claims = [current, stale] if stale_last else [stale, current]
    await asyncio.gather(*(store.queue.release([each]) for each in claims))
    await store.queue.release(claims)  # nothing is left to give back
    assert [each.pk for each in await claim(store, account.pk, token="t3")] == [current.pk]
