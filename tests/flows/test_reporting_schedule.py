"""Empty syncs, do-not-disturb, accelerated syncs and run-now: when a tenant is asked without anything to report."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from mail_proxy.ports.report_sink import SinkAnswer
from mail_proxy.reporting.settings import ReportingSettings
from tests.support.fake_clock import FakeClock
from tests.support.reporting import MemoryDirectory, Office, answer, event, tenant

DOWN = SinkAnswer(None, b"", error="refused")
INTERVAL = 300.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def office(clock: FakeClock) -> Office:
    return Office(clock, MemoryDirectory(tenant()), ReportingSettings(sync_interval=INTERVAL))


def gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)]


async def test_a_tenant_is_asked_at_least_once_in_each_interval(clock: FakeClock, office: Office) -> None:
    async with office.running():
        start = clock.monotonic()
        await clock.advance(20 * INTERVAL)

        times = [each.at for each in office.sink.deliveries]
        assert len(times) in range(20, 25)
        assert all(0.9 * INTERVAL <= gap <= INTERVAL + 1e-6 for gap in gaps(times))
        assert times[0] - start <= INTERVAL
        assert all(each.entries == [] for each in office.sink.deliveries)


async def test_a_report_takes_the_place_of_an_empty_sync(clock: FakeClock, office: Office) -> None:
    async with office.running():
        for n in range(20):
            office.write(event(n))
            await clock.advance(100)
        assert [len(each.entries) for each in office.sink.deliveries] == [1] * 20


async def test_a_thousand_tenants_are_asked_at_different_times_by_one_loop(clock: FakeClock, office: Office) -> None:
    for n in range(1000):
        office.directory.put(tenant(f"t{n}"))
    async with office.running():
        await clock.advance(INTERVAL / 3)
        assert len(asyncio.all_tasks()) < 10
        assert 250 < len(office.sink.deliveries) < 420

        await clock.advance(INTERVAL)
        in_a_second: dict[int, int] = {}
        for each in office.sink.deliveries:
            in_a_second[int(each.at)] = in_a_second.get(int(each.at), 0) + 1
        assert max(in_a_second.values()) < 20
        assert {each.tenant_id for each in office.sink.deliveries} == {"acme", *(f"t{n}" for n in range(1000))}


async def test_a_new_tenant_joins_the_round_and_an_inactive_one_leaves_it(clock: FakeClock, office: Office) -> None:
    async with office.running():
        office.directory.put(tenant("new"))
        office.directory.change("acme", active=False)
        await clock.advance(INTERVAL + 10)
        asked = [each.tenant_id for each in office.sink.deliveries if each.at > 1000 + 10]
        assert set(asked) == {"new"}


async def test_a_tenant_without_endpoint_is_not_asked(clock: FakeClock, office: Office) -> None:
    office.directory.put(tenant("silent", client_base_url=None))
    async with office.running():
        office.reporter.wake("silent")
        await clock.advance(3 * INTERVAL)
        assert office.sink.to("silent") == []
        assert office.reporter.status("silent").next_sync_due is None


async def test_an_idle_reporter_hardly_wakes(clock: FakeClock, office: Office) -> None:
    async with office.running():
        sleeps = clock.sleeps
        await clock.advance(1000)
        assert clock.sleeps - sleeps <= 1000 / 5 + 10


async def test_a_failed_empty_sync_backs_off_and_is_repeated(clock: FakeClock, office: Office) -> None:
    office.sink.script(DOWN, DOWN, DOWN)
    async with office.running():
        await clock.advance(INTERVAL + 10)
        first = [each.at for each in office.sink.deliveries][:4]
        assert [0.8 <= gap / 2**n <= 1.2 for n, gap in enumerate(gaps(first))] == [True] * 3
        assert office.reporter.status("acme").consecutive_failures == 0


# Do not disturb


async def test_nothing_but_events_disturbs_a_tenant_before_its_time(clock: FakeClock, office: Office) -> None:
    office.sink.script(answer({"ok": True, "next_sync_after": clock.now() + 5000}))
    async with office.running():
        office.write(event(1))
        await clock.advance(0.2)
        assert office.reporter.status("acme").in_dnd
        await clock.advance(2000)
        assert len(office.sink.deliveries) == 1

        office.write(event(2))
        await clock.advance(0.2)
        assert [each.message_ids for each in office.sink.deliveries] == [["M1"], ["M2"]]

        await clock.advance(2990)
        assert len(office.sink.deliveries) == 2
        await clock.advance(20)
        assert len(office.sink.deliveries) == 3
        assert not office.reporter.status("acme").in_dnd


async def test_run_now_ends_do_not_disturb(clock: FakeClock, office: Office) -> None:
    office.sink.script(answer({"next_sync_after": clock.now() + 1e6}))
    async with office.running():
        office.write(event(1))
        await clock.advance(0.2)
        office.reporter.wake("acme")
        await clock.advance(0)
        assert len(office.sink.deliveries) == 2
        await clock.advance(INTERVAL)
        assert len(office.sink.deliveries) == 3


async def test_do_not_disturb_outlasts_jumps_of_the_wall_clock(clock: FakeClock, office: Office) -> None:
    office.sink.script(answer({"next_sync_after": clock.now() + 1000}))
    async with office.running():
        office.write(event(1))
        await clock.advance(0.2)
        clock.jump(1e8)
        await clock.advance(900)
        assert len(office.sink.deliveries) == 1
        clock.jump(-2e8)
        await clock.advance(200)
        assert len(office.sink.deliveries) == 2


# More to submit


async def test_a_tenant_with_more_to_submit_is_asked_again_at_most_once_a_second(
    clock: FakeClock, office: Office
) -> None:
    office.sink.script(*(answer({"queued": n}) for n in range(9, 0, -1)))
    async with office.running():
        office.reporter.wake("acme")
        await clock.advance(20)
        times = [each.at for each in office.sink.deliveries]
        assert len(times) == 10
        assert gaps(times) == pytest.approx([1.0] * 9)


async def test_a_slow_answer_with_more_to_submit_is_followed_up_at_once(clock: FakeClock, office: Office) -> None:
    async def slow() -> SinkAnswer:
        await clock.sleep(3)
        return answer({"queued": 5})

    office.sink.script(slow)
    async with office.running():
        office.reporter.wake("acme")
        await clock.advance(3)
        assert len(office.sink.deliveries) == 2


async def test_without_progress_it_is_not_asked_again(clock: FakeClock, office: Office) -> None:
    office.sink.by_default["acme"] = answer({"queued": 7})
    async with office.running():
        office.reporter.wake("acme")
        await clock.advance(100)
        assert len(office.sink.deliveries) == 2


async def test_do_not_disturb_counts_more_than_more_to_submit(clock: FakeClock, office: Office) -> None:
    office.sink.script(answer({"queued": 7, "next_sync_after": clock.now() + 200}))
    async with office.running():
        office.reporter.wake("acme")
        await clock.advance(190)
        assert len(office.sink.deliveries) == 1
        await clock.advance(11)
        assert len(office.sink.deliveries) == 2


# Run now


async def test_run_now_ends_waiting_for_company(clock: FakeClock, office: Office) -> None:
    async with office.running():
        office.write(event(1))
        office.reporter.wake("acme")
        await clock.advance(0)
        assert [each.message_ids for each in office.sink.deliveries] == [["M1"]]


@pytest.mark.parametrize("who", ["acme", None])
async def test_run_now_ends_a_pause_after_failures(clock: FakeClock, office: Office, who: str | None) -> None:
    office.sink.script(*[DOWN] * 9)
    async with office.running():
        office.write(event(1))
        await clock.advance(0.2)
        while len(office.sink.deliveries) < 9:
            await clock.advance(10)
        office.reporter.wake(who)
        await clock.advance(0)
        assert office.outbox.unreported() == []


async def test_run_now_sends_what_the_tenant_refused(clock: FakeClock, office: Office) -> None:
    office.sink.script(*[answer({"error": ["M1"]})] * 8)
    async with office.running():
        office.write(event(1))
        while len(office.sink.deliveries) < 8:
            await clock.advance(10)
        office.reporter.wake("acme")
        await clock.advance(0)
        assert office.outbox.unreported() == []


async def test_run_now_for_all_does_what_is_due_and_disturbs_nobody(clock: FakeClock, office: Office) -> None:
    office.directory.put(tenant("other"))
    async with office.running():
        office.outbox.write(event(1))
        office.reporter.wake(None)
        await clock.advance(0)
        assert [(each.tenant_id, each.message_ids) for each in office.sink.deliveries] == [("acme", ["M1"])]


async def test_run_now_during_a_report_is_followed_by_another(clock: FakeClock, office: Office) -> None:
    async def slow() -> SinkAnswer:
        await clock.sleep(2)
        return answer(status=500)

    office.sink.script(slow)
    async with office.running():
        office.write(event(1))
        await clock.advance(1)
        office.reporter.wake("acme")
        await clock.advance(1.2)
        assert len(office.sink.deliveries) == 2
        assert office.outbox.unreported() == []


async def test_run_now_while_the_outbox_is_looked_through_is_not_forgotten(clock: FakeClock, office: Office) -> None:
    async def something_happens_meanwhile() -> None:
        office.outbox.after_poll = None
        office.outbox.write(event(1))
        office.reporter.wake(None)

    office.outbox.after_poll = something_happens_meanwhile
    async with office.running():
        await clock.advance(0)
        assert [each.message_ids for each in office.sink.deliveries] == [["M1"]]


async def test_an_empty_sync_that_run_now_asked_for_is_repeated_when_it_fails(clock: FakeClock, office: Office) -> None:
    async with office.running():
        await clock.advance(INTERVAL + 1)
        office.sink.deliveries.clear()
        office.sink.script(DOWN)
        office.reporter.wake("acme")
        await clock.advance(1.3)
        assert [each.entries for each in office.sink.deliveries] == [[], []]


async def test_with_automatic_off_only_run_now_sends(clock: FakeClock, office: Office) -> None:
    office.settings = ReportingSettings(sync_interval=INTERVAL, automatic=False)
    office.reporter = office.new_reporter()
    async with office.running():
        office.write(*(event(n) for n in range(600)))
        office.outbox.write(event(1, tenant_id="other"))
        office.directory.put(tenant("other"))
        await clock.advance(10 * INTERVAL)
        assert office.sink.deliveries == []

        office.reporter.wake("acme")
        await clock.advance(0)
        assert office.outbox.unreported() == []
        assert office.sink.to("other") == []

        office.reporter.wake(None)
        await clock.advance(0)
        assert office.outbox.unreported("other") == []
        asked = len(office.sink.deliveries)
        await clock.advance(10 * INTERVAL)
        assert len(office.sink.deliveries) == asked


async def test_with_automatic_off_what_comes_about_while_a_report_is_on_its_way_is_told_as_well(
    clock: FakeClock, office: Office
) -> None:
    office.settings = ReportingSettings(sync_interval=INTERVAL, automatic=False)
    office.reporter = office.new_reporter()
    arrived, answered = asyncio.Event(), asyncio.Event()

    async def slowly() -> SinkAnswer:
        arrived.set()
        await answered.wait()
        return answer()

    office.sink.script(slowly)
    async with office.running():
        office.outbox.write(event(1))
        office.reporter.wake("acme")
        await clock.advance(0)
        await arrived.wait()
        office.write(event(2))
        answered.set()
        await clock.advance(1)
        assert [each.message_ids for each in office.sink.deliveries] == [["M1"], ["M2"]]
        await clock.advance(10 * INTERVAL)
        assert len(office.sink.deliveries) == 2  # and nothing else goes by itself


# Status


async def test_status_tells_how_it_goes(clock: FakeClock, office: Office) -> None:
    office.sink.script(answer(status=503), answer(status=503))
    async with office.running():
        assert office.reporter.status("nobody").last_sync_ts is None
        office.write(event(1))
        await clock.advance(0.2)

        failed = office.reporter.status("acme")
        assert failed.consecutive_failures == 1
        assert failed.last_error == "HTTP 503"
        assert failed.last_sync_ts is None
        assert failed.next_sync_due is not None
        assert 0.7 < failed.next_sync_due - clock.now() < 1.3

        await clock.advance(10)
        well = office.reporter.status("acme")
        assert (well.consecutive_failures, well.last_error, well.in_dnd) == (0, None, False)
        assert well.last_sync_ts is not None
        assert 0 < clock.now() - well.last_sync_ts < 10
        assert well.next_sync_due is not None
        assert 250 < well.next_sync_due - clock.now() <= INTERVAL


async def test_run_once_syncs_without_the_loop(office: Office) -> None:
    office.outbox.write(event(1))
    await office.reporter.run_once("acme")
    await office.reporter.run_once("acme")
    await office.reporter.run_once("nobody")
    assert [each.message_ids for each in office.sink.deliveries] == [["M1"], []]
