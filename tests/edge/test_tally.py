"""Counts that several processes keep together: exact, and never smaller than before."""

from __future__ import annotations

import re

import pytest

from mail_proxy.domain.sync_lease import Behind, SyncStanding
from mail_proxy.runtime.tally import Shape, Tally
from mail_proxy.runtime.telemetry import PrometheusMeter, new_tally


def test_a_row_is_read_as_it_was_written_by_whoever_shares_the_memory() -> None:
    tally = Tally(Shape(totals=2, rows=3, numbers=2), pages=2)
    row = tally.pages[1].add(("acme", "größer"))
    row[0] += 3
    row[1] += 2**40
    tally.pages[1].totals[1] += 7
    assert [(labels, list(numbers)) for labels, numbers in tally.pages[1].rows()] == [(("acme", "größer"), [3, 2**40])]
    assert list(tally.pages[1].totals) == [0, 7]
    assert list(tally.pages[0].rows()) == []


def test_a_page_has_room_for_what_it_was_made_for_and_no_more() -> None:
    longest = "a" * 64
    page = Tally(Shape(totals=0, rows=3, numbers=5)).pages[0]
    for n in range(3):
        page.add((longest, f"{longest[:-1]}{n}"))
    assert [account_id[-1] for (_, account_id), _ in page.rows()] == ["0", "1", "2"]
    with pytest.raises(IndexError):
        page.add((longest, longest))


def samples(meter: PrometheusMeter) -> dict[str, float]:
    text = meter.render().decode()
    return {name: float(value) for name, value in re.findall(r"^([^#\s][^ ]*) (\S+)$", text, re.MULTILINE)}


def test_each_worker_shows_the_sum_over_all_of_them() -> None:
    tally = new_tally(2)
    meters = [PrometheusMeter(tally, n, process=False) for n in range(2)]
    for _ in range(3):
        meters[0].sent("acme", "main")
    meters[1].sent("acme", "main")
    meters[1].sent("other", "main")
    meters[0].reported(5, ok=True)
    meters[1].reported(2, ok=True)
    meters[1].pending(9, None)
    first, second = (samples(meter) for meter in meters)
    assert first == second
    assert first['gmp_sent_total{account_id="main",tenant_id="acme"}'] == 4
    assert first['gmp_sent_total{account_id="main",tenant_id="other"}'] == 1
    assert first['gmp_reported_events_total{outcome="acknowledged"}'] == 7
    assert first["gmp_pending_messages"] == 9


def test_how_far_reports_are_behind_is_what_the_worker_saw_that_saw_most() -> None:
    tally = new_tally(workers=3)
    meters = [PrometheusMeter(tally, worker, process=False) for worker in range(3)]
    assert "gmp_tenants_behind" not in meters[0].render().decode()
    meters[0].behind({SyncStanding.FAILING: Behind(3, 12.5), SyncStanding.REPORTING: Behind(1, 0.25)})
    meters[1].behind({SyncStanding.FAILING: Behind(2, 14.0)})
    shown = meters[2].render().decode()
    for line in (
        'gmp_tenants_behind{state="failing"} 3.0',
        'gmp_report_lag_seconds{state="failing"} 14.0',
        'gmp_tenants_behind{state="reporting"} 1.0',
        'gmp_report_lag_seconds{state="reporting"} 0.25',
        'gmp_tenants_behind{state="paused"} 0.0',
        'gmp_report_lag_seconds{state="without_endpoint"} 0.0',
    ):
        assert line in shown.splitlines()


def test_a_worker_that_is_started_anew_goes_on_where_the_last_one_ended() -> None:
    tally = new_tally(2, max_series=2)
    for _ in range(2):
        meter = PrometheusMeter(tally, 1, max_series=2, process=False)
        for account_id in ("a", "b", "c"):
            meter.sent("acme", account_id)
    found = samples(PrometheusMeter(tally, 0, max_series=2, process=False))
    sent = {name.partition("{")[2]: value for name, value in found.items() if name.startswith("gmp_sent_total")}
    assert sent == {
        'account_id="a",tenant_id="acme"}': 2,
        'account_id="b",tenant_id="acme"}': 2,
        'account_id="other",tenant_id="other"}': 2,
    }


def test_however_often_a_worker_is_started_anew_the_series_stay_bounded() -> None:
    tally = new_tally(1, max_series=4, max_per_tenant=2)
    for _ in range(5):
        meter = PrometheusMeter(tally, max_series=4, max_per_tenant=2, process=False)
        for tenant_id in ("acme", "globex", "late"):
            for account_id in ("other", "a", "b", "c"):  # an account may have that name
                meter.sent(tenant_id, account_id)
    shown = samples(PrometheusMeter(tally, max_series=4, max_per_tenant=2, process=False))
    sent = {name: value for name, value in shown.items() if name.startswith("gmp_sent_total")}
    assert len(sent) == 5
    assert sum(sent.values()) == 5 * 12


def test_each_workers_process_is_shown_by_its_number() -> None:
    tally = new_tally(3)
    meter = PrometheusMeter(tally, 1)
    found = samples(meter)
    assert found['process_resident_memory_bytes{worker="1"}'] > 0
    assert not any('worker="0"' in name for name in found)  # which has not started
