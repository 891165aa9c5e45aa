"""The bytes of messages in an instance's hands: who may take up more, and that nothing waits for ever."""  # G11

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from mail_proxy.delivery.delivery import Delivery
from mail_proxy.delivery.in_hand import LIGHT, InHand
from mail_proxy.domain.account import Account
from mail_proxy.domain.attempt import HostFailed
from mail_proxy.domain.claim import HELPING, Claimed
from mail_proxy.domain.message import Identity, MessageState
from mail_proxy.smtp.capture import CaptureTransport
from mail_proxy.store.opening import database_url
from tests.flows.test_delivery import SETTINGS, Bench, FlakyQueue
from tests.support.fake_clock import FakeClock
from tests.support.stores import open_test_store, ready_made, with_account

MB = 1_000_000
MOST = 20 * MB
HEAVY_ROOM = MOST * 4 // 5


def a_claim(tenant_id: str, size: int) -> Claimed:
    return Claimed(1, "t", tenant_id, 1, "main", 2, None, 1, 0.0, 0.0, None, "x" * size, Identity("M", "M@x", 0.0), ())


BIG, HUGE, SMALL = (a_claim("greedy", size) for size in (MB, 90 * MB, LIGHT))


def test_a_tenant_alone_gets_half_of_the_room_and_two_a_third_each() -> None:
    in_hand, counts = InHand(MOST), [0, 0]
    while in_hand.heaviest("greedy", 1) is None:
        in_hand.take(BIG)
        counts[0] += 1
    assert counts[0] == HEAVY_ROOM // MB // 2
    while in_hand.heaviest("newcomer", 2) is None:
        in_hand.take(a_claim("newcomer", MB))
        counts[1] += 1
    assert counts[1] == HEAVY_ROOM // MB // 4
    assert in_hand.heaviest("third", 3) is None
    assert in_hand.bytes == sum(counts) * MB


def test_where_heavy_ones_take_all_light_ones_may_still_be_taken() -> None:
    in_hand = InHand(MOST)
    in_hand.take(HUGE)
    assert in_hand.heaviest("greedy", 1) == LIGHT
    assert in_hand.heaviest("other", 2) == LIGHT


def test_a_message_larger_than_everything_goes_when_nothing_is_in_hand() -> None:
    in_hand = InHand(MOST)
    assert in_hand.heaviest("greedy", 1) is None
    in_hand.take(HUGE)
    in_hand.left_heavy(1)
    assert in_hand.heaviest("greedy", 1) == 0
    assert list(in_hand.give_back(HUGE)) == [1]
    assert in_hand.heaviest("greedy", 1) is None


def test_nobody_asks_again_for_an_account_behind_a_heavy_message_until_there_is_room_for_it() -> None:
    in_hand = InHand(MOST)
    for _ in range(10):
        in_hand.take(BIG)
    in_hand.left_heavy(1)
    assert in_hand.heaviest("greedy", 1) == 0
    in_hand.take(SMALL)
    assert [list(in_hand.give_back(each)) for each in (SMALL, BIG, BIG, BIG)] == [[], [], [], [1]]
    assert not in_hand.give_back(BIG)  # told once


def test_what_overtakes_a_heavy_message_is_asked_for() -> None:
    in_hand = InHand(MOST)
    in_hand.take(HUGE)
    in_hand.left_heavy(1)
    in_hand.look_again(1)
    assert in_hand.heaviest("greedy", 1) == LIGHT


def test_light_ones_have_a_bound_as_well() -> None:
    in_hand = InHand(MOST)
    while in_hand.heaviest("greedy", 1):
        pass
    taken = 0
    while in_hand.heaviest("greedy", 1) != 0:
        in_hand.take(SMALL)
        taken += 1
    assert taken * LIGHT == (MOST - HEAVY_ROOM) // 2
    assert in_hand.heaviest("other", 2) is None
    assert list(in_hand.give_back(SMALL)) == [1]


