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
        log.warning("Transient error %s encountered while exporting %s batch.", self.error, "spans")
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
    collector = Collector(exporter, clock)
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
    assert lines[0]["reason"] == "Transient error ConnectionError encountered while exporting spans batch."
    assert not caplog.records


def test_nothing_is_told_of_what_was_taken(exporter: Exporter) -> None:
    collector = Collector(exporter, SetClock())
    collector.ended = len(SPANS)
    with capture_logs() as lines:
        collector.export(SPANS)
        collector.close()
    assert lines == []


def test_an_exporter_that_raises_has_not_taken_anything(exporter: Exporter) -> None:
    exporter.error, exporter.raises = ConnectionError("canary"), True
    collector = Collector(exporter, SetClock())
    collector.ended = len(SPANS)
    with capture_logs() as lines:
        assert collector.export(SPANS) is SpanExportResult.FAILURE
        collector.close()
    assert told(lines) == [("traces_not_taken", 3)]
    assert lines[0]["reason"] == "ConnectionError"
