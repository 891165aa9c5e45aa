"""Messages followed from the request to the report: spans at a collector, by OTLP over HTTP."""

from __future__ import annotations

import re
import sys
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mail_proxy.runtime.tracing import OtlpTracer, TracingRefused
from tests.acceptance.conftest import NewInstance
from tests.acceptance.sinks import running_sink
from tests.acceptance.tenants import new_tenant
from tests.support.callback_server import CallbackServer, Manner, Reply
from tests.support.cloud_servers import free_port
from tests.support.fake_clock import FakeClock
from tests.support.instance import a_message, eventually, run

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"
SECRET = "secret-words@example.net"


def spans(collector: CallbackServer) -> list[Any]:
    """All that the collector has got."""
    found = []
    for request in collector.requests:
        for resource in ExportTraceServiceRequest.FromString(request.body).resource_spans:
            for scope in resource.scope_spans:
                found += scope.spans
    return found


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


async def test_a_message_is_followed_from_its_request_to_its_report(new_instance: NewInstance) -> None:
    async with CallbackServer() as collector, CallbackServer() as endpoint, running_sink() as sink:
        instance = new_instance(TRACES_URL=f"{collector.url}/v1/traces", RETRY_DELAYS="0.2")
        await instance.start()
        async with new_tenant(instance, sink.port, callback=endpoint.url) as acme:
            replies = ["450 4.2.0 later"]
            sink.rcpt = lambda _address: replies.pop() if replies else None
            batch = {"messages": [a_message("M1", SECRET, subject=SECRET)]}
            answer = await acme.client.ask(
                "POST", "/commands/add-messages", json=batch, headers={"traceparent": PARENT}
            )
            assert answer.json()["queued"] == 1
            await acme.client.message_when("M1", "sent")
            await acme.client.submit(a_message("M2"))
            await acme.client.message_when("M2", "sent")
            await eventually(lambda: len(endpoint.entries) >= 3, "all is reported")
        assert await instance.stop() == 0  # what is left is sent at the end

    found = [span for span in spans(collector) if span.trace_id.hex() == TRACE]
    names = [span.name for span in sorted(found, key=lambda span: span.start_time_unix_nano)]
    assert names.count("add-messages") == 1
    assert names.count("attempt") == 2
    assert names.count("report") in {1, 2}  # one tells both, if they were close
    (submission,) = (span for span in found if span.name == "add-messages")
    assert submission.parent_span_id.hex() == SPAN
    assert attributes(submission) == {
        "mail_proxy.tenant_id": acme.id,
        "mail_proxy.queued": 1,
        "mail_proxy.rejected": 0,
    }
    assert {span.parent_span_id for span in found if span is not submission} == {submission.span_id}
    first, second = (attributes(span) for span in found if span.name == "attempt")
    assert (first["mail_proxy.outcome"], first["mail_proxy.code"]) == ("scheduled", 450)
    assert (second["mail_proxy.outcome"], second["mail_proxy.code"]) == ("sent", 250)
    assert second["mail_proxy.message_id"] == "M1"
    assert second["mail_proxy.dot_ms"] >= 0
    assert all(span.start_time_unix_nano <= span.end_time_unix_nano for span in found)
    # Its own application can go on from there.
    told = {entry["id"]: entry.get("traceparent") for entry in endpoint.entries}
    assert told["M1"] == f"00-{TRACE}-{submission.span_id.hex()}-01"
    # One that came without a trace has one of its own.
    other = {span.trace_id.hex() for span in spans(collector)} - {TRACE}
    assert told["M2"] is not None
    assert told["M2"].split("-")[1] in other
    assert not any(b"secret-words" in request.body for request in collector.requests)


async def test_without_a_collector_the_callers_own_is_kept(new_instance: NewInstance) -> None:
    async with CallbackServer() as endpoint, running_sink() as sink:
        instance = new_instance()
        await instance.start()
        async with new_tenant(instance, sink.port, callback=endpoint.url) as acme:
            for name, header in (("M1", PARENT), ("M2", "nonsense"), ("M3", None)):
                headers = {} if header is None else {"traceparent": header}
                batch = {"messages": [a_message(name)]}
                await acme.client.ask("POST", "/commands/add-messages", json=batch, headers=headers)
            await eventually(lambda: len(endpoint.entries) >= 3, "all is reported")
    assert {e["id"]: e.get("traceparent") for e in endpoint.entries} == {"M1": PARENT, "M2": None, "M3": None}


async def test_a_collector_that_hangs_or_is_away_holds_nothing_up(new_instance: NewInstance) -> None:
    async with CallbackServer() as collector, running_sink() as sink:
        collector.by_default = Reply(manner=Manner.HANG)
        instance = new_instance(TRACES_URL=f"{collector.url}/v1/traces")
        await instance.start()
        async with new_tenant(instance, sink.port) as acme:
            for n in range(5):
                await acme.client.submit(*(a_message(f"M{n}-{m}") for m in range(100)))
            await sink.wait_for(500)
        await collector.stop()
        assert await instance.stop() == 0


def test_where_the_extra_is_missing_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(TracingRefused, match=re.escape("the extra [otel]: pip install '.[otel]'")):
        OtlpTracer("http://127.0.0.1:4318/v1/traces", 1.0, "a", FakeClock())


@pytest.mark.parametrize("manner", ["away", "hangs"])
async def test_a_collector_that_takes_nothing_holds_up_no_end_and_its_log_is_one_line(
    new_instance: NewInstance, manner: str
) -> None:
    async with CallbackServer() as collector, running_sink() as sink:
        collector.by_default = Reply(manner=Manner.HANG)
        port = free_port() if manner == "away" else urlsplit(collector.url).port
        instance = new_instance(TRACES_URL=f"http://127.0.0.1:{port}/v1/traces?key=canary")
        await instance.start()
        async with new_tenant(instance, sink.port) as acme:
            await acme.client.submit(a_message("M1"))
            await acme.client.message_when("M1", "sent")
        began = monotonic()
        assert await instance.stop() == 0
        assert monotonic() - began < 9  # the exporter itself would take 10 s and more
    lines = [*instance.logged("traces_not_taken"), *instance.logged("traces_lost")]
    assert sum(line["spans"] for line in lines) == 2  # the request and the attempt
    assert len(lines) == 1
    assert lines[0]["collector"] == f"127.0.0.1:{port}"
    assert "retrying" not in lines[0]["reason"]
    assert not [line for line in instance.read_log() if line.get("logger", "").startswith(("opentelemetry", "urllib3"))]
    assert not [line for line in instance.read_log() if "canary" in str(line)]


async def test_a_collector_that_cannot_be_one_stops_the_start(new_instance: NewInstance) -> None:
    instance = new_instance()
    settings = {"GMP_API_TOKEN": "t", "GMP_TRACES_URL": "collector:4318", "GMP_TRACES_RATIO": "2"}
    ended = await run("serve", environment=settings, folder=instance.folder)
    assert ended.code == 2
    assert "GMP_TRACES_URL" in ended.stderr
    assert "GMP_TRACES_RATIO" in ended.stderr
