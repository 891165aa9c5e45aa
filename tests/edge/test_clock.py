"""Instances on one PostgreSQL agree on the time, whatever the clocks of their machines do."""  # G14

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.runtime.clock import ASK_EVERY, DatabaseClock
from tests.support.fake_clock import FakeClock, settled
from tests.support.stores import open_test_store

TRUE = 1_800_000_000.0


class Server:
    """A database's clock, which does not stand still while it is asked."""

    def __init__(self, machine: FakeClock) -> None:
        self._machine = machine
        self._ahead = TRUE - machine.monotonic()
        self.way_there = self.way_back = 0.0
        self.away = False

    def __call__(self) -> float:
        return self._machine.monotonic() + self._ahead

    def jump(self, seconds: float) -> None:
        self._ahead += seconds

    async def time(self) -> float:
        if self.away:
            raise StoreUnavailable("the database does not answer")
        await self._machine.sleep(self.way_there)
        now = self()
        await self._machine.sleep(self.way_back)
        return now


async def asked(clock: DatabaseClock, machine: FakeClock, time: Callable[[], Awaitable[float]]) -> None:
    asking = asyncio.create_task(clock.ask(time))
    await settled()
    await machine.advance(10)
    await asking


@pytest.fixture
def machine() -> FakeClock:
    return FakeClock(now=TRUE - 3600)  # an hour slow


async def test_a_machine_whose_clock_is_an_hour_off_goes_by_the_databases(machine: FakeClock) -> None:
    clock, server = DatabaseClock(machine), Server(machine)
    await clock.ask(server.time)
    assert clock.now() == pytest.approx(server())


@pytest.mark.parametrize("jump", [3600, -3600])
async def test_a_jump_of_the_machines_clock_does_not_matter(machine: FakeClock, jump: float) -> None:
    clock, server = DatabaseClock(machine), Server(machine)
    await clock.ask(server.time)
    machine.jump(jump)
    assert clock.now() == pytest.approx(server())
    await machine.advance(100)
    assert clock.now() == pytest.approx(server())


async def test_an_answer_that_takes_long_moves_nothing_that_agrees_with_it(machine: FakeClock) -> None:
    clock, server = DatabaseClock(machine), Server(machine)
    await clock.ask(server.time)
    for server.way_there, server.way_back in ((4.0, 0.0), (0.0, 4.0), (2.0, 2.0)):
        await asked(clock, machine, server.time)
        assert clock.now() == pytest.approx(server())


async def test_the_first_answer_is_off_by_no_more_than_it_took(machine: FakeClock) -> None:
    clock, server = DatabaseClock(machine), Server(machine)
    server.way_there, server.way_back = 1.0, 3.0
    await asked(clock, machine, server.time)
    assert abs(clock.now() - server()) <= 4.0


async def test_the_databases_own_jump_is_followed_within_seconds_and_its_absence_bridged(machine: FakeClock) -> None:
    clock, server = DatabaseClock(machine), Server(machine)
    await clock.ask(server.time)
    keeping = asyncio.create_task(clock.keep_asking(server.time))
    server.jump(-60)
    await machine.advance(ASK_EVERY)
    assert clock.now() == pytest.approx(server())
    server.away = True
    await machine.advance(100)
    assert clock.now() == pytest.approx(server())
    server.away = False
    server.jump(30)
    await machine.advance(ASK_EVERY)
    assert clock.now() == pytest.approx(server())
    keeping.cancel()


async def test_two_instances_on_one_postgresql_agree(postgres_url: str) -> None:
    store = await open_test_store(postgres_url)
    clocks = [DatabaseClock(FakeClock(now=now)) for now in (TRUE, TRUE - 3600, 0.0)]
    for clock in clocks:
        await clock.ask(store.time)
    times = [clock.now() for clock in clocks]
    assert max(times) - min(times) < 60  # the clocks stand still while the server's goes on
    await store.close()
