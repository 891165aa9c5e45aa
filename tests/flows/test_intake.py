"""A batch on its way into the queue: whose it is, what is answered for each item, who is woken."""

from __future__ import annotations

import asyncio
import json
import secrets

import pytest

from mail_proxy.domain.errors import Forbidden, StoreUnavailable, TooLarge
from mail_proxy.domain.message import MessageState, NewMessage, Priority
from mail_proxy.domain.recipient import RecipientKind
from mail_proxy.intake.intake import MAX_TRIES
from mail_proxy.intake.receipt import Receipt
from tests.flows.intake_fakes import Desk, item


@pytest.fixture
async def desk() -> Desk:
    return await Desk().opened()


def codes(receipt: Receipt) -> list[tuple[int, str | None, str]]:
    return [(one.index, one.field, one.code) for one in receipt.rejected]


# What the queue gets


async def test_an_accepted_message_carries_all_that_sending_it_takes(desk: Desk) -> None:
    submitted = item(
        cc="carla@example.org, Anna <anna@example.org>",
        bcc=["dan@example.org"],
        priority="high",
        batch_code="june",
        expires_ts=desk.clock.now() + 60,
        metadata={"customer": 4711},
    )
    receipt = await desk.intake.submit("acme", [submitted])

    assert receipt == Receipt(queued=1)
    assert receipt.ok
    message = desk.queued()
    assert (message.tenant_id, message.id, await desk.account_id(message)) == ("acme", "M1", "main")
    assert message.priority == Priority.HIGH
    assert message.batch_code == "june"
    assert message.created_ts == message.identity.date == desk.clock.now()
    assert message.due is None
    assert message.expires_ts == desk.clock.now() + 60
    assert message.identity.mail_id == "M1"
    assert message.recipients == (
        ("anna@example.org", RecipientKind.TO),
        ("carla@example.org", RecipientKind.CC),
        ("dan@example.org", RecipientKind.BCC),
    )
    assert json.loads(message.fields) == submitted
    assert list(json.loads(message.fields)) == list(submitted)


async def test_a_message_id_is_made_once_at_the_senders_domain(desk: Desk) -> None:
    await desk.intake.submit("acme", [item(), item(id="M2", from_="root@localhost"), item(id="M3", message_id="<x@y>")])
    assert desk.queued("M1").identity.message_id == f"{1:032x}@example.com"
    assert desk.queued("M2").identity.message_id == f"{2:032x}@relay.example"
    assert desk.queued("M3").identity.message_id == "x@y"


async def test_message_ids_are_left_to_chance() -> None:
    made = set()
    for _ in range(3):
        desk = await Desk(random_hex=secrets.token_hex).opened()
        await desk.intake.submit("acme", [item()])
        made.add(desk.queued().identity.message_id)
    assert len(made) == 3


@pytest.mark.parametrize(
    ("own", "batch", "expected"),
    [
        (None, None, Priority.LOW),
        (None, Priority.IMMEDIATE, Priority.IMMEDIATE),
        (0, Priority.HIGH, Priority.IMMEDIATE),
        ("immediate", Priority.HIGH, Priority.IMMEDIATE),
        ("high", None, Priority.HIGH),
        ("medium", None, Priority.MEDIUM),
        (3, None, Priority.LOW),
    ],
)
async def test_the_messages_priority_goes_before_the_batchs_and_that_before_the_instances(
    own: object, batch: Priority | None, expected: Priority
) -> None:
    desk = await Desk(default_priority=Priority.LOW).opened()
    await desk.intake.submit("acme", [item(priority=own)], batch)
    assert desk.queued().priority == expected


async def test_a_time_to_come_schedules_a_message_and_a_past_one_does_not(desk: Desk) -> None:
    now = desk.clock.now()
    await desk.intake.submit(
        "acme", [item(id="later", deferred_ts=now + 5), item(id="now", deferred_ts=now), item(id="past", deferred_ts=0)]
    )
    assert desk.queued("later").due == now + 5
    assert desk.queued("now").due is None
    assert desk.queued("past").due is None


# Every item is accounted for


async def test_one_bad_item_does_not_spoil_its_neighbours(desk: Desk) -> None:
    items: list[object] = [item(id=f"M{n}") for n in range(50)]
    items[17] = item(id="M17", to="nobody")
    receipt = await desk.intake.submit("acme", items)

    assert receipt.ok
    assert receipt.queued == 49
    (rejected,) = receipt.rejected
    assert (rejected.index, rejected.id, rejected.field, rejected.code) == (17, "M17", "to", "invalid")
    assert "nobody" in rejected.reason
    assert len(desk.queue.calls) == 1, "one batch is one transaction"  # G2


