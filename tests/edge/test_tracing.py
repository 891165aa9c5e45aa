"""What is said of a collector that does not take spans."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from structlog.testing import capture_logs

from mail_proxy.runtime.tracing import EXPORTER_LOG, Collector
from tests.support.stores import SetClock

URL = "https://user:canary@collector.example/canary?key=canary"
SPANS: Sequence[Any] = [None] * 3


class Exporter(SpanExporter):
    """Takes spans, or says in its own words why not."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.raises = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Do as the one of the library does."""
        if self.error is None:
            return SpanExportResult.SUCCESS
        if self.raises:
            raise self.error
        log = logging.getLogger(EXPORTER_LOG)
        log.warning("Transient error %s encountered while exporting %s batch, retrying in 1s.", self.error, "spans")
        log.error("Failed to export %s batch due to timeout.", "spans")
        return SpanExportResult.FAILURE


@pytest.fixture
def exporter() -> Exporter:
    return Exporter()


def told(lines: Sequence[Any]) -> list[tuple[str, int]]:
    return [(line["event"], line["spans"]) for line in lines]


def test_what_is_not_taken_is_told_once_a_minute_and_at_the_end(
    exporter: Exporter, caplog: pytest.LogCaptureFixture
) -> None:
    clock = SetClock()
    collector = Collector(exporter, URL, clock)
    collector.ended = 7 * len(SPANS)
    with capture_logs() as lines:
        collector.export(SPANS)
        exporter.error = ConnectionError("http://collector/?key=canary")
        for seconds in (0, 30, 29, 1, 30):
            clock.time += seconds
            collector.export(SPANS)
        collector.close()
        collector.export(SPANS)
    assert told(lines) == [("traces_not_taken", 3), ("traces_not_taken", 9), ("traces_lost", 6)]
    assert [line["reason"] for line in lines] == ["ConnectionError"] * 3
    assert [line["collector"] for line in lines] == ["collector.example:443"] * 3
    assert "canary" not in str(lines)
    assert not caplog.records


def test_nothing_is_told_of_what_was_taken(exporter: Exporter) -> None:
    collector = Collector(exporter, URL, SetClock())
    collector.ended = len(SPANS)
    with capture_logs() as lines:
        collector.export(SPANS)
        collector.close()
    assert lines == []


def test_an_exporter_that_raises_has_not_taken_anything(exporter: Exporter) -> None:
    exporter.error, exporter.raises = ConnectionError("canary"), True
    collector = Collector(exporter, URL, SetClock())
    collector.ended = len(SPANS)
    with capture_logs() as lines:
        assert collector.export(SPANS) is SpanExportResult.FAILURE
        collector.close()
    assert told(lines) == [("traces_not_taken", 3)]
    assert lines[0]["reason"] == "ConnectionError"


@pytest.mark.parametrize(
    ("message", "values", "reason"),
    [
        ("Failed to export %s batch code: %s, reason: %s", ("span", 401, "canary"), "HTTP 401 Unauthorized"),
        (
            "Transient error %s encountered while exporting %s batch, retrying in %.2fs.",
            ("Service Unavailable", "span", 1.0),
            "HTTP 503 Service Unavailable",
        ),
        ("Failed to export %s batch due to timeout, max retries or shutdown.", ("span",), "no answer in time"),
        ("Dropping span batch: serialized size %d bytes exceeds %d bytes.", (70_000_000, 67_108_864), "not sent"),
    ],
)
def test_the_kind_of_error_is_told(message: str, values: tuple[object, ...], reason: str) -> None:
    class Refusing(Exporter):
        """Says what the library says."""

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            logging.getLogger(EXPORTER_LOG).warning(message, *values)
            return SpanExportResult.FAILURE

    collector = Collector(Refusing(), "http://user:canary@[::1]:4318/canary", SetClock())
    with capture_logs() as lines:
        collector.export(SPANS)
        collector.close()
    assert [(line["collector"], line["reason"]) for line in lines] == [("[::1]:4318", reason)]
