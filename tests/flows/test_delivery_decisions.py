"""The pure parts of delivery: breaker, shares, lease watch, and what a journal tells."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mail_proxy.delivery.breaker import FIRST_PAUSE, LONGEST_PAUSE, Breaker, failed
from mail_proxy.delivery.journal import FlightJournal, JournalLocked, JournalUnwritable
from mail_proxy.delivery.lease import Lease, LeaseLost, LeaseWatch
from mail_proxy.delivery.shares import Slots
from mail_proxy.domain.attempt import Answer, Attempt, Stage
from mail_proxy.domain.reply import Reply
from tests.support.fake_clock import FakeClock


def test_a_breaker_waits_twice_as_long_after_each_probe_that_failed() -> None:
    breaker, now, pauses = Breaker(), 100.0, []
    for _ in range(9):
        breaker = failed(breaker, "refused", now)
        pauses.append(breaker.pause)
        now = breaker.probe_at
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    assert (pauses[0], pauses[-1]) == (FIRST_PAUSE, LONGEST_PAUSE)
    assert breaker.opened_at == 100.0


def test_sessions_that_fail_together_count_as_one_failure() -> None:
    breaker = failed(Breaker(), "refused", 100.0)
    assert failed(breaker, "refused", 100.1) == breaker


def test_a_tenant_alone_gets_half_of_the_slots_and_a_newcomer_always_finds_one() -> None:
    slots = Slots(12)
    taken = sum(slots.take("greedy") for _ in range(100))
    assert taken == 6
    assert [slots.take("second") for _ in range(4)] == [True, True, True, False]
    assert slots.take("third")


@given(st.lists(st.sampled_from("abc"), max_size=60), st.integers(2, 20))
def test_slots_are_never_more_than_there_are(takers: list[str], total: int) -> None:
    slots = Slots(total)
    taken = [each for each in takers if slots.take(each)]
    assert slots.in_use == len(taken) <= total
    for each in taken:
        slots.give_back(each)
    assert slots.in_use == 0
    assert slots.take("d")


def test_an_instance_is_dead_when_its_counter_stood_still_for_a_whole_lease() -> None:
    watch = LeaseWatch(60.0)
    assert watch.look({"a": 1, "b": 1}, 0.0) == []
    assert watch.look({"a": 2, "b": 1}, 59.0) == []
    assert watch.look({"a": 2, "b": 1}, 60.0) == ["b"]  # G6
    assert watch.look({"a": 2}, 119.0) == ["a"]


def test_time_in_which_the_database_was_away_does_not_count() -> None:
    watch = LeaseWatch(60.0)
    watch.look({"a": 1}, 0.0)
    watch.forget()
    assert watch.look({"a": 1}, 100.0) == []
    assert watch.look({"a": 1}, 159.0) == []


async def test_an_instance_that_was_stopped_beyond_its_lease_sends_no_further_dot() -> None:
    clock = FakeClock()
    lease = Lease(clock, 60.0)
    term = lease.term
    await lease.look(term)
    await clock.advance(90)  # as after SIGSTOP
    waiting = asyncio.create_task(lease.look(term))
    await clock.advance(1)
    assert not waiting.done()
    lease.renewed(clock.monotonic())
    with pytest.raises(LeaseLost):  # G5
        await waiting
    await lease.look(lease.term)


async def test_an_instance_that_was_late_but_not_too_late_goes_on() -> None:
    clock = FakeClock()
    lease = Lease(clock, 60.0)
    await clock.advance(40)
    waiting = asyncio.create_task(lease.look(lease.term))
    await clock.advance(1)
    assert not waiting.done()
    lease.renewed(clock.monotonic())
    await waiting


async def test_an_instance_that_is_alone_cannot_lose_its_lease() -> None:
    clock = FakeClock()
    lease = Lease(clock, None)
    await clock.advance(1e6)
    await lease.look(lease.term)


ANSWERS = {
    0: Answer(Reply(250, "2.0.0", "ok"), Stage.DOT),
    2: Answer(Reply(550, None, 'a "quoted" \\ text'), Stage.RCPT),
}


def journal(path: Path, instance_id: str = "first", boot: str = "boot") -> FlightJournal:
    return FlightJournal(path / "flight-0.log", instance_id, boot)


def test_a_journal_tells_dots_and_replies_of_the_run_before(tmp_path: Path) -> None:
    first = journal(tmp_path)
    first.begin()
    first.dot(1, "t1")
    first.reply(1, "t1", Attempt(answers=ANSWERS))
    first.dot(2, "t2")
    first.close()
    second = journal(tmp_path, "second")
    flights = second.read()
    second.close()
    assert (flights.instance_id, flights.reliable) == ("first", True)
    assert flights.dots == {(1, "t1"), (2, "t2")}
    assert flights.replies == {(1, "t1"): ANSWERS}


def test_a_line_that_the_crash_left_torn_is_passed_over(tmp_path: Path) -> None:
    first = journal(tmp_path)
    first.begin()
    first.dot(1, "t1")
    first.dot(2, "t2")
    first.close()
    with first.path.open("r+b") as file:
        file.truncate(first.path.stat().st_size - 4)
    second = journal(tmp_path)
    assert second.read().dots == {(1, "t1")}
    second.close()


@pytest.mark.parametrize("boot", ["other", ""])
def test_a_journal_from_before_a_reboot_is_not_relied_on(tmp_path: Path, boot: str) -> None:
    first = journal(tmp_path)
    first.begin()
    first.dot(1, "t1")
    first.close()
    second = journal(tmp_path, boot=boot)
    assert not second.read().reliable
    second.close()


@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02", b'{"boot": 1}\n', b"[]\n", b'{"boot": "boot", "inst'])
def test_a_journal_that_cannot_be_read_tells_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "flight-0.log").write_bytes(content)
    opened = journal(tmp_path)
    flights = opened.read()
    opened.close()
    assert (flights.instance_id, flights.reliable) == (None, False)


def test_a_damaged_record_makes_the_whole_journal_unreliable(tmp_path: Path) -> None:
    first = journal(tmp_path)
    first.begin()
    first.dot(1, "t1")
    first.close()
    with first.path.open("ab") as file:
        file.write(b"\x00\x00garbage\n")
    second = journal(tmp_path)
    flights = second.read()
    second.close()
    assert (flights.instance_id, flights.reliable) == ("first", False)


def test_a_journal_that_is_begun_anew_keeps_what_is_in_flight(tmp_path: Path) -> None:
    first = FlightJournal(tmp_path / "flight-0.log", "first", "boot", cut_above=200)
    first.begin()
    first.dot(1, "hangs")
    first.dot(2, "answered")
    first.reply(2, "answered", Attempt(answers=ANSWERS))
    for pk in range(3, 20):
        first.dot(pk, "done")
        first.settled(pk, "done")
    before = first.full
    first.begin()  # G4: while a dot has no answer yet, and a reply is not in the database
    assert (before, first.full) == (True, False)
    first.close()
    second = journal(tmp_path, "second")
    flights = second.read()
    second.close()
    assert flights.reliable
    assert flights.dots == {(1, "hangs"), (2, "answered")}
    assert flights.replies == {(2, "answered"): ANSWERS}


def test_a_journal_begun_anew_is_locked_as_well(tmp_path: Path) -> None:
    first = journal(tmp_path)
    first.begin()
    with pytest.raises(JournalLocked):
        journal(tmp_path)
    first.close()


def test_a_link_or_a_device_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / "flight-0.log").symlink_to("/dev/zero")
    with pytest.raises(JournalUnwritable):
        journal(tmp_path)


def test_two_processes_do_not_write_one_journal(tmp_path: Path) -> None:
    first = journal(tmp_path)
    with pytest.raises(JournalLocked):
        journal(tmp_path)
    first.close()


def test_a_journal_that_cannot_be_written_stops_the_dot(tmp_path: Path) -> None:
    opened = journal(tmp_path)
    opened.begin()
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, opened._file)  # noqa: SLF001 - the disk is full from now on
    os.close(full)
    with pytest.raises(JournalUnwritable):
        opened.dot(1, "t1")
    opened.close()
