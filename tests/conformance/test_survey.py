"""The whole queue is counted in the background, and what is asked for is counted up to a bound, on every database."""

from __future__ import annotations

import pytest

from mail_proxy.domain.backlog import MANY, Survey
from mail_proxy.domain.errors import Conflict
from mail_proxy.store.store import Store
from tests.conformance.steps import ACCEPTED, NOW, attempt
from tests.support.backlog import fill
from tests.support.stores import a_message, enqueue, with_account


async def test_an_empty_queue_has_nothing(store: Store) -> None:
    assert await store.queue.survey(1) == Survey(0, {}, {}, None)


async def test_what_is_many_is_counted_for_each_tenant_and_batch(store: Store) -> None:
    account, second = await with_account(store), await with_account(store, account_id="second")
    other = await with_account(store, "other")
    await enqueue(store, *(a_message(f"S{n}", account, batch_code="spring") for n in range(3)))
    await enqueue(store, *(a_message(f"T{n}", second, batch_code="spring") for n in range(2)))
    await enqueue(store, a_message("A1", account, batch_code="autumn"), a_message("M1", second, due=NOW + 5))
    await enqueue(store, *(a_message(f"S{n}", other, batch_code="spring") for n in range(4)))
    assert await store.queue.survey(5) == Survey(11, {"acme": 7}, {("acme", "spring"): 5}, NOW)
    assert await store.queue.survey(4) == Survey(
        11, {"acme": 7, "other": 4}, {("acme", "spring"): 5, ("other", "spring"): 4}, NOW
    )
    await attempt(store, account, ACCEPTED)
    assert await store.queue.survey(4) == Survey(7, {"other": 4}, {("other", "spring"): 4}, NOW)


async def test_the_oldest_message_is_one_that_only_waits_for_its_turn(store: Store) -> None:
    account, other = await with_account(store), await with_account(store, "other")
    await enqueue(store, a_message("later", account, created_ts=NOW - 500, due=NOW + 5))
    await enqueue(store, a_message("sent", account, created_ts=NOW - 400, priority=0))
    await attempt(store, account, ACCEPTED, limit=1)
    assert (await store.queue.survey(1)).oldest_ready_ts is None
    await enqueue(store, a_message("low", account, created_ts=NOW - 300, priority=3))
    await enqueue(store, a_message("high", account, created_ts=NOW - 200, priority=1))
    await enqueue(store, a_message("theirs", other, created_ts=NOW - 250))
    assert (await store.queue.survey(1)).oldest_ready_ts == NOW - 300


async def test_a_request_counts_up_to_a_bound_and_exactly_below_it(store: Store) -> None:
    account, second = await with_account(store), await with_account(store, account_id="second")
    fill(store, account, MANY - 1, batch_code="spring")
    assert (await store.archive.pending("acme"), await store.archive.pending("acme", "spring")) == (MANY - 1, MANY - 1)
    fill(store, second, 50, batch_code="spring", prefix="second-")
    assert (await store.archive.pending("acme"), await store.archive.pending("acme", "spring")) == (MANY, MANY)
    survey = await store.queue.survey(MANY)
    assert (survey.by_tenant, survey.by_batch) == ({"acme": MANY + 49}, {("acme", "spring"): MANY + 49})
    with pytest.raises(Conflict, match=f"has {MANY} or more messages that are not finished, and 0 events"):
        await store.directory.delete_tenant("acme", force=False)
