"""Several instances on one PostgreSQL: one dies for good, one is frozen, one is told to stop."""  # G5, G6

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import count
from random import Random

from tests.acceptance.tenants import Tenant, new_tenant
from tests.faults.load import all_ended, running_load
from tests.faults.sink import Sink, running_sink
from tests.faults.tally import Tally, books, copied, in_hand, lost, rows, tally, unexplained
from tests.support.instance import Instance, eventually

ACCOUNTS = ("a", "b", "c", "d")
CONNECTIONS = 2
SESSIONS = len(ACCOUNTS) * CONNECTIONS
"""SMTP sessions of one instance."""
PAUSE = 0.005
Tell = Callable[[str], None]


def say_nothing(_: str) -> None:
    """Tell nobody."""


async def with_accounts(tenant: Tenant, sink: Sink) -> None:
    """Give a tenant its accounts."""
    for name in ACCOUNTS:
        await tenant.put_account(name, sink.port, max_connections=CONNECTIONS)


async def several(instances: Sequence[Instance], messages: int, seed: int, tell: Tell = say_nothing) -> Tally:
    """Freeze one instance beyond its lease and let it go on, kill another one for good, and sum up."""
    rng, url = Random(seed), instances[0].settings["DB_PATH"]
    # The last one dies; with two of them it is the one that was frozen before.
    frozen, doomed = instances[1], instances[-1]
    async with AsyncExitStack() as stack:
        await asyncio.gather(*(each.start() for each in instances))
        sink = stack.enter_context(running_sink(instances[0].folder, PAUSE))
        acme = await stack.enter_async_context(new_tenant(instances[0]))
        await with_accounts(acme, sink)
        async with running_load(instances, acme, sink, accounts=ACCOUNTS, ahead=400, at_least=messages) as load:
            await sink.wait_for_more(messages // 6, 120)
            await asyncio.sleep(rng.uniform(0.0, 0.3))
            left = await _frozen_beyond_its_lease(frozen, url, sink)
            tell(f"frozen for {left.recovery:.1f} s and gone on: {len(sink.first)} have come")
            await sink.wait_for_more(messages // 6, 120)
            await asyncio.sleep(rng.uniform(0.0, 0.3))
            await eventually(lambda: in_hand(url, _name(doomed)), "it has something in hand")
            doomed.kill()
            recovery = await _taken_over(doomed, url)
            tell(f"killed for good, taken over in {recovery:.1f} s: {len(sink.first)} have come")
        await sink.wait_for(load.accepted, 300)
        await all_ended(url)
        kept = books(url)
        name = f"{len(instances)} instances, one frozen, one killed for good"
        result = tally(name, seed, load.accepted, kept, sink, max(recovery, left.recovery))
        assert not lost(load.accepted, kept, sink)  # G4, G6
        assert not unexplained(kept, sink)
        # What the frozen one had not begun, it must not send any more: only dots that were about to go out may.  G5
        again = [id_ for id_ in left.not_begun if sink.copies[id_] > 1]
        assert len(again) <= SESSIONS, again
    return result


@dataclass(frozen=True, slots=True)
class _Left:
    """What an instance had in hand and not begun when it was frozen, and how long it took the others to take it."""

    not_begun: Collection[str]
    recovery: float


async def _frozen_beyond_its_lease(instance: Instance, url: str, sink: Sink) -> _Left:
    await eventually(lambda: in_hand(url, _name(instance)), "it has something in hand")
    instance.freeze()
    await asyncio.sleep(2 * PAUSE)
    held = in_hand(url, _name(instance))
    sink.look()
    not_begun = frozenset(id_ for id_ in held if id_ not in sink.first)
    recovery = await _taken_over(instance, url)
    instance.thaw()
    await eventually(lambda: in_hand(url, _name(instance)), "it takes messages up again", 30)
    return _Left(not_begun, recovery)


async def _taken_over(instance: Instance, url: str) -> float:
    """Return after how many seconds nothing is in the hands of an instance any more."""
    began = time.monotonic()
    await eventually(lambda: not in_hand(url, _name(instance)), "the others take over", 60)
    return time.monotonic() - began


def _name(instance: Instance) -> str:
    """What the names of its runs begin with in the database."""
    return f"{instance.settings['INSTANCE_NAME']}-{instance.pid}-"


async def stopped(instances: Sequence[Instance], rounds: int, seed: int, tell: Tell = say_nothing) -> Tally:
    """Tell one instance after the other to stop while both are busy, and start it again."""
    rng, url = Random(seed), instances[0].settings["DB_PATH"]
    recovery = 0.0
    async with AsyncExitStack() as stack:
        await asyncio.gather(*(each.start() for each in instances))
        # Slow enough that a dot is without an answer in most sessions when the order comes.
        sink = stack.enter_context(running_sink(instances[0].folder, 4 * PAUSE))
        acme = await stack.enter_async_context(new_tenant(instances[0]))
        await with_accounts(acme, sink)
        async with running_load(instances, acme, sink, accounts=ACCOUNTS, ahead=400) as load:
            for n in range(rounds):
                instance = instances[n % len(instances)]
                recovery = max(recovery, await _told_to_stop(instance, url, sink, rng.uniform(0.0, 0.3)))
                tell(f"stop {n + 1} of {rounds}: {len(load.accepted)} accepted, {len(copied(sink))} copies")
                if n + 1 < rounds:
                    await instance.start()
        await sink.wait_for(load.accepted)
        await all_ended(url)
        kept = books(url)
        result = tally(f"SIGTERM {rounds} times, 2 instances", seed, load.accepted, kept, sink, recovery, rounds)
        assert not lost(load.accepted, kept, sink)
        assert not copied(sink)
        assert not kept.uncertain
        assert set(kept.attempts.values()) == {1}  # what was given back got its attempt back
        assert all("taken back" not in line["event"] for each in instances for line in each.read_log())
    return result


async def _told_to_stop(instance: Instance, url: str, sink: Sink, seconds: float) -> float:
    """Return how long it took from the order until all that was in its hands had come."""
    await eventually(lambda: in_hand(url, _name(instance)), "it is busy")
    await asyncio.sleep(seconds)
    held, began = in_hand(url, _name(instance)), time.monotonic()
    assert await instance.stop() == 0
    assert not in_hand(url, _name(instance))  # G6: given back, not waiting for a rescue
    await sink.wait_for(held)
    return max((sink.first[id_] for id_ in held), default=began) - began


async def frozen_in_a_transaction(instances: Sequence[Instance], seed: int, tell: Tell = say_nothing) -> Tally:
    """Freeze one of two instances while it holds locks in the database: the other one must not wait for them."""
    url = instances[0].settings["DB_PATH"]
    frozen = instances[1]
    async with AsyncExitStack() as stack:
        await asyncio.gather(*(each.start() for each in instances))
        sink = stack.enter_context(running_sink(instances[0].folder, PAUSE))
        acme = await stack.enter_async_context(new_tenant(instances[0]))
        await with_accounts(acme, sink)
        async with running_load(instances[:1], acme, sink, accounts=ACCOUNTS) as load:
            await sink.wait_for_more(50)
            for attempt in count(1):
                await eventually(lambda: in_hand(url, _name(frozen)), "it is busy")
                frozen.freeze()
                if await _holds_locks(url):
                    break
                frozen.thaw()
                await asyncio.sleep(Random(seed + attempt).uniform(0.0, 0.02))
            sink.pause(20 * PAUSE)  # there is no need for thousands of messages meanwhile
            recovery = await _taken_over(frozen, url)
            sink.pause(PAUSE)
            before = len(load.accepted)
            await sink.wait_for_more(50)
            await eventually(lambda: len(load.accepted) > before, "the other one accepts messages")
            tell(f"frozen in a transaction, taken over in {recovery:.1f} s")
            frozen.thaw()
            await eventually(lambda: in_hand(url, _name(frozen)), "it takes messages up again", 30)
        await sink.wait_for(load.accepted)
        await all_ended(url)
        kept = books(url)
        result = tally("frozen in a transaction", seed, load.accepted, kept, sink, recovery)
        assert not lost(load.accepted, kept, sink)
        assert not unexplained(kept, sink)
        assert await frozen.stop() == 0
    return result


async def _holds_locks(url: str) -> bool:
    """True when a session has stayed for a while in a transaction that writes: nobody but a frozen one does."""
    idle = (
        "SELECT count(*) FROM pg_stat_activity a JOIN pg_locks l ON l.pid = a.pid "
        "WHERE a.datname = current_database() AND a.state = 'idle in transaction' "
        "AND now() - a.state_change > interval '0.3 s' AND l.mode = 'RowExclusiveLock'"
    )
    await asyncio.sleep(0.4)
    return bool(rows(url, idle)[0][0])
