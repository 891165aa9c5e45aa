"""Logs that nothing received can break, and metrics that stay bounded."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Literal

import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st

import mail_proxy
from mail_proxy.domain.attempt import Phase
from mail_proxy.domain.message import Priority
from mail_proxy.domain.secret import Secret
from mail_proxy.runtime.logs import configure_logging
from mail_proxy.runtime.telemetry import PrometheusMeter, new_tally

HOSTILE = "550 no\r\nsuch\x1b[2J\x00\x7f\x9b\u2028\u202euser\ud800"
ESCAPED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\ud800-\udfff]")


class Terminal(io.StringIO):
    """A stream that says that somebody is looking."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Give the process its logging back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[str]:
    text = stream.getvalue()
    assert not text or text.endswith("\n")
    return text.split("\n")[:-1]


@pytest.mark.parametrize("format_", ["text", "json"])
def test_nothing_that_was_received_breaks_a_line(format_: Literal["text", "json"]) -> None:
    stream = io.StringIO()
    configure_logging("info", format_, stream)
    structlog.get_logger().info("refused " + HOSTILE, reply=HOSTILE, **{HOSTILE: 1})
    logging.getLogger("some.library").warning("it said %s", HOSTILE)
    try:
        int(HOSTILE)
    except ValueError:
        structlog.get_logger().exception("failed")
        logging.getLogger("some.library").exception("failed too")
    assert len(lines(stream)) == 4
    assert all(not ESCAPED.search(line) for line in lines(stream))
    stream.getvalue().encode("utf-8")


def test_json_lines_say_what_when_and_how_bad() -> None:
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    structlog.get_logger().warning("deferred", account="main", attempts=2, reply=HOSTILE)
    logging.getLogger("some.library").error("broken %d", 7)
    ours, theirs = (json.loads(line) for line in lines(stream))
    assert ours.pop("timestamp").endswith("Z")
    assert ours == {"level": "warning", "event": "deferred", "account": "main", "attempts": 2, "reply": HOSTILE}
    assert (theirs["level"], theirs["event"], theirs["logger"]) == ("error", "broken 7", "some.library")


def test_text_lines_are_plain_in_a_pipe_and_coloured_on_a_terminal() -> None:
    pipe, terminal = io.StringIO(), Terminal()
    for stream in (pipe, terminal):
        configure_logging("info", "text", stream)
        structlog.get_logger().info("sent", account="main", reply='250 "ok"', note="")
    (plain,), (coloured,) = lines(pipe), lines(terminal)
    assert plain.split(" ", 1)[1] == r'info     sent account=main reply="250 \"ok\"" note=""'
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured).split(" ", 1)[1] == plain.split(" ", 1)[1]


def logged_as_text(event: str, **fields: str) -> str:
    stream = io.StringIO()
    configure_logging("info", "text", stream)
    structlog.get_logger().info(event, **fields)
    (line,) = lines(stream)
    return line


_FIELD = re.compile(r' (\w+)=("(?:[^"\\]|\\.)*"|[^ "=]+)')
_ESCAPE = re.compile(r'\\(["\\nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})')
_SHORT = {'"': '"', "\\": "\\", "n": "\n", "r": "\r", "t": "\t"}


def read_back(value: str) -> str:
    """Return the text that a value was written for."""
    inner = value[1:-1] if value.startswith('"') else value
    return _ESCAPE.sub(lambda found: _SHORT.get(found[1]) or chr(int(found[1][1:], 16)), inner)


TEXTS = st.text(st.one_of(st.sampled_from('\\"= \nnx\t'), st.characters()))


@given(reply=TEXTS, user=TEXTS)
@example(reply='" user="admin', user="")
@example(reply='\\" user=admin id="', user="a")
@example(reply="\\", user="x")
@example(reply="a\nb", user="a\\nb")
def test_whatever_is_received_is_read_back_and_makes_no_field(reply: str, user: str) -> None:
    line = logged_as_text("refused", reply=reply, user=user)
    head, event, fields = line.partition(" refused")
    assert (event, len(head.split())) == (" refused", 2)
    found = _FIELD.findall(fields)
    assert "".join(f" {name}={value}" for name, value in found) == fields
    assert {name: read_back(value) for name, value in found} == {"reply": reply, "user": user}


