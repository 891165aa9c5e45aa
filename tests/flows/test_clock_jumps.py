"""The wall clock jumps below SQLite, where there is no other: nothing is lost, nothing is sent twice."""  # G14

from __future__ import annotations

import pytest

from mail_proxy.domain.message import MessageState
from tests.flows.test_delivery import Bench, bench
from tests.support.stores import with_account

__all__ = ["bench"]

HOUR = 3600.0


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
async def test_a_message_that_waits_for_its_retry_is_sent_once(bench: Bench, jump: float) -> None:
    account = await with_account(bench.store)
    async with bench.delivering() as delivery:
        bench.transport.silent = True
        await bench.submit(delivery, account, "M1")
        await bench.until_state("M1", MessageState.SCHEDULED)
        bench.transport.silent = False
        bench.clock.jump(jump)
        sent = await bench.until_state("M1", MessageState.SENT, seconds=10)
        assert sent.attempts == 2  # a jump costs no attempt
    assert bench.sent_ids == ["M1"]


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
async def test_a_clients_absolute_time_goes_by_the_clock_as_it_is_set_now(bench: Bench, jump: float) -> None:
    account = await with_account(bench.store)
    due = bench.clock.now() + HOUR / 2
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, "M1", due=due)
        bench.clock.jump(jump)
        await bench.until_state("M1", MessageState.SENT, seconds=60)
        assert bench.clock.now() >= due
    assert bench.sent_ids == ["M1"]


async def test_what_expires_does_so_by_the_clock_as_it_is_set_now(bench: Bench) -> None:
    account = await with_account(bench.store)
    expires_ts = bench.clock.now() + HOUR / 2
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, "M1", due=expires_ts + HOUR, expires_ts=expires_ts)
        bench.clock.jump(-HOUR)
        await bench.clock.advance(HOUR)
        assert (await bench.details("M1")).state is MessageState.SCHEDULED
        bench.clock.jump(HOUR)
        await bench.until_state("M1", MessageState.EXPIRED, seconds=1)
    assert bench.sent_ids == []


async def test_an_hour_counts_for_no_more_than_an_hour_of_the_five_days(bench: Bench) -> None:
    account = await with_account(bench.store)
    async with bench.delivering() as delivery:
        bench.transport.silent = True
        await bench.submit(delivery, account, "M1")
        await bench.until_state("M1", MessageState.SCHEDULED)
        bench.transport.silent = False
        bench.clock.jump(4 * 24 * HOUR)
        await bench.until_state("M1", MessageState.SENT, seconds=1)
