"""Counts that several processes keep together: exact, and never smaller than before."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mail_proxy.domain.sync_lease import Behind, SyncStanding
from mail_proxy.runtime.tally import Labels, Shape, Tally, kept
from mail_proxy.runtime.telemetry import PrometheusMeter, new_tally


def test_a_row_is_read_as_it_was_written_by_whoever_shares_the_memory() -> None:
    tally = Tally(Shape(totals=2, rows=3, numbers=2), pages=2)
    with tally.alone():
        tally.names.add(("acme", "main"))
        tally.names.add(("acme", "größer"))
    row = tally.pages[1].row(1)
    row[0] += 3
    row[1] += 2**40
    tally.pages[1].totals[1] += 7
    assert tally.names.since(0) == [("acme", "main"), ("acme", "größer")]
    assert tally.names.since(1) == [("acme", "größer")]
    assert [page.numbers(2) for page in tally.pages] == [[0, 0, 0, 0], [0, 0, 3, 2**40]]
    assert list(tally.pages[1].totals) == [0, 7]


def test_there_is_room_for_what_it_was_made_for_and_no_more() -> None:
    longest = "a" * 64
    names = Tally(Shape(totals=0, rows=3, numbers=5)).names
    for n in range(3):
        names.add((longest, f"{longest[:-1]}{n}"))
    assert [account_id[-1] for _, account_id in names.since(0)] == ["0", "1", "2"]
    with pytest.raises(IndexError):
        names.add((longest, longest))


@pytest.mark.parametrize("labels", [("acme", "main"), ("a" * 64, "b" * 64), ("é" * 68, "é"), ("a" * 135 + "é", "b")])
def test_labels_are_kept_as_they_are_given_back(labels: Labels) -> None:
    names = Tally(Shape(totals=0, rows=1, numbers=1)).names
    names.add(kept(labels))
    assert names.since(0) == [kept(labels)]


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
    shown = {name.partition("{")[2]: value for name, value in found.items() if name.startswith("gmp_sent_total")}
    assert shown == {
        'account_id="a",tenant_id="acme"}': 2,
        'account_id="b",tenant_id="acme"}': 2,
        'account_id="(other)",tenant_id="(other)"}': 2,
    }


def test_however_often_a_worker_is_started_anew_the_series_stay_bounded() -> None:
    tally = new_tally(1, max_series=4, max_per_tenant=2)
    for _ in range(5):
        meter = PrometheusMeter(tally, max_series=4, max_per_tenant=2, process=False)
        for tenant_id in ("acme", "globex", "late"):
            for account_id in ("other", "a", "b", "c"):  # an account may have that name
                meter.sent(tenant_id, account_id)
    shown = sent(PrometheusMeter(tally, max_series=4, max_per_tenant=2, process=False))
    assert len(shown) == 7  # four of their own, what two tenants have beyond that, and all others
    assert sum(shown.values()) == 5 * 12


def sent(meter: PrometheusMeter) -> dict[tuple[str, str], int]:
    """What was sent, by tenant and account."""
    found = re.findall(
        r'^gmp_sent_total{account_id="(.*)",tenant_id="(.*)"} (\d+)\.0$', meter.render().decode(), re.MULTILINE
    )
    return {(tenant_id, account_id): int(value) for account_id, tenant_id, value in found}


def check(shown: dict[tuple[str, str], int], wanted: Counter[tuple[str, str]], cap: int, share: int) -> None:
    """Nothing is lost, no more than the cap is shown, and each account that is shown is shown whole."""
    own = {labels: count for labels, count in shown.items() if labels[1] != "(other)"}
    assert own == {labels: wanted[labels] for labels in own}
    assert len(own) <= cap
    assert max(Counter(tenant_id for tenant_id, _ in own).values(), default=0) <= share
    for tenant_id in {tenant_id for tenant_id, _ in wanted}:
        there = sum(count for labels, count in shown.items() if labels[0] == tenant_id)
        assert there <= sum(count for labels, count in wanted.items() if labels[0] == tenant_id)
    assert sum(shown.values()) == sum(wanted.values())


IDS = st.sampled_from(["other", "a", "b", "c", "d"])


@given(
    steps=st.lists(st.tuples(st.integers(0, 2), IDS, IDS, st.booleans()), max_size=60),
    cap=st.integers(0, 8),
    share=st.integers(1, 4),
)
def test_bounds_hold_for_all_workers_together_and_what_is_shown_is_exact(
    steps: list[tuple[int, str, str, bool]], cap: int, share: int
) -> None:
    tally = new_tally(3, cap, share)

    def new(worker: int) -> PrometheusMeter:
        return PrometheusMeter(tally, worker, max_series=cap, max_per_tenant=share, process=False)

    meters = [new(worker) for worker in range(3)]
    wanted: Counter[tuple[str, str]] = Counter()
    for worker, tenant_id, account_id, anew in steps:
        if anew:
            meters[worker] = new(worker)
        meters[worker].sent(tenant_id, account_id)
        wanted[tenant_id, account_id] += 1
        check(sent(meters[0]), wanted, cap, share)
    if len(wanted) <= cap and len({tenant_id for tenant_id, _ in wanted}) == len(wanted):
        assert sent(meters[0]) == wanted


_AT_ONCE = """
import os, random, sys
from mail_proxy.runtime.telemetry import PrometheusMeter, new_tally