def test_what_a_library_repeats_makes_no_field_either() -> None:
    stream = io.StringIO()
    configure_logging("info", "text", stream)
    logging.getLogger("some.library").warning("it said %s", '" tenant_id=acme')
    (line,) = lines(stream)
    assert line.split(" ", 1)[1] == r'warning  "it said \" tenant_id=acme" logger=some.library'


def test_an_exception_is_logged_with_its_traceback() -> None:
    for format_ in ("text", "json"):
        stream = io.StringIO()
        configure_logging("info", format_, stream)
        try:
            _ = 1 // 0
        except ZeroDivisionError:
            structlog.get_logger().exception("failed")
        (line,) = lines(stream)
        assert "Traceback" in line
        assert "ZeroDivisionError: integer division" in line


def test_what_is_less_important_is_left_out() -> None:
    stream = io.StringIO()
    configure_logging("warning", "text", stream)
    structlog.get_logger().info("quiet")
    logging.getLogger("some.library").info("quiet")
    structlog.get_logger().warning("loud")
    assert len(lines(stream)) == 1


@pytest.mark.parametrize("format_", ["text", "json"])
def test_secrets_are_masked_by_name_and_by_kind(format_: Literal["text", "json"]) -> None:
    stream = io.StringIO()
    configure_logging("info", format_, stream)
    structlog.get_logger().info(
        "event", password="canary", api_key="canary", Authorization="canary", other=Secret("canary")
    )
    assert "canary" not in stream.getvalue()
    assert stream.getvalue().count("********") == 4


def samples(meter: PrometheusMeter) -> dict[str, float]:
    text = meter.render().decode()
    return {name: float(value) for name, value in re.findall(r"^([^#\s][^ ]*) (\S+)$", text, re.MULTILINE)}


def series(name: str, tenant_id: str, account_id: str) -> str:
    return f'{name}{{account_id="{account_id}",tenant_id="{tenant_id}"}}'


def test_each_account_is_counted_under_the_names_that_operators_know() -> None:
    meter = PrometheusMeter(process=False)
    meter.sent("acme", "main")
    meter.sent("acme", "main")
    meter.failed("acme", "main")
    meter.deferred("acme", "second")
    meter.rate_limited("acme", "second")
    meter.uncertain("other", "main")
    meter.pending(12, None)
    meter.reported(3, ok=True)
    meter.reported(2, ok=False)
    found = samples(meter)
    assert found[series("gmp_sent_total", "acme", "main")] == 2
    assert found[series("gmp_errors_total", "acme", "main")] == 1
    assert found[series("gmp_deferred_total", "acme", "main")] == 0
    assert found[series("gmp_deferred_total", "acme", "second")] == 1
    assert found[series("gmp_rate_limited_total", "acme", "second")] == 1
    assert found[series("gmp_uncertain_total", "other", "main")] == 1
    assert found["gmp_pending_messages"] == 12
    assert found['gmp_reports_total{outcome="acknowledged"}'] == 1
    assert found['gmp_reported_events_total{outcome="acknowledged"}'] == 3
    assert found['gmp_reported_events_total{outcome="failed"}'] == 2


def test_a_counter_is_announced_before_it_counts_anything() -> None:
    text = PrometheusMeter(process=False).render().decode()
    for name in ("sent", "errors", "deferred", "rate_limited", "uncertain"):
        assert f"# TYPE gmp_{name}_total counter" in text


def test_what_is_pending_is_not_shown_before_it_was_counted() -> None:
    meter = PrometheusMeter(process=False)
    assert "gmp_pending_messages" not in samples(meter)
    meter.pending(0, None)
    assert samples(meter)["gmp_pending_messages"] == 0


