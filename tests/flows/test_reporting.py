"""Reports from the outbox to tenants' endpoints: nothing lost, in order, each tenant on its own, on time."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from random import Random

import anyio
import pytest
from structlog.testing import capture_logs

from mail_proxy.domain.report import EventType
from mail_proxy.ports.report_sink import SinkAnswer
from mail_proxy.reporting.held_back import HeldBack
from mail_proxy.reporting.settings import ReportingSettings
from tests.support.fake_clock import FakeClock
from tests.support.reporting import OK, MemoryDirectory, Office, answer, event, tenant

DOWN = SinkAnswer(None, b"", error="refused")
HOUR = 3600.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def office(clock: FakeClock) -> Office:
    """A reporter with one tenant, whose empty syncs are too rare to get in the way."""
    return Office(clock, MemoryDirectory(tenant()), ReportingSettings(sync_interval=1e9, shutdown_grace=0.0))


class Gate:
    """An answer that is given when the test says so."""

    def __init__(self, given: SinkAnswer = OK) -> None:
        self.reached = asyncio.Event()
        self._open = asyncio.Event()
        self._given = given

    async def __call__(self) -> SinkAnswer:
        self.reached.set()
        await self._open.wait()
        return self._given

    def open(self) -> None:
        self._open.set()


# When a report goes out


async def test_events_wait_a_little_for_company_and_go_out_together(clock: FakeClock, office: Office) -> None:
    async with office.running():
        start = clock.monotonic()
        office.write(event(1))
        await clock.advance(0.15)
        office.write(event(2), event(3))
        assert office.sink.deliveries == []
        await clock.advance(0.1)

        (delivery,) = office.sink.deliveries
        assert delivery.message_ids == ["M1", "M2", "M3"]
        assert delivery.at - start == pytest.approx(0.2)
        assert office.outbox.unreported() == []
        assert office.meter.acknowledged == 3


async def test_a_full_report_does_not_wait(clock: FakeClock, office: Office) -> None:
    async with office.running():
        start = clock.monotonic()
        office.write(*(event(n) for n in range(500)))
        await clock.advance(0)

        (delivery,) = office.sink.deliveries
        assert (len(delivery.entries), delivery.at) == (500, start)


async def test_a_backlog_goes_out_in_pages_without_waiting_between_them(clock: FakeClock, office: Office) -> None:
    ids = office.outbox.write(*(event(n) for n in range(1730)))
    async with office.running():
        await clock.advance(0)

        assert [len(each.entries) for each in office.sink.deliveries] == [500, 500, 500, 230]
        assert [id_ for each in office.sink.deliveries for id_ in each.event_ids] == ids


async def test_a_page_is_bounded_in_bytes(clock: FakeClock, office: Office) -> None:
    ids = office.outbox.write(*(event(n, text="x" * 300_000) for n in range(7)))
    async with office.running():
        await clock.advance(0)

        assert [len(each.entries) for each in office.sink.deliveries] == [3, 3, 1]
        assert [id_ for each in office.sink.deliveries for id_ in each.event_ids] == ids


async def test_events_that_nobody_told_of_are_found(clock: FakeClock, office: Office) -> None:
    async with office.running():
        office.outbox.write(event(1))
        await clock.advance(4.9)
        assert office.sink.deliveries == []
        await clock.advance(0.2)
        assert [each.message_ids for each in office.sink.deliveries] == [["M1"]]


async def test_what_was_told_before_the_start_goes_out_after_it(clock: FakeClock, office: Office) -> None:
    office.write(event(1))
    async with office.running():
        await clock.advance(0.2)
        assert [each.message_ids for each in office.sink.deliveries] == [["M1"]]


async def test_only_one_report_of_a_tenant_is_on_its_way(clock: FakeClock, office: Office) -> None:
    gate = Gate()
    office.sink.script(gate, gate)
    async with office.running():
        office.write(event(1))
        await clock.advance(1)
        office.write(event(2))
        office.reporter.wake("acme")
        assert await office.reporter.run_once("acme") is None
        await clock.advance(20)
        assert [each.message_ids for each in office.sink.deliveries] == [["M1"]]

        gate.open()
        await clock.advance(0)
        assert [each.message_ids for each in office.sink.deliveries] == [["M1"], ["M2"]]
        assert office.sink.most_at_once == 1


async def test_a_sync_by_hand_and_the_loop_do_not_meet(clock: FakeClock, office: Office) -> None:
    gate = Gate()
    office.sink.script(gate, gate)
    async with office.running(), anyio.create_task_group() as tasks:
        office.write(event(1))
        tasks.start_soon(office.reporter.run_once, "acme")
        await clock.advance(10)
        assert len(office.sink.deliveries) == 1
        gate.open()
    assert office.sink.most_at_once == 1


# Failures


async def test_a_failed_report_goes_out_again_with_the_same_ids(clock: FakeClock, office: Office) -> None:
    office.sink.script(DOWN, answer(status=500), answer({"ok": False}), SinkAnswer(200, b"<html>"))
    async with office.running():
        ids = office.write(event(1), event(2))
        await clock.advance(60)

        assert [each.event_ids for each in office.sink.deliveries][-1:] == [ids]
        assert {id_ for each in office.sink.deliveries for id_ in each.event_ids} == set(ids)
        assert office.outbox.unreported() == []
        assert office.reporter.status("acme").consecutive_failures == 0


async def test_pauses_double_from_one_second_to_ten_minutes(clock: FakeClock, office: Office) -> None:
    office.sink.by_default["acme"] = DOWN
    async with office.running():
        office.write(event(1))
        await clock.advance(2 * HOUR)

        times = [each.at for each in office.sink.deliveries]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        expected = [min(600.0, 2.0**n) for n in range(len(gaps))]
        assert len(gaps) > 15
        for gap, middle in zip(gaps, expected, strict=True):
            assert 0.8 * middle <= gap <= 1.2 * middle
        assert len({round(gap / middle, 6) for gap, middle in zip(gaps, expected, strict=True)}) > 10
        assert office.outbox.unreported() == [1]


async def test_news_does_not_end_a_pause(clock: FakeClock, office: Office) -> None:
    office.sink.by_default["acme"] = DOWN
    async with office.running():
        office.write(event(1))
        await clock.advance(100)
        tries = len(office.sink.deliveries)
        for n in range(2, 7):
            office.write(*(event(n) for _ in range(500)))
            await clock.advance(1)
        assert len(office.sink.deliveries) <= tries + 1


async def test_retry_after_is_honoured(clock: FakeClock, office: Office) -> None:
    office.sink.script(answer(status=429, retry_after=120.0))
    async with office.running():
        office.write(event(1))
        await clock.advance(0.2)
        await clock.advance(119)
        assert len(office.sink.deliveries) == 1
        await clock.advance(2)
        assert len(office.sink.deliveries) == 2


async def test_an_endless_retry_after_is_believed_for_a_day(clock: FakeClock, office: Office) -> None:
    office.settings = ReportingSettings(sync_interval=1e9, poll_interval=600)
    office.reporter = office.new_reporter()
    office.sink.script(answer(status=503, retry_after=float("inf")))
    async with office.running():
        office.write(event(1))
        await clock.advance(0.2)
        await clock.advance(86390)
        assert len(office.sink.deliveries) == 1
        await clock.advance(20)
        assert len(office.sink.deliveries) == 2


async def test_after_a_failure_reports_are_smaller_until_they_get_through(clock: FakeClock, office: Office) -> None:
    office.sink.script(answer(status=413), answer(status=413))
    ids = office.outbox.write(*(event(n) for n in range(600)))
    async with office.running():
        await clock.advance(10)

        assert [len(each.entries) for each in office.sink.deliveries] == [500, 250, 125, 250, 225]
        assert [id_ for each in office.sink.deliveries[2:] for id_ in each.event_ids] == ids


async def test_an_endpoint_that_is_slow_gets_no_longer_reports(clock: FakeClock, office: Office) -> None:
    async def slow() -> SinkAnswer:
        await clock.sleep(8)
        return OK

    office.sink.script(DOWN, slow, slow)
    office.outbox.write(*(event(n) for n in range(750)))
    async with office.running():
        await clock.advance(30)
        assert [len(each.entries) for each in office.sink.deliveries] == [500, 250, 250, 250]


async def test_gone_pauses_reports_until_run_now(clock: FakeClock, office: Office) -> None:
    office.sink.script(answer(status=410))
    async with office.running():
        office.write(event(1))
        await clock.advance(3 * HOUR)
        assert len(office.sink.deliveries) == 1
        assert office.reporter.status("acme").next_sync_due is None

        office.reporter.wake("acme")
        await clock.advance(0)
        assert len(office.sink.deliveries) == 2
        assert office.outbox.unreported() == []


@pytest.mark.parametrize("failure", [answer(status=410), answer(status=503, retry_after=86400.0)])
async def test_a_changed_endpoint_is_tried_soon(clock: FakeClock, office: Office, failure: SinkAnswer) -> None:
    office.sink.script(failure)
    async with office.running():
        office.write(event(1))
        await clock.advance(100)
        assert len(office.sink.deliveries) == 1

        office.directory.change("acme", name="Another name, the same endpoint")
        await clock.advance(10)
        assert len(office.sink.deliveries) == 1

        office.directory.change("acme", client_base_url="https://new.example")
        await clock.advance(10)
        assert office.outbox.unreported() == []


# Tenants are independent


async def test_a_hanging_endpoint_does_not_hold_up_another_tenant(clock: FakeClock, office: Office) -> None:
    office.directory.put(tenant("slow"))
    office.sink.by_default["slow"] = Gate()
    async with office.running():
        office.write(event(1, tenant_id="slow"))
        await clock.advance(1)
        office.write(event(2))
        await clock.advance(0.2)
        assert office.outbox.unreported("acme") == []
        assert office.outbox.unreported("slow") == [1]


async def test_endpoints_that_fail_take_no_places_from_those_that_work(clock: FakeClock, office: Office) -> None:
    office.settings = ReportingSettings(sync_interval=1e9, parallel=2, parallel_slow=2, shutdown_grace=0.0)
    office.reporter = office.new_reporter()

    async def hang() -> SinkAnswer:
        await clock.sleep(30)
        return DOWN

    dead = [f"dead{n}" for n in range(20)]
    for n, name in enumerate(dead):
        office.directory.put(tenant(name))
        office.sink.by_default[name] = hang
        office.outbox.write(event(n, tenant_id=name))
    async with office.running():
        await clock.advance(20 / 2 * 30 + 1)  # each of them has failed once
        start = clock.monotonic()
        for n in range(10):
            office.write(event(100 + n))
            await clock.advance(30)
        assert [each.at - start - n * 30 for n, each in enumerate(office.sink.to("acme"))] == pytest.approx([0.2] * 10)
        assert office.sink.most_at_once <= 4


async def test_events_stay_where_a_tenant_has_no_endpoint_and_go_once_it_has(clock: FakeClock, office: Office) -> None:
    office.directory.change("acme", client_base_url=None)
    async with office.running():
        office.write(event(1))
        await clock.advance(HOUR)
        assert office.sink.deliveries == []
        assert office.outbox.unreported() == [1]

        office.directory.change("acme", client_base_url="https://acme.example")
        await clock.advance(5)
        assert office.outbox.unreported() == []


async def test_an_inactive_tenant_still_gets_its_reports(clock: FakeClock, office: Office) -> None:
    office.directory.change("acme", active=False)
    async with office.running():
        office.write(event(1))
        await clock.advance(0.2)
        assert office.outbox.unreported() == []


async def test_a_deleted_tenant_is_forgotten(clock: FakeClock, office: Office) -> None:
    office.sink.by_default["acme"] = DOWN
    async with office.running():
        office.write(event(1))
        await clock.advance(10)
        office.outbox.stored.clear()
        office.directory.remove("acme")
        await clock.advance(10)
        tries = len(office.sink.deliveries)
        await clock.advance(HOUR)
        assert len(office.sink.deliveries) == tries
        assert office.reporter.status("acme").consecutive_failures == 0


# What the tenant could not take


async def test_what_is_listed_as_error_goes_out_again_and_the_rest_does_not(clock: FakeClock, office: Office) -> None:
    office.sink.script(answer({"error": ["M2"], "not_found": ["M3"]}))
    async with office.running():
        _, second, _ = office.write(event(1), event(2), event(3))
        await clock.advance(0.2)
        assert office.outbox.unreported() == [second]
        assert (office.meter.acknowledged, office.meter.refused) == (2, 1)
        told = office.reporter.status("acme")
        assert told.consecutive_failures == 0
        assert (
            told.last_error == "the endpoint answered that it could not take a message (error): its events come again"
        )

        await clock.advance(1.3)
        assert office.sink.deliveries[-1].message_ids == ["M2"]
        assert office.outbox.unreported() == []
        assert office.reporter.status("acme").last_error is None


async def test_a_refused_message_waits_longer_each_time_while_others_go_past(clock: FakeClock, office: Office) -> None:
    office.sink.by_default["acme"] = answer({"error": ["M1"]})
    async with office.running():
        office.write(event(1))
        for n in range(2, 62):
            await clock.advance(10)
            office.write(event(n))
        await clock.advance(1)

        tries = [each.at for each in office.sink.deliveries if "M1" in each.message_ids]
        gaps = [later - earlier for earlier, later in pairwise(tries)]
        assert all(0.6 * 2**n <= gap <= 1.2 * 2**n for n, gap in enumerate(gaps))
        assert len(gaps) >= 7
        assert office.outbox.unreported() == [1]


async def test_events_of_one_message_stay_in_order_when_the_first_was_refused(clock: FakeClock, office: Office) -> None:
    office.sink.script(answer({"error": ["M1"]}), answer({"error": ["M1"]}), answer({"error": ["M1"]}))
    async with office.running():
        office.write(event(1, EventType.DEFERRED), event(9))
        await clock.advance(0.5)
        office.write(event(1, EventType.SENT), event(2))
        await clock.advance(60)

        told = [(entry["id"], entry["event"]) for each in office.sink.deliveries for entry in each.entries]
        assert told.index(("M2", "sent")) < told.index(("M1", "sent"))
        assert [type_ for id_, type_ in told if id_ == "M1"][-2:] == ["deferred", "sent"]
        for each in office.sink.deliveries:
            types = [entry["event"] for entry in each.entries if entry["id"] == "M1"]
            assert types in ([], ["deferred"], ["deferred", "sent"])
        assert office.outbox.unreported() == []


async def test_fields_of_a_wrong_type_are_logged_by_name(clock: FakeClock, office: Office) -> None:
    office.sink.script(answer({"error": "M1", "queued": "x"}))
    with capture_logs() as logs:
        async with office.running():
            office.write(event(1))
            await clock.advance(0.2)
    assert office.outbox.unreported() == []
    ignored = [each for each in logs if each["event"] == "answer_fields_ignored"]
    assert [(each["tenant_id"], each["fields"]) for each in ignored] == [("acme", ("error", "queued"))]


async def test_a_page_full_of_refused_messages_does_not_stop_the_others(clock: FakeClock, office: Office) -> None:
    office.sink.by_default["acme"] = answer({"error": [f"M{n}" for n in range(700)]})
    office.outbox.write(*(event(n) for n in range(1500)))
    async with office.running():
        await clock.advance(0)
        assert len(office.outbox.unreported()) == 700


async def test_a_tenant_that_refuses_everything_is_slowed_down(clock: FakeClock, office: Office) -> None:
    office.sink.by_default["acme"] = answer({"error": [f"M{n}" for n in range(100_000)]})
    office.outbox.write(*(event(n) for n in range(10_000)))
    async with office.running():
        await clock.advance(0)
        assert len(office.sink.deliveries) == 2  # as many messages as are remembered
        await clock.advance(HOUR)
        assert len(office.sink.deliveries) < 100
        assert {entry["id"] for each in office.sink.deliveries for entry in each.entries} == {
            f"M{n}" for n in range(1000)
        }

        office.sink.by_default.clear()
        await clock.advance(601)
        assert office.outbox.unreported() == []


async def test_a_refused_message_that_is_no_longer_there_is_forgotten(clock: FakeClock, office: Office) -> None:
    office.sink.script(answer({"error": ["M1"]}))
    async with office.running():
        office.write(event(1))
        await clock.advance(0.3)
        await office.outbox.acknowledge([1], clock.now())  # another instance was faster
        await clock.advance(HOUR)
        reads, sleeps = office.outbox.reads, clock.sleeps
        await clock.advance(100)
        assert office.outbox.reads == reads
        assert clock.sleeps - sleeps <= 25
        assert len(office.sink.deliveries) == 1


def test_a_message_that_was_taken_at_last_begins_anew_when_it_is_refused_again() -> None:
    held, rng = HeldBack(10), Random(1)
    for _ in range(6):
        held.refuse({1, 2}, 0.0, rng)
    assert not held.admits(1, 10.0)
    assert not held.admits(2, 10.0)

    held.settle([1])
    assert held.admits(1, 0.0)
    held.refuse({1}, 0.0, rng)
    assert held.admits(1, 1.2)
    assert not held.admits(2, 10.0)
    assert held.next_retry is not None
    assert held.next_retry <= 1.2


# Crashes and stops


async def test_a_crash_between_answer_and_mark_repeats_the_same_event_ids(clock: FakeClock, office: Office) -> None:
    reached = asyncio.Event()

    async def crash() -> None:
        reached.set()
        await asyncio.Event().wait()

    office.outbox.before_acknowledge = crash
    async with office.running():
        ids = office.write(event(1), event(2))
        await clock.advance(0.2)
        assert reached.is_set()
    assert office.outbox.unreported() == ids

    office.outbox.before_acknowledge = None
    office.reporter = office.new_reporter()
    async with office.running():
        await clock.advance(0)
    assert [each.event_ids for each in office.sink.deliveries] == [ids, ids]
    assert office.outbox.unreported() == []


async def test_a_report_on_its_way_is_brought_to_its_end_when_the_service_stops(
    clock: FakeClock, office: Office
) -> None:
    office.settings = ReportingSettings(sync_interval=1e9)
    office.reporter = office.new_reporter()
    gate = Gate()
    office.sink.script(gate)
    async with anyio.create_task_group() as tasks, office.running():
        office.write(*(event(n) for n in range(600)))
        await clock.advance(1)
        assert gate.reached.is_set()
        tasks.start_soon(_open_soon, gate)
    assert office.outbox.unreported() == list(range(501, 601))
    assert len(office.sink.deliveries) == 1


async def _open_soon(gate: Gate) -> None:
    for _ in range(20):
        await asyncio.sleep(0)
    gate.open()


async def test_a_stop_does_not_wait_for_an_endpoint_beyond_the_grace_time(clock: FakeClock, office: Office) -> None:
    office.settings = ReportingSettings(sync_interval=1e9, shutdown_grace=0.01)
    office.reporter = office.new_reporter()
    office.sink.script(Gate())
    with anyio.fail_after(5):
        async with office.running():
            office.write(event(1))
            await clock.advance(1)
    assert office.outbox.unreported() == [1]


async def test_an_error_that_is_neither_store_nor_endpoint_ends_the_loop(clock: FakeClock, office: Office) -> None:
    async def broken() -> SinkAnswer:
        raise ZeroDivisionError

    office.sink.script(broken)
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with office.running():
            office.write(event(1))
            await clock.advance(1)


# The store


@pytest.mark.parametrize("method", ["tenants_with_events", "pending"])
async def test_reporting_goes_on_once_the_store_is_back(clock: FakeClock, office: Office, method: str) -> None:
    office.outbox.broken.add(method)
    async with office.running():
        office.outbox.write(event(1))
        await clock.advance(HOUR)
        assert office.sink.deliveries == []
        office.outbox.broken.clear()
        await clock.advance(13)
        assert office.outbox.unreported() == []


async def test_reporting_goes_on_once_the_directory_is_back(clock: FakeClock, office: Office) -> None:
    office.directory.unavailable = True
    async with office.running():
        office.write(event(1))
        await clock.advance(HOUR)
        assert office.sink.deliveries == []
        sleeps = clock.sleeps
        await clock.advance(100)
        assert clock.sleeps - sleeps < 100
        office.directory.unavailable = False
        await clock.advance(13)
        assert office.outbox.unreported() == []


async def test_an_acknowledgement_survives_that_the_store_is_away(clock: FakeClock, office: Office) -> None:
    office.outbox.broken.add("acknowledge")
    async with office.running():
        office.write(event(1))
        await clock.advance(HOUR)
        assert office.outbox.unreported() == [1]
        office.outbox.broken.clear()
        await clock.advance(13)
        assert office.outbox.unreported() == []
        assert len(office.sink.deliveries) == 1
