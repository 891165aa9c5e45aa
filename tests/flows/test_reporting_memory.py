"""What an endpoint has told outlives restarts and holds for every instance; how far reports are behind is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from mail_proxy.domain.sync_lease import Behind, SyncMemory, SyncStanding
from mail_proxy.ports.report_sink import SinkAnswer
from mail_proxy.reporting.reporter import standing_of
from mail_proxy.reporting.settings import ReportingSettings
from tests.support.fake_clock import FakeClock
from tests.support.reporting import MemoryDirectory, Office, answer, event, tenant

DOWN = SinkAnswer(None, b"", error="refused")
GONE = answer(status=410)
INTERVAL = 300.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def office(clock: FakeClock) -> Office:
    return Office(clock, MemoryDirectory(tenant()), ReportingSettings(sync_interval=INTERVAL, shutdown_grace=0.0))


async def paused(clock: FakeClock, office: Office) -> SyncMemory:
    """Have the endpoint say that it is gone, and return what is handed on then."""
    office.sink.script(GONE)
    async with office.running():
        office.write(event(1))
        await clock.advance(1)
    office.sink.deliveries.clear()
    office.reporter = office.new_reporter()
    return office.leases.given_back[-1]


async def test_an_endpoint_that_is_gone_stays_so_for_the_next_who_reports(clock: FakeClock, office: Office) -> None:
    handed_on = await paused(clock, office)
    assert handed_on.gone
    assert handed_on.due is None
    assert "acme.example" in (handed_on.place or "")  # of which the tests' mark makes no secret
    office.leases.memory = handed_on
    async with office.running():
        office.write(event(2))
        await clock.advance(10 * INTERVAL)
        assert office.sink.deliveries == []
        assert office.leases.given_back[-1].gone
        assert office.reporter.status("acme").next_sync_due is None
        assert office.leases.asked < 20  # others are not kept from their turns
        office.reporter.wake("acme")
        await clock.advance(0)
        assert office.outbox.unreported() == []
        assert not office.leases.given_back[-1].gone


async def test_another_endpoint_is_told_though_the_one_of_before_is_gone(clock: FakeClock, office: Office) -> None:
    office.leases.memory = replace(await paused(clock, office), failures=9, retry_at=clock.now() + 1e5)
    office.directory.change("acme", client_base_url="https://new.example")
    async with office.running():
        await clock.advance(6)
        assert office.outbox.unreported() == []


async def test_who_has_heard_of_it_from_another_instance_hears_that_it_is_over(
    clock: FakeClock, office: Office
) -> None:
    handed_on = await paused(clock, office)
    office.leases.memory = handed_on
    async with office.running():
        await clock.advance(INTERVAL)
        assert office.sink.deliveries == []
        office.leases.memory = SyncMemory(synced_ts=clock.now(), place=handed_on.place)
        await clock.advance(INTERVAL + 1)
        assert office.outbox.unreported() == []


async def test_run_now_of_another_instance_ends_no_pause_here(clock: FakeClock, office: Office) -> None:
    await paused(clock, office)
    office.sink.script(GONE)
    async with office.running():
        await clock.advance(1)
        office.sink.deliveries.clear()
        office.reporter.look()
        await clock.advance(1)
        assert office.sink.deliveries == []


async def test_an_endpoint_that_failed_before_a_restart_is_asked_where_those_in_doubt_are(
    clock: FakeClock, office: Office
) -> None:
    async def hang() -> SinkAnswer:
        await clock.sleep(30)
        return DOWN

    office.settings = replace(office.settings, parallel=1, parallel_slow=1)
    office.reporter = office.new_reporter()
    for name in ("dead0", "dead1"):
        office.directory.put(tenant(name))
        office.sink.by_default[name] = hang
        office.outbox.write(event(1, tenant_id=name))
    office.leases.memory = SyncMemory(failures=3)  # for the first who takes a turn
    async with office.running():
        await clock.advance(0)
        assert office.sink.at_once == 2
        office.write(event(1))
        await clock.advance(1)
        assert office.outbox.unreported() == []


# How far reports are behind


async def test_it_is_told_how_many_tenants_are_behind_and_since_when(clock: FakeClock, office: Office) -> None:
    for name in ("failing", "paused", "moved"):
        office.directory.put(tenant(name))
    office.directory.put(tenant("nowhere", client_base_url=None))
    for age, name in enumerate(("acme", "failing", "paused", "moved", "nowhere", "unknown")):
        office.outbox.write(replace(event(age, tenant_id=name), ts=clock.now() - 100 * (age + 1)))
    office.outbox.memories = {
        "acme": SyncMemory(synced_ts=clock.now()),
        "failing": SyncMemory(failures=1),
        "paused": SyncMemory(failures=1, place="mark of https://paused.example/mail-proxy/sync", gone=True),
        "moved": SyncMemory(failures=3, place="mark of where it was before"),
    }
    async with office.running():
        assert {standing: (each.tenants, round(each.lag)) for standing, each in office.meter.lag.items()} == {
            SyncStanding.REPORTING: (2, 400),
            SyncStanding.FAILING: (1, 200),
            SyncStanding.PAUSED: (1, 300),
            SyncStanding.WITHOUT_ENDPOINT: (2, 600),
        }
        office.outbox.stored.clear()
        await clock.advance(6)
        assert office.meter.lag == dict.fromkeys(SyncStanding, Behind())


def test_what_is_known_of_no_endpoint_in_particular_counts_for_the_one_there_is() -> None:
    assert standing_of(SyncMemory(failures=1, gone=True), "anything") is SyncStanding.PAUSED


# What the log says


async def test_the_log_tells_that_it_fails_now_and_then_and_that_it_goes_again(
    clock: FakeClock, office: Office
) -> None:
    office.sink.by_default["acme"] = DOWN
    with capture_logs() as logs:
        async with office.running():
            office.write(event(1))
            await clock.advance(4 * 3600)
            warnings = [each for each in logs if each["event"] == "report_failed" and each["log_level"] == "warning"]
            assert 3 <= len(warnings) <= 5
            assert (warnings[0]["tenant_id"], warnings[0]["failures"], warnings[0]["reason"]) == ("acme", 1, "refused")
            del office.sink.by_default["acme"]
            await clock.advance(800)
    (again,) = [each for each in logs if each["event"] == "reports_go_again"]
    assert again["tenant_id"] == "acme"
    assert 4 * 3600 < again["failing_for"] < 4 * 3600 + 800
    assert again["failures"] > 20


async def test_an_endpoint_that_fails_and_works_in_turn_makes_a_line_a_minute_at_most(
    clock: FakeClock, office: Office
) -> None:
    with capture_logs() as logs:
        async with office.running():
            for n in range(100):
                office.sink.script(DOWN)
                office.write(event(n))
                await clock.advance(6)
    told = [each["event"] for each in logs if each["log_level"] != "debug"]
    assert 9 <= told.count("report_failed") <= 11
    assert 9 <= told.count("reports_go_again") <= 11


async def test_an_endpoint_that_answers_oddly_each_time_makes_a_line_an_hour(clock: FakeClock, office: Office) -> None:
    office.sink.by_default["acme"] = answer({"queued": "many"})
    with capture_logs() as logs:
        async with office.running():
            for n in range(130):
                office.write(event(n))
                await clock.advance(60)
    assert [each["event"] for each in logs].count("answer_fields_ignored") == 3


async def test_the_log_tells_that_an_endpoint_is_gone(clock: FakeClock, office: Office) -> None:
    with capture_logs() as logs:
        await paused(clock, office)
    (line,) = [each for each in logs if each["event"] == "reports_paused"]
    assert (line["tenant_id"], line["events"], line["reason"]) == ("acme", 1, "HTTP 410: the endpoint is gone")


async def test_a_database_that_is_away_makes_a_line_and_not_one_for_each_tenant(
    clock: FakeClock, office: Office
) -> None:
    for n in range(50):
        office.directory.put(tenant(f"t{n}"))
    with capture_logs() as logs:
        async with office.running():
            office.outbox.broken.add("pending")
            office.write(*(event(n, tenant_id=f"t{n}") for n in range(50)))
            await clock.advance(59)
    told = [each["event"] for each in logs if each["log_level"] != "debug"]
    assert told.count("outbox_unavailable") == 1


# On demand alone


async def test_on_demand_alone_what_comes_of_run_now_is_told_with_it(clock: FakeClock) -> None:
    settings = ReportingSettings(sync_interval=INTERVAL, automatic=False)
    office = Office(clock, MemoryDirectory(tenant(), tenant("other")), settings)
    async with office.running():
        office.write(event(1))
        await clock.advance(5)
        assert office.sink.deliveries == []
        office.reporter.wake(None)
        await clock.advance(2)  # as a message takes to be sent
        office.write(event(2))
        await clock.advance(0.2)
        assert [each.message_ids for each in office.sink.deliveries] == [["M1"], ["M2"]]
        await clock.advance(100)
        office.write(event(3))
        await clock.advance(5)
        assert len(office.sink.deliveries) == 2