def test_series_are_bounded_and_never_become_another_one() -> None:
    meter = PrometheusMeter(max_series=3, max_per_tenant=2, process=False)
    for _ in range(2):
        for account in ("a", "b", "c", "d"):
            meter.sent("acme", account)
        for tenant in ("t1", "t2", "t3"):
            meter.sent(tenant, "main")
    counted = {name: value for name, value in samples(meter).items() if name.startswith("gmp_sent_total")}
    assert counted == {
        series("gmp_sent_total", "acme", "a"): 2,
        series("gmp_sent_total", "acme", "b"): 2,
        series("gmp_sent_total", "acme", "(other)"): 4,
        series("gmp_sent_total", "t1", "main"): 2,
        series("gmp_sent_total", "(other)", "(other)"): 4,
    }


def test_a_label_is_taken_literally() -> None:
    meter = PrometheusMeter(process=False)
    meter.sent('a"b\\c\nd', "main")
    text = meter.render().decode()
    assert r'tenant_id="a\"b\\c\nd"' in text


def test_values_are_counted_by_how_they_are_spread() -> None:
    meter = PrometheusMeter(process=False)
    for seconds in (0.0005, 0.001, 0.3, 400):
        meter.phases({Phase.DOT: seconds})
    meter.phases({Phase.CONNECT: 0.02})
    meter.waited(Priority.IMMEDIATE, 0.02)
    meter.waited(Priority.LOW, 100_000)
    meter.reports_took(0.2, answered=True)
    meter.reports_took(30, answered=False)
    meter.committed(7, 0.004)
    found = samples(meter)
    dot = {
        le: found[f'gmp_smtp_phase_seconds_bucket{{le="{le}",phase="dot"}}']
        for le in ("0.001", "0.25", "0.5", "300", "+Inf")
    }
    assert dot == {"0.001": 2, "0.25": 2, "0.5": 3, "300": 3, "+Inf": 4}  # bounds belong to what is below them
    assert found['gmp_smtp_phase_seconds_count{phase="dot"}'] == 4
    assert found['gmp_smtp_phase_seconds_sum{phase="dot"}'] == pytest.approx(400.3015)
    assert found['gmp_smtp_phase_seconds_sum{phase="connect"}'] == pytest.approx(0.02)
    assert found['gmp_smtp_phase_seconds_count{phase="login"}'] == 0
    assert found['gmp_queue_wait_seconds_bucket{le="0.025",priority="immediate"}'] == 1
    assert found['gmp_queue_wait_seconds_bucket{le="86400",priority="low"}'] == 0
    assert found['gmp_queue_wait_seconds_bucket{le="+Inf",priority="low"}'] == 1
    assert found['gmp_report_seconds_count{outcome="answered"}'] == 1
    assert found['gmp_report_seconds_sum{outcome="no_answer"}'] == 30
    assert found['gmp_commit_writes_bucket{le="5"}'] == 0
    assert found['gmp_commit_writes_bucket{le="10"}'] == 1
    assert found["gmp_commit_writes_sum"] == 7
    assert found["gmp_commit_seconds_count"] == 1


def test_histograms_of_all_workers_are_one() -> None:
    tally = new_tally(2)
    first, second = PrometheusMeter(tally, 0, process=False), PrometheusMeter(tally, 1, process=False)
    first.phases({Phase.DOT: 0.3})
    second.phases({Phase.DOT: 0.3})
    first.in_hand(3, 2, 100)
    second.in_hand(4, 1, 200)
    second.pending(9, 61.5)
    for meter in (first, second):
        found = samples(meter)
        assert found['gmp_smtp_phase_seconds_bucket{le="0.5",phase="dot"}'] == 2
        assert (found["gmp_messages_in_hand"], found["gmp_smtp_sessions"], found["gmp_journal_bytes"]) == (7, 3, 300)
        assert found["gmp_oldest_waiting_seconds"] == 61.5


def test_it_says_what_is_running() -> None:
    text = PrometheusMeter(process=False).render().decode()
    assert f'version="{mail_proxy.__version__}"' in text


def test_the_process_shows_its_memory() -> None:
    assert samples(PrometheusMeter())["process_resident_memory_bytes"] > 0
