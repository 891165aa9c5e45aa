"""Endpoints that hang or are slow, however many there are of them, do not hold up those that answer."""  # G11

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mail_proxy.ports.report_sink import SinkAnswer
from mail_proxy.reporting.settings import ReportingSettings
from tests.support.fake_clock import FakeClock
from tests.support.reporting import OK, MemoryDirectory, Office, answer, event, tenant

DOWN = SinkAnswer(None, b"", error="no answer in 30 s")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def an_office(clock: FakeClock, **settings: Any) -> Office:
    """A reporter with few places, and one tenant whose endpoint answers."""
    few = ReportingSettings(sync_interval=1e9, shutdown_grace=0.0, parallel=2, parallel_slow=3)
    return Office(clock, MemoryDirectory(tenant()), replace(few, **settings))


def put(office: Office, names: list[str], seconds: float, given: SinkAnswer, text: str = "") -> None:
    """Add tenants with one event each, whose endpoints answer after so many seconds."""

    async def late() -> SinkAnswer:
        await office.clock.sleep(seconds)
        return given

    for n, name in enumerate(names):
        office.directory.put(tenant(name))
        office.sink.by_default[name] = late
        office.outbox.write(event(1000 + n, tenant_id=name, text=text))


def delay(office: Office, written_at: float) -> float:
    """How long the tenant's last report took to come."""
    return office.sink.to("acme")[-1].at - written_at


@pytest.mark.parametrize("count", [3, 40])
async def test_endpoints_that_hang_when_they_are_asked_for_the_first_time_give_their_places_up(
    clock: FakeClock, count: int
) -> None:
    office = an_office(clock)
    put(office, [f"dead{n}" for n in range(count)], 30.0, DOWN)
    async with office.running():
        await clock.advance(0.1)
        assert office.sink.at_once == 2  # all places are taken
        office.write(event(1))
        # those that are asked before it hold the two places for half a second each
        await clock.advance(0.2 + 0.6 * (1 + count // 2))
        assert office.outbox.unreported() == []
        for n in range(20):
            start = clock.monotonic()
            office.write(event(n))
            await clock.advance(1.0)
            assert delay(office, start) < 0.21


async def test_an_endpoint_whose_report_was_broken_off_gets_its_whole_time_later(clock: FakeClock) -> None:
    office = an_office(clock, parallel=1, parallel_slow=1)
    put(office, ["dead0", "dead1"], 30.0, DOWN)
    put(office, ["tardy"], 20.0, OK)
    async with office.running():
        await clock.advance(200)
        assert office.outbox.unreported("tardy") == []
        assert office.reporter.status("tardy").consecutive_failures == 0


async def test_endpoints_that_answer_late_each_time_keep_to_places_of_their_own(clock: FakeClock) -> None:
    office = an_office(clock)
    tardy = [f"tardy{n}" for n in range(10)]
    put(office, tardy, 5.0, OK)
    async with office.running():
        await clock.advance(60)
        assert all(office.outbox.unreported(name) == [] for name in tardy)
        for n in range(10):
            for name in tardy:
                office.write(event(n, tenant_id=name))
            start = clock.monotonic()
            office.write(event(n))
            await clock.advance(20)
            assert delay(office, start) == pytest.approx(0.2)
        # and those that are dead take none of them
        put(office, [f"dead{n}" for n in range(40)], 30.0, DOWN)
        await clock.advance(60)
        office.write(event(99, tenant_id="tardy0"))
        await clock.advance(5.5)
        assert office.outbox.unreported("tardy0") == []


async def test_an_endpoint_that_has_become_prompt_again_counts_as_such(clock: FakeClock) -> None:
    office = an_office(clock, parallel_slow=1)
    put(office, ["changing", "tardy"], 5.0, OK)
    async with office.running():
        await clock.advance(30)
        del office.sink.by_default["changing"]
        office.write(event(1, tenant_id="changing"))
        await clock.advance(1)
        office.write(event(2, tenant_id="tardy"))
        await clock.advance(1)
        office.write(event(3, tenant_id="changing"))
        await clock.advance(0.2)
        assert office.outbox.unreported("changing") == []


async def test_a_tenant_with_a_long_backlog_lets_others_pass(clock: FakeClock) -> None:
    office = an_office(clock, parallel=1)
    put(office, ["long"], 0.3, OK)
    office.outbox.write(*(event(n, tenant_id="long") for n in range(5000)))
    async with office.running():
        await clock.advance(0.1)
        start = clock.monotonic()
        office.write(event(1))
        await clock.advance(1)
        assert delay(office, start) < 0.6  # the one report that is on its way
        assert len(office.outbox.unreported("long")) > 2000


async def test_reports_that_hang_hold_so_many_bytes_and_no_more(clock: FakeClock) -> None:
    office = an_office(clock, parallel=3, parallel_slow=50, max_bytes=100_000, max_bytes_at_once=300_000)
    names = [f"dead{n}" for n in range(60)]
    put(office, names, 30.0, DOWN, text="x" * 90_000)
    async with office.running():
        await clock.advance(90)
        start = clock.monotonic()
        office.write(event(1))
        await clock.advance(20)
        assert delay(office, start) < 1
        # three that are asked for the first time, and three that are in doubt
        assert office.sink.most_at_once <= 6


async def test_a_report_that_is_larger_than_the_room_for_all_goes_out(clock: FakeClock) -> None:
    office = an_office(clock, max_bytes_at_once=1000)
    office.outbox.write(event(1, text="x" * 5000))
    async with office.running():
        await clock.advance(1)
        assert office.outbox.unreported() == []


async def test_a_stop_ends_those_who_wait_for_a_place_at_once(clock: FakeClock) -> None:
    office = an_office(clock)
    put(office, [f"dead{n}" for n in range(20)], 30.0, DOWN)
    async with office.running():
        await clock.advance(3)
    assert len(office.sink.deliveries) < 20
    office.sink.by_default.clear()
    office.reporter = office.new_reporter()
    async with office.running():
        await clock.advance(1)
        assert not any(office.outbox.unreported(f"dead{n}") for n in range(20))


async def test_run_now_is_heard_while_all_places_are_taken(clock: FakeClock) -> None:
    office = an_office(clock, parallel=1, parallel_slow=1)
    put(office, ["dead0", "dead1"], 30.0, DOWN)
    async with office.running():
        await clock.advance(3)
        office.sink.script(answer({}, status=200), tenant_id="acme")
        office.reporter.wake("acme")
        await clock.advance(1)
        assert [each.entries for each in office.sink.to("acme")] == [[]]
