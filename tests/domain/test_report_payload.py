"""The bytes of a report, the pauses between reports, and who is due when."""

from __future__ import annotations

import json
import math
import time
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mail_proxy.domain.recipient import Recipient, RecipientKind
from mail_proxy.domain.report import Event, EventType, StoredEvent, Subject, entry
from mail_proxy.reporting.backoff import pause_after
from mail_proxy.reporting.payload import build_page
from mail_proxy.reporting.settings import ReportingSettings
from mail_proxy.reporting.timetable import Timetable

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure


def stored(event_id: int, text: str, message_pk: int = 1) -> StoredEvent:
    return StoredEvent(event_id, Event("acme", message_pk, EventType.SENT, 1.0, text))


def test_each_entry_is_its_own_text_with_the_event_id_in_front() -> None:
    recipients = [Recipient(0, "ü@example.com", RecipientKind.TO)]
    subject = Subject("acme", "M1", 7, "main", 2, "spring", {"order": 'a"b\\', "emoji": "✉"})
    text = entry(subject, EventType.SENT, 1_728_460_800.0, recipients)

    page = build_page([stored(41, text, 7), stored(42, text, 7)], 500, 1_000_000)

    entries = json.loads(page.payload)["delivery_report"]
    assert entries == [{"event_id": "41", **json.loads(text)}, {"event_id": "42", **json.loads(text)}]
    assert next(iter(entries[0])) == "event_id"
    assert [(posted.event_id, posted.message_pk) for posted in page.events] == [(41, 7), (42, 7)]
    assert [message_id for message_id, _ in page.with_message_ids()] == ["M1", "M1"]


def test_nothing_to_report_is_an_empty_list() -> None:
    assert json.loads(build_page([], 500, 1000).payload) == {"delivery_report": []}


@PATIENT
@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers()), max_size=8), st.integers(1, 400))
def test_any_object_survives_and_the_caps_hold(objects: list[dict[str, object]], max_bytes: int) -> None:
    events = [stored(n, json.dumps(each, ensure_ascii=n % 2 == 0)) for n, each in enumerate(objects)]
    page = build_page(events, 5, max_bytes)

    entries = json.loads(page.payload)["delivery_report"]
    taken = len(page.events)
    assert [{**each, "event_id": None} for each in entries] == [
        {**each, "event_id": None} for each in (json.loads(e.event.entry) for e in events[:taken])
    ]
    assert taken <= 5
    assert taken >= min(1, len(events))
    assert taken <= 1 or len(page.payload) <= max_bytes
    if taken < min(5, len(events)):  # one more would not have fitted
        assert len(build_page(events[: taken + 1], 5, 10**9).payload) > max_bytes


def test_the_same_events_make_the_same_report_and_an_empty_one_is_always_another() -> None:
    some = [stored(1, "{}"), stored(2, "{}")]
    ids = [build_page(events, 500, 10**6).report_id for events in (some, some, some[:1], [], [])]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 4


def test_a_text_that_cannot_be_encoded_does_not_hold_up_the_others() -> None:
    page = build_page([stored(1, '{"id":"M1","text":"\udc80"}'), stored(2, '{"id":"M2"}')], 500, 1000)
    assert [each["id"] for each in json.loads(page.payload)["delivery_report"]] == ["M1", "M2"]


def test_building_a_full_page_takes_few_milliseconds() -> None:
    recipients = [Recipient(0, "a@b.example", RecipientKind.TO)]
    text = entry(Subject("acme", "M1", 7, "main", 2), EventType.SENT, 1.0, recipients)
    events = [stored(n, text, n) for n in range(500)]
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        build_page(events, 500, 1_000_000)
        best = min(best, time.perf_counter() - start)
    assert best < 0.02


@PATIENT
@given(st.integers(1, 10**9), st.integers())
def test_pauses_stay_within_their_bounds(failures: int, seed: int) -> None:
    pause = pause_after(failures, Random(seed))
    middle = min(600.0, 2.0 ** min(failures - 1, 50))
    assert 0.8 * middle <= pause <= 1.2 * middle


@PATIENT
@given(st.integers(1, 50), st.floats(0, allow_nan=False))
def test_a_pause_is_never_shorter_than_asked_up_to_a_day(failures: int, asked: float) -> None:
    pause = pause_after(failures, Random(1), asked)
    assert min(asked, 86400.0) <= pause <= max(86400.0, asked) + 1


@PATIENT
@given(
    st.lists(
        st.tuples(st.sampled_from("abcde"), st.none() | st.floats(0, 100)) | st.floats(0, 100),
        max_size=300,
    )
)
def test_the_timetable_gives_each_key_once_at_its_latest_time(steps: list[tuple[str, float | None] | float]) -> None:
    table, model = Timetable(), dict[str, float]()
    for step in steps:
        if isinstance(step, tuple):
            key, due = step
            table.put(key, due)
            model.pop(key, None)
            if due is not None:
                model[key] = due
        else:
            taken = table.take(step)
            assert sorted(taken) == sorted(key for key, due in model.items() if due <= step)
            times = [model.pop(key) for key in taken]
            assert times == sorted(times)
        assert table.next_due() == min(model.values(), default=math.inf)


def test_times_that_were_replaced_do_not_pile_up() -> None:
    table = Timetable()
    for n in range(100_000):
        table.put("acme", float(n))
    assert len(table._heap) < 100  # noqa: SLF001 - nothing else shows what it holds on to
    assert table.take(1e9) == ["acme"]


@pytest.mark.parametrize(
    "wrong", [{"group_wait": 1.5}, {"group_wait": -1}, {"sync_interval": 0}, {"max_events": 0}, {"parallel": 0}]
)
def test_settings_that_would_not_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ReportingSettings(**wrong)  # type: ignore[arg-type]
