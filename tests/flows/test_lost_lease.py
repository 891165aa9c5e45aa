"""What was claimed before the lease was lost is never sent, whenever the answer to the claim comes."""  # G5

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from typing_extensions import override

from mail_proxy.delivery.lease import Lease, LeaseLost
from mail_proxy.domain.claim import Demand, Taking
from mail_proxy.domain.message import MessageState
from mail_proxy.domain.settlement import give_back
from tests.flows.test_delivery import Bench, FlakyQueue, bench
from tests.support.fake_clock import FakeClock
from tests.support.stores import with_account

__all__ = ["bench"]


class SlowQueue(FlakyQueue):
    """A queue whose first claim is answered long after it was committed, as to a process that was stopped."""

    held_up = False

    def answer_later(self) -> None:
        """Hold the next claim's answer up once it is committed."""
        self.committed, self.go_on = asyncio.Event(), asyncio.Event()
        self.held_up = True

    @override
    async def claim(self, demands: Sequence[Demand], token: str, now: float) -> Taking:
        taking = await super().claim(demands, token, now)
        if self.held_up and taking.claimed:
            self.held_up = False
            self.committed.set()
            await self.go_on.wait()
        return taking


async def test_a_claim_that_is_answered_after_the_lease_was_lost_is_given_back(bench: Bench) -> None:
    bench.queue = queue = SlowQueue(bench.store.database, bench.store.instance_id)
    bench.alone = False
    bench.settings = replace(bench.settings, poll_interval=0.02)
    queue.answer_later()
    account = await with_account(bench.store)
    other = FlakyQueue(bench.store.database, "other")
    async with bench.delivering() as delivery:
        await bench.submit(delivery, account, "M1", "M2")
        await queue.committed.wait()
        # The others take it for dead, and one of them sends what it had.
        rescued = await other.rescue([bench.store.instance_id], 10)
        assert len(rescued) == 2
        await other.settle([give_back(claimed, bench.clock.now()) for claimed in rescued])
        taken = (await other.claim([Demand(account.pk, 1)], "others", bench.clock.now())).claimed
        bench.clock.skip(70)  # as while a process is stopped: beyond the lease of a minute
        await bench.until_state("M1", MessageState.SENDING)
        queue.go_on.set()

        async def sent() -> bool:
            await other.beat(bench.clock.now())  # it lives
            return bool(bench.transport.messages)

        await bench.until(sent, seconds=0.1)
        assert bench.sent_ids == ["M2"]  # M1 is in the hands of the other one
        assert (await bench.details("M1")).state is MessageState.SENDING
        await other.release(taken)


async def test_the_lease_counts_from_when_the_counter_was_asked_to_be_raised() -> None:
    clock = FakeClock()
    lease = Lease(clock, 60.0)
    term = lease.term
    asked = clock.monotonic()
    await clock.advance(50)  # the database took its time, or the process was stopped meanwhile
    lease.renewed(asked)
    waiting = asyncio.create_task(lease.look(term))
    await clock.advance(1)
    assert not waiting.done()  # others may have seen that counter 51 s ago
    lease.renewed(clock.monotonic())
    await waiting


async def test_an_instance_that_others_had_forgotten_begins_a_new_term() -> None:
    clock = FakeClock()
    lease = Lease(clock, 60.0)
    term = lease.term
    lease.renewed(clock.monotonic(), forgotten=True)
    with pytest.raises(LeaseLost):
        await lease.look(term)