async def test_every_item_is_answered_exactly_once_in_its_place(desk: Desk) -> None:
    await desk.intake.submit("acme", [item(id="same"), item(id="other")])
    items: list[object] = [
        item(id="same"),
        item(id="other", subject="changed"),
        item(id="new"),
        None,
        5,
        item(id="unknown", account_id="none"),
        item(id="bad", subject=...),
    ]
    receipt = await desk.intake.submit("acme", items)
    assert receipt.ok
    assert receipt.queued == 1
    assert receipt.duplicates == ("same",)
    assert receipt.replaced == ("other",)
    assert codes(receipt) == [
        (3, None, "invalid"),
        (4, None, "invalid"),
        (5, "account_id", "unknown_account"),
        (6, "subject", "invalid"),
    ]
    assert [one.id for one in receipt.rejected] == [None, None, "unknown", "bad"]


async def test_a_batch_of_nothing_but_bad_items_is_not_ok_and_stores_nothing(desk: Desk) -> None:
    receipt = await desk.intake.submit("acme", [item(to=[])])
    assert not receipt.ok
    assert desk.queue.calls == []
    assert desk.woken == []


async def test_a_repeated_message_is_a_duplicate_also_when_its_time_has_passed_meanwhile(desk: Desk) -> None:
    """Who did not get the answer must not be told that the message was refused."""  # G3
    end = desk.clock.now() + 60
    submitted = item(expires_ts=end)
    await desk.intake.submit("acme", [submitted])
    desk.clock.jump(60)
    receipt = await desk.intake.submit(
        "acme", [submitted, item(expires_ts=end, body="other"), item(id="M2", expires_ts=end)]
    )
    assert (receipt.queued, receipt.duplicates) == (0, ("M1",))
    assert codes(receipt) == [(1, "expires_ts", "invalid"), (2, "expires_ts", "invalid")]


async def test_an_empty_batch_is_ok(desk: Desk) -> None:
    assert (await desk.intake.submit("acme", [])).ok


@pytest.mark.parametrize(
    ("state", "attempts", "code"),
    [
        (MessageState.READY, 1, "already_taken"),
        (MessageState.SENDING, 1, "already_taken"),
        (MessageState.SENT, 1, "already_sent"),
        (MessageState.FAILED, 5, "already_failed"),
        (MessageState.EXPIRED, 0, "already_expired"),
        (MessageState.CANCELLED, 0, "already_cancelled"),
    ],
)
async def test_other_content_for_a_message_on_its_way_is_refused_with_its_state(
    desk: Desk, state: MessageState, attempts: int, code: str
) -> None:
    await desk.intake.submit("acme", [item()])
    desk.queue.state, desk.queue.attempts = state, attempts
    receipt = await desk.intake.submit("acme", [item(), item(subject="changed")])
    assert receipt.duplicates == ("M1",)
    assert codes(receipt) == [(1, "id", code)]
    assert code.removeprefix("already_") in receipt.rejected[0].reason or code == "already_taken"
    assert receipt.ok


async def test_the_same_id_twice_in_a_batch_is_taken_in_order(desk: Desk) -> None:
    receipt = await desk.intake.submit("acme", [item(), item(), item(subject="second")])
    assert (receipt.queued, receipt.duplicates, receipt.replaced) == (1, ("M1",), ("M1",))
    assert json.loads(desk.queued().fields)["subject"] == "second"


async def test_a_repeated_batch_is_all_duplicates_whatever_the_order_of_its_keys(desk: Desk) -> None:
    first = item(headers={"X-A": "1", "X-B": "2"}, metadata={"a": 1, "b": {"c": 2, "d": 3}})
    again = dict(reversed(first.items())) | {"metadata": {"b": {"d": 3, "c": 2}, "a": 1}, "cc": None}
    await desk.intake.submit("acme", [first])
    await desk.clock.advance(60)
    receipt = await desk.intake.submit("acme", [again, first | {"tenant_id": "acme"}])
    assert receipt.duplicates == ("M1", "M1")  # G3


@pytest.mark.parametrize(
    "change",
    [
        {"subject": "x"},
        {"body": "x"},
        {"to": ["bob@example.org"]},
        {"priority": 1},
        {"metadata": {}},
        {"account_id": "bulk"},
        {"batch_code": "x"},
        {"deferred_ts": 1},
        {"headers": {}},
    ],
)
async def test_a_change_of_any_field_is_other_content(desk: Desk, change: dict[str, object]) -> None:
    await desk.intake.submit("acme", [item()])
    assert (await desk.intake.submit("acme", [item(**change)])).replaced == ("M1",)


# Whose message it is


async def test_tenants_have_ids_of_their_own(desk: Desk) -> None:
    assert (await desk.intake.submit("acme", [item()])).queued == 1
    assert (await desk.intake.submit("globex", [item(account_id="only")])).queued == 1
    assert desk.queued("M1", "acme") is not desk.queued("M1", "globex")