def test_whatever_is_taken_and_given_back_nobody_waits_for_ever() -> None:
    rng, in_hand = Random(1), InHand(MOST)
    taken: list[Claimed] = []
    waiting: set[int] = set()
    for _ in range(3000):
        account_pk = rng.randrange(6)
        tenant_id = f"tenant {account_pk // 2}"
        size = rng.choice((1, LIGHT, MB, 5 * MB))
        heaviest = in_hand.heaviest(tenant_id, account_pk)
        if heaviest is None or size <= heaviest:
            taken.append(a_claim(tenant_id, size))
            in_hand.take(taken[-1])
        elif heaviest:
            in_hand.left_heavy(account_pk)
        else:
            waiting.add(account_pk)
        if taken and rng.random() < 0.4:
            waiting -= set(in_hand.give_back(taken.pop(rng.randrange(len(taken)))))
        assert in_hand.bytes == sum(len(each.fields) for each in taken) <= MOST + 2 * 5 * MB
    assert waiting
    for each in taken:
        waiting -= set(in_hand.give_back(each))
    assert not waiting
    assert in_hand.bytes == 0


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    clock = FakeClock(now=1_800_000_000.0)
    store = await open_test_store(ready_made(database_url(str(tmp_path / "mail.db"))), clock=clock)  # type: ignore[arg-type]  # both keep the port
    settings = replace(SETTINGS, batch_size=100, max_sending=MOST, poll_interval=1000.0)
    queue = FlakyQueue(store.database, store.instance_id)
    yield Bench(store, queue, CaptureTransport(), clock, tmp_path / "flight-0.log", settings)
    await store.close()


async def submit(bench: Bench, delivery: Delivery, account: Account, *ids: str, size: int, priority: int = 2) -> None:
    fields = {"from": "a@example.com", "to": ["b@example.net"], "subject": "S", "body": "B" * size}
    await bench.submit(delivery, account, *ids, fields=json.dumps(fields), priority=priority)


async def in_hand_of(bench: Bench, ids: list[str]) -> int:
    return [(await bench.details(id_)).state for id_ in ids].count(MessageState.SENDING)


async def test_large_messages_are_taken_up_as_others_are_done_and_hold_up_nobody(bench: Bench) -> None:
    greedy = await with_account(bench.store, max_connections=100)
    second = await with_account(bench.store, account_id="second", max_connections=100)
    other = await with_account(bench.store, "other", max_connections=100)
    large = [f"L{n}" for n in range(30)]
    bench.transport.gate.clear()
    async with bench.delivering() as delivery:
        await submit(bench, delivery, greedy, *large, size=MB)
        share = HEAVY_ROOM // 2 // MB
        await bench.until_begun(share)
        # each waits at the gate too, but is in hand: what is small goes, whosever it is, and one that overtakes
        await submit(bench, delivery, second, "small of the same", size=10)
        await bench.until_begun(share + 1)
        await submit(bench, delivery, greedy, "urgent", size=10, priority=0)
        await bench.until_begun(share + 2)
        await submit(bench, delivery, other, "small", size=10)
        await bench.until_begun(share + 3)
        await submit(bench, delivery, other, "large of another", size=MB)
        await bench.until_begun(share + 4)
        assert share <= await in_hand_of(bench, large) <= share + HELPING // MB + 1
        assert bench.transport.begun <= share + 4 + HELPING // MB + 1
        waiting = await bench.details(large[-1])
        assert (waiting.state, waiting.attempts) == (MessageState.READY, 0)
        bench.transport.gate.set()
        for id_ in large:  # the queue is not looked at meanwhile: each that is done calls the next
            assert (await bench.until_state(id_, MessageState.SENT)).attempts == 1
        assert not delivery.dispatcher.busy
        assert delivery.dispatcher.bytes_in_hand == 0


async def test_what_is_put_back_or_given_back_leaves_no_room_taken(bench: Bench) -> None:
    account = await with_account(bench.store, max_connections=2)
    large = [f"L{n}" for n in range(12)]
    async with bench.delivering() as delivery:
        bench.transport.failure = HostFailed("no route", shared=True)  # no fault of the messages: put back, given back
        await submit(bench, delivery, account, *large, size=MB)
        await bench.until_begun(1)

        async def nothing_in_hand() -> bool:
            return not delivery.dispatcher.busy and not await in_hand_of(bench, large)

        await bench.until(nothing_in_hand)
        assert delivery.dispatcher.bytes_in_hand == 0
        bench.transport.failure = None
        for id_ in large:
            await bench.until_state(id_, MessageState.SENT, seconds=1)
        assert delivery.dispatcher.bytes_in_hand == 0
    assert delivery.dispatcher.bytes_in_hand == 0


async def test_a_stop_gives_the_room_back_with_the_messages(bench: Bench) -> None:
    account = await with_account(bench.store, max_connections=2)
    large = [f"L{n}" for n in range(12)]
    bench.transport.gate.clear()
    bench.settings = replace(bench.settings, grace=0.0)
    async with bench.delivering() as delivery:
        await submit(bench, delivery, account, *large, size=MB)
        await bench.until_begun(2)
        assert delivery.dispatcher.bytes_in_hand >= 2 * MB
    assert delivery.dispatcher.bytes_in_hand == 0
    assert {(await bench.details(id_)).state for id_ in large} == {MessageState.READY}