labels = [(f"t{n % 7}", f"a{n}") for n in range(3000)]
tally = new_tally(2, 1000, 200)
reading, writing = os.pipe()


def give_way(*_):
    os.sched_yield()
    return give_way


for worker in range(2):
    if os.fork() == 0:
        meter = PrometheusMeter(tally, worker, max_series=1000, max_per_tenant=200, process=False)
        os.close(writing)
        os.read(reading, 1)  # both begin when the other end closes
        sys.settrace(give_way)  # at each line, so that they come between each other
        for each in labels:
            meter.sent(*each)
        sys.settrace(None)
        random.Random(worker).shuffle(labels)
        for each in labels:
            meter.sent(*each)
        os._exit(0)
os.close(writing)
ends = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(2)]
assert ends == [0, 0], ends
meter = PrometheusMeter(tally, 0, max_series=1000, max_per_tenant=200, process=False)
sys.stdout.buffer.write(meter.render())
"""


def script(text: str) -> str:
    """Run a program that forks, in a process without threads; return what it says."""
    return subprocess.run([sys.executable, "-c", text], check=True, capture_output=True, text=True).stdout


def test_processes_that_meet_the_same_accounts_at_once_show_each_of_them_once_and_whole() -> None:
    text = script(_AT_ONCE)
    found = re.findall(r'^gmp_sent_total{account_id="(.*)",tenant_id="(.*)"} (\d+)\.0$', text, re.MULTILINE)
    shown = {(tenant_id, account_id): int(value) for account_id, tenant_id, value in found}
    assert len(found) == len(shown)
    check(shown, Counter({(f"t{n % 7}", f"a{n}"): 4 for n in range(3000)}), 1000, 200)
    assert sum(account_id != "(other)" for _, account_id in shown) == 1000


_DIES_EVERYWHERE = """
import os, re, sys
from mail_proxy.runtime.telemetry import PrometheusMeter, new_tally

tally = new_tally(2)
meter = PrometheusMeter(tally, 0, process=False)
for step in range(1, 1000):
    account_id = f"a{step}"
    pid = os.fork()
    if pid == 0:
        other = PrometheusMeter(tally, 1, process=False)
        other.sent("known", "main")  # with it all that are there
        seen = 0

        def trace(*_):
            global seen
            seen += 1
            if seen == step:
                os._exit(9)
            return trace

        sys.settrace(trace)
        other.sent(f"t{step}", account_id)
        sys.settrace(None)
        os._exit(0)
    finished = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    meter.sent(f"t{step}", account_id)
    text = meter.render().decode()
    assert text.count("gmp_sent_total{") == 1 + step
    (value,) = re.findall(f'gmp_sent_total{{account_id="{account_id}",tenant_id="t{step}"}} (.*)', text)
    print(value)
    if finished:
        break
"""


def test_a_process_that_dies_anywhere_while_it_counts_holds_up_nobody_and_leaves_nothing_half() -> None:
    """It ends at each line, one after the other, also with the lock in its hands."""
    values = script(_DIES_EVERYWHERE).split()
    assert len(values) > 20
    assert values[-1] == "2.0"
    assert values == sorted(values)  # counted by both of them, from some line on


def test_each_workers_process_is_shown_by_its_number() -> None:
    tally = new_tally(3)
    meter = PrometheusMeter(tally, 1)
    found = samples(meter)
    assert found['process_resident_memory_bytes{worker="1"}'] > 0
    assert not any('worker="0"' in name for name in found)  # which has not started