@pytest.mark.parametrize("named", ["globex", "unknown", "", "ACME"])
async def test_a_tenants_token_with_another_tenants_id_in_any_item_refuses_the_whole_batch(
    desk: Desk, named: str
) -> None:
    with pytest.raises(Forbidden) as refused:
        await desk.intake.submit("acme", [item(), {"tenant_id": named, "nonsense": 1}])
    assert refused.value.code == "wrong_tenant"
    assert desk.queue.calls == []


async def test_a_tenants_token_never_reaches_another_tenants_account(desk: Desk) -> None:
    receipt = await desk.intake.submit("acme", [item(account_id="only")])
    assert codes(receipt) == [(0, "account_id", "unknown_account")]


async def test_the_admin_names_the_tenant(desk: Desk) -> None:
    receipt = await desk.intake.submit(None, [item(tenant_id="acme"), item(tenant_id="globex", account_id="bulk")])
    assert receipt.queued == 2
    assert await desk.account_id(desk.queued("M1", "globex")) == "bulk"


@pytest.mark.parametrize(
    ("fields", "field", "code"),
    [
        ({}, "tenant_id", "tenant_required"),
        ({"account_id": "bulk"}, "tenant_id", "tenant_required"),
        ({"account_id": "nowhere"}, "account_id", "unknown_account"),
        ({"tenant_id": "nobody"}, "tenant_id", "unknown_tenant"),
        ({"tenant_id": ""}, "tenant_id", "unknown_tenant"),
        ({"tenant_id": 5}, "tenant_id", "invalid"),
        ({"tenant_id": "globex"}, "account_id", "no_default_account"),
        ({"tenant_id": "globex", "account_id": "main"}, "account_id", "unknown_account"),
    ],
)
async def test_what_the_admin_leaves_open_is_refused(
    desk: Desk, fields: dict[str, object], field: str, code: str
) -> None:
    assert codes(await desk.intake.submit(None, [item(**fields)])) == [(0, field, code)]


async def test_an_account_that_only_one_tenant_has_tells_the_tenant(desk: Desk) -> None:
    receipt = await desk.intake.submit(None, [item(account_id="only"), item(id="M2", account_id="main")])
    assert receipt.queued == 2
    assert ("globex", "M1") in desk.queue.messages
    assert ("acme", "M2") in desk.queue.messages


async def test_the_only_tenant_is_meant_where_there_is_one(desk: Desk) -> None:
    desk.directory.remove("globex")
    await desk.directory.refresh()
    receipt = await desk.intake.submit(None, [item(), item(id="M2", account_id="nowhere")])
    assert await desk.account_id(desk.queued()) == "main"
    assert codes(receipt) == [(1, "account_id", "unknown_account")]


@pytest.mark.parametrize(
    ("accounts", "default", "taken"),
    [(["a", "b"], "b", "b"), (["a"], None, "a"), (["a", "b"], None, None), ([], None, None)],
)
async def test_the_default_account_is_the_marked_one_else_the_only_one(
    desk: Desk, accounts: list[str], default: str | None, taken: str | None
) -> None:
    desk.directory.put("initech", accounts, default=default)
    await desk.directory.refresh()
    receipt = await desk.intake.submit("initech", [item()])
    if taken is None:
        assert codes(receipt) == [(0, "account_id", "no_default_account")]
    else:
        assert await desk.account_id(desk.queued("M1", "initech")) == taken


@pytest.mark.parametrize("caller", [None, "acme"])
async def test_an_inactive_tenants_messages_are_rejected(desk: Desk, caller: str | None) -> None:
    desk.directory.put("acme", ["main"], active=False)
    await desk.directory.refresh()
    receipt = await desk.intake.submit(caller, [item(tenant_id="acme")])
    assert codes(receipt) == [(0, "tenant_id", "tenant_inactive")]


async def test_a_tenant_deleted_behind_its_token_is_unknown(desk: Desk) -> None:
    desk.directory.remove("acme")
    await desk.directory.refresh()
    assert codes(await desk.intake.submit("acme", [item()])) == [(0, "tenant_id", "unknown_tenant")]


# The directory changes meanwhile


async def test_a_change_before_the_commit_makes_the_batch_looked_at_again(desk: Desk) -> None:
    async def switch_off() -> None:
        desk.queue.before = None
        desk.directory.put("acme", ["main"], active=False)

    desk.queue.before = switch_off
    receipt = await desk.intake.submit("acme", [item()])
    assert codes(receipt) == [(0, "tenant_id", "tenant_inactive")]
    assert desk.queue.messages == {}


