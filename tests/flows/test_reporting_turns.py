"""Reports where there are several instances: one at a time has a tenant's turn."""  # G9

from __future__ import annotations

from dataclasses import replace

import pytest

from mail_proxy.domain.sync_lease import SyncMemory
from mail_proxy.ports.report_sink import SinkAnswer
from mail_proxy.reporting.settings import ReportingSettings
from tests.support.fake_clock import FakeClock
from tests.support.reporting import OK, MemoryDirectory, Office, answer, event, tenant


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def office(clock: FakeClock) -> Office:
    """A reporter with one tenant, whose empty syncs are too rare to get in the way."""
    return Office(clock, MemoryDirectory(tenant()), ReportingSettings(sync_interval=1e9, shutdown_grace=0.0))


async def test_nothing_goes_out_while_another_instance_has_the_turn_and_then_at_once(
    clock: FakeClock, office: Office
) -> None:
    async with office.running():
        office.leases.elsewhere.add("acme")
        office.write(event(1))
        office.reporter.wake("acme")
        await clock.advance(30)
        assert office.sink.deliveries == []
        assert 4 < office.leases.asked < 10
        office.leases.elsewhere.clear()
        await clock.advance(8)
        assert [each.message_ids for each in office.sink.deliveries] == [["M1"]]


async def test_no_turn_is_taken_for_a_tenant_without_an_endpoint(clock: FakeClock, office: Office) -> None:
    office.directory.change("acme", client_base_url=None)
    async with office.running():
        office.write(event(1))
        await clock.advance(60)
        assert office.leases.asked == 0
        assert office.outbox.unreported() == [1]


async def test_an_instance_that_others_may_think_dead_sends_nothing(clock: FakeClock, office: Office) -> None:
    async with office.running():
        office.leases.term = None
        office.write(event(1))
        await clock.advance(30)
        assert office.sink.deliveries == []
        office.leases.term = 1
        await clock.advance(8)
        assert [each.message_ids for each in office.sink.deliveries] == [["M1"]]


async def test_a_turn_that_was_taken_before_a_long_silence_is_not_used(clock: FakeClock, office: Office) -> None:
    """As after a SIGSTOP between the look into the outbox and the report."""

    async def fall_silent() -> None:
        office.leases.term = 1

    async with office.running():
        pending = office.outbox.pending

        async def stopped_meanwhile(*asked: object) -> object:
            found = await pending(*asked)  # type: ignore[arg-type]  # handed through
            await fall_silent()
            return found

        office.outbox.pending = stopped_meanwhile  # type: ignore[assignment,method-assign]  # the moment that counts
        office.write(event(1))
        await clock.advance(0.5)
        assert office.sink.deliveries == []
        office.outbox.pending = pending  # type: ignore[method-assign]
        await clock.advance(2)
        assert [each.message_ids for each in office.sink.deliveries] == [["M1"]]


async def test_who_has_lost_the_turn_meanwhile_acknowledges_nothing(clock: FakeClock, office: Office) -> None:
    async with office.running():
        office.outbox.lost.add("acme")
        office.write(event(1))
        await clock.advance(0.5)
        assert len(office.sink.deliveries) == 1
        assert (office.outbox.unreported(), office.meter.acknowledged) == ([1], 0)
        office.outbox.lost.clear()
        await clock.advance(2)
        assert [each.event_ids for each in office.sink.deliveries] == [[1], [1]]
        assert office.outbox.unreported() == []


async def test_the_pauses_of_one_instance_are_kept_by_the_next(clock: FakeClock, office: Office) -> None:
    async with office.running():
        office.leases.memory = SyncMemory(failures=5, retry_at=clock.now() + 40)
        office.write(event(1))
        await clock.advance(39)
        assert office.sink.deliveries == []
        assert office.reporter.status("acme").consecutive_failures == 5
        await clock.advance(2)
        assert len(office.sink.deliveries) == 1
        assert office.leases.given_back[-1].failures == 0


async def test_why_it_fails_and_when_it_goes_on_is_handed_on(clock: FakeClock, office: Office) -> None:
    secret = "\x1b[31m" + "x" * 1000
    office.sink.script(SinkAnswer(None, b"", error=f"it breaks: {secret}"))
    async with office.running():
        office.write(event(1))
        await clock.advance(0.3)
        told = office.leases.given_back[-1]
        assert told.due == told.retry_at
        assert told.last_error is not None
        assert told.last_error.startswith("it breaks: ?[31mxxx")
        assert len(told.last_error) <= 500

        office.outbox.stored.clear()
        office.leases.memory = replace(told, retry_at=clock.now() + 40, last_error="HTTP 500")
        office.write(event(2))
        await clock.advance(20)
        assert office.reporter.status("acme").last_error == "HTTP 500"


async def test_run_now_ends_the_pause_of_another_instance(clock: FakeClock, office: Office) -> None:
    async with office.running():
        office.leases.memory = SyncMemory(failures=5, retry_at=clock.now() + 40)
        office.reporter.wake("acme")
        await clock.advance(0)
        assert len(office.sink.deliveries) == 1


async def test_do_not_disturb_and_the_round_of_empty_reports_are_common_to_all(clock: FakeClock) -> None:
    office = Office(clock, MemoryDirectory(tenant()), ReportingSettings(sync_interval=100, shutdown_grace=0.0))
    async with office.running():
        office.sink.script(answer({"next_sync_after": clock.now() + 1000}))
        await clock.advance(101)
        assert len(office.sink.deliveries) == 1
        handed_on = office.leases.given_back[-1]
        assert handed_on.quiet_until is not None
        assert handed_on.synced_ts is not None

    other = Office(clock, MemoryDirectory(tenant()), ReportingSettings(sync_interval=100, shutdown_grace=0.0))
    async with other.running():
        other.leases.memory = handed_on
        await clock.advance(handed_on.quiet_until - clock.now() - 1)
        assert other.sink.deliveries == []
        await clock.advance(102)
        assert other.sink.deliveries != []


async def test_a_report_by_another_instance_counts_for_the_round(clock: FakeClock) -> None:
    office = Office(clock, MemoryDirectory(tenant()), ReportingSettings(sync_interval=100, shutdown_grace=0.0))
    async with office.running():
        office.leases.memory = SyncMemory(synced_ts=clock.now())
        await clock.advance(99)
        assert office.sink.deliveries == []
        await clock.advance(2)
        assert len(office.sink.deliveries) == 1


async def test_what_a_wrong_clock_hands_on_is_not_believed_for_ever(clock: FakeClock, office: Office) -> None:
    office.sink.by_default["acme"] = OK
    async with office.running():
        office.leases.memory = SyncMemory(failures=1, retry_at=clock.now() + 1e9)
        office.write(event(1))
        await clock.advance(86_400 + 10)
        assert len(office.sink.deliveries) == 1