async def test_the_second_look_keeps_identity_and_digest(desk: Desk) -> None:
    async def touch() -> None:
        desk.directory.put("acme", ["main"])
        if len(desk.queue.calls) == 2:
            desk.queue.before = None

    desk.queue.before = touch
    assert (await desk.intake.submit("acme", [item()])).queued == 1
    seen: list[NewMessage] = [call[0] for call in desk.queue.calls]
    assert len(seen) == 3
    assert len({(message.identity, message.digest) for message in seen}) == 1


async def test_an_account_that_another_instance_just_made_is_found(desk: Desk) -> None:
    desk.directory.put("acme", ["main", "fresh"], default="main")
    assert (await desk.intake.submit("acme", [item(account_id="fresh")])).queued == 1


async def test_an_account_that_never_rests_ends_as_store_unavailable(desk: Desk) -> None:
    async def touch() -> None:
        desk.directory.put("acme", ["bulk", "main"], default="main")  # made anew each time

    desk.queue.before = touch
    with pytest.raises(StoreUnavailable):
        await desk.intake.submit("acme", [item()])
    assert len(desk.queue.calls) == MAX_TRIES
    assert desk.queue.messages == {}
    assert desk.woken == []


async def test_neighbours_that_never_rest_hold_nobody_up(desk: Desk) -> None:  # G11
    async def touch() -> None:
        desk.directory.put("initech", ["x"])

    desk.queue.before = touch
    assert (await desk.intake.submit("acme", [item()])).queued == 1
    assert len(desk.queue.calls) == 1


async def test_what_is_not_there_is_refused_while_neighbours_never_rest(desk: Desk) -> None:  # G11
    refresh = desk.directory.refresh

    async def touched() -> int:
        desk.directory.put("initech", ["x"])
        return await refresh()

    desk.directory.refresh = touched  # type: ignore[method-assign]
    (refused,) = (await desk.intake.submit("acme", [item(account_id="nowhere")])).rejected
    assert refused.code == "unknown_account"


async def test_the_directory_is_not_asked_again_while_all_is_well(desk: Desk) -> None:
    before = desk.directory.refreshed
    await desk.intake.submit("acme", [item()])
    assert desk.directory.refreshed == before


async def test_what_the_queue_raises_passes_through(desk: Desk) -> None:
    async def fail() -> None:
        raise StoreUnavailable("the disk is full")

    desk.queue.before = fail
    with pytest.raises(StoreUnavailable, match="disk is full"):
        await desk.intake.submit("acme", [item()])  # G12
    assert desk.woken == []


# Who is woken, and what the others notice


async def test_the_accounts_with_new_messages_are_woken_once_after_the_commit(desk: Desk) -> None:
    async def nobody_yet() -> None:
        assert desk.woken == []

    desk.queue.before = nobody_yet
    await desk.intake.submit("acme", [item(), item(id="M2", account_id="bulk"), item(id="M3", to=[])])
    pks = {desk.queued("M1").account_pk, desk.queued("M2").account_pk}
    assert desk.woken == [(frozenset(pks), False)]


async def test_a_duplicate_wakes_nobody(desk: Desk) -> None:
    await desk.intake.submit("acme", [item()])
    desk.woken.clear()
    await desk.intake.submit("acme", [item()])
    assert desk.woken == []


@pytest.mark.parametrize(("deferred", "urgent"), [(None, True), (10, False)])
async def test_an_immediate_message_is_urgent_unless_it_is_deferred(
    desk: Desk, deferred: float | None, urgent: bool
) -> None:
    deferred_ts = None if deferred is None else desk.clock.now() + deferred
    await desk.intake.submit("acme", [item(priority="immediate", deferred_ts=deferred_ts), item(id="M2")])
    assert [one for _, one in desk.woken] == [urgent]


async def test_more_items_than_a_batch_may_have_are_refused_as_a_whole() -> None:
    desk = await Desk(max_batch=2).opened()
    assert (await desk.intake.submit("acme", [item(id="a"), item(id="b")])).queued == 2
    with pytest.raises(TooLarge, match="at most 2"):
        await desk.intake.submit("acme", [item(id="c"), item(id="d"), item(id="e")])


async def test_a_big_batch_lets_others_have_their_turns(desk: Desk) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    receipt = await desk.intake.submit("acme", [item(id=f"M{n}") for n in range(1000)])
    counting.cancel()
    assert receipt.queued == 1000
    assert turns > 20  # G11


@pytest.mark.parametrize(
    "heavy",
    [{"body": "ä" * 200_000}, {"to": [f"é{n}@bücher{n}.example" for n in range(300)]}],
)
async def test_a_heavy_item_is_taken_like_any_other(desk: Desk, heavy: dict[str, object]) -> None:
    assert (await desk.intake.submit("acme", [item(**heavy), item(id="M2")])).queued == 2
