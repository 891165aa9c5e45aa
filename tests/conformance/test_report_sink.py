"""What every report sink promises: always an answer, in bounded time and size, whatever an endpoint does."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from mail_proxy.domain.tenant import Tenant
from mail_proxy.outbound.callback import HttpReportSink
from mail_proxy.outbound.client import OutboundClient, Request
from mail_proxy.outbound.guard import Trusted
from mail_proxy.outbound.own_reporter import OwnReporterSink
from mail_proxy.ports.report_sink import ReportSink
from mail_proxy.reporters import Report
from mail_proxy.reporting.answer import Acknowledged, understand
from tests.support.callback_server import CallbackServer, Manner, Reply
from tests.support.fake_clock import FakeClock

TIMEOUT = 0.5
MAX_BYTES = 10_000
PAYLOAD = json.dumps({"delivery_report": [{"event_id": "1", "id": "M1"}]}).encode()
REPORT_ID = "report_1"


def _http(client: OutboundClient, _url: str) -> ReportSink:
    return HttpReportSink(client, FakeClock(), timeout=TIMEOUT, max_bytes=MAX_BYTES)


def _own(client: OutboundClient, url: str) -> ReportSink:
    """A reporter that leans on its sink for every bound."""

    async def forward(report: Report) -> dict[str, Any]:
        response = await client.request(Request("POST", url, 60, 10 * MAX_BYTES, body=report.body))
        assert 200 <= response.status < 300
        answer: dict[str, Any] = json.loads(response.body)
        return answer

    return OwnReporterSink(forward, timeout=TIMEOUT, max_bytes=MAX_BYTES)


# A further sink takes part by its line here: how it is made from a client and the receiver that it is to reach.
SINKS: dict[str, Callable[[OutboundClient, str], ReportSink]] = {"http": _http, "own": _own}


@pytest.fixture
async def server() -> AsyncIterator[CallbackServer]:
    async with CallbackServer() as running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[OutboundClient]:
    async with OutboundClient(Trusted()) as opened:
        yield opened


@pytest.fixture(params=SINKS)
def sink(request: pytest.FixtureRequest, client: OutboundClient, server: CallbackServer) -> ReportSink:
    return SINKS[request.param](client, server.url)


@pytest.fixture
def http(client: OutboundClient) -> ReportSink:
    """The one that finds its way by the tenant's settings."""
    return _http(client, "")


@pytest.fixture
def tenant(server: CallbackServer) -> Tenant:
    return Tenant("acme", client_base_url=server.url)


async def test_the_payload_arrives_as_it_is_and_the_answer_comes_back(
    sink: ReportSink, server: CallbackServer, tenant: Tenant
) -> None:
    server.script(Reply(200, b'{"ok": true, "error": ["M1"]}'))
    answer = await sink.deliver(tenant, PAYLOAD, REPORT_ID)
    assert (answer.status, answer.body, answer.error) == (200, b'{"ok": true, "error": ["M1"]}', None)
    assert [request.body for request in server.requests] == [PAYLOAD]


async def test_status_and_pause_of_the_answer_come_back(
    http: ReportSink, server: CallbackServer, tenant: Tenant
) -> None:
    server.script(Reply(202, headers={"Retry-After": "5"}))
    answer = await http.deliver(tenant, PAYLOAD, REPORT_ID)
    assert (answer.status, answer.retry_after) == (202, 5.0)


async def test_there_is_an_endpoint_where_the_tenant_names_one(sink: ReportSink, tenant: Tenant) -> None:
    assert sink.has_endpoint(tenant)


async def test_without_endpoint_nothing_is_sent_and_nothing_breaks(http: ReportSink, server: CallbackServer) -> None:
    nowhere = Tenant("silent")
    assert not http.has_endpoint(nowhere)
    answer = await http.deliver(nowhere, PAYLOAD, REPORT_ID)
    assert (answer.status, answer.body) == (None, b"")
    assert answer.error


@pytest.mark.parametrize("manner", list(Manner))
@pytest.mark.parametrize("status", [200, 204, 302, 410, 429, 500])
async def test_whatever_an_endpoint_does_there_is_an_answer_within_its_bounds(
    sink: ReportSink, server: CallbackServer, tenant: Tenant, manner: Manner, status: int
) -> None:
    server.script(Reply(status, b"x" * 5000, {"Location": "/elsewhere"}, manner=manner))
    start = time.monotonic()
    answer = await sink.deliver(tenant, PAYLOAD, REPORT_ID)
    assert time.monotonic() - start < TIMEOUT + 2
    assert len(answer.body) <= MAX_BYTES
    assert answer.status in (None, status)
    assert answer.status is not None or answer.error
    assert not isinstance(understand(answer), Acknowledged)
    assert len(server.requests) == 1

    assert (await sink.deliver(tenant, PAYLOAD, REPORT_ID)).status == 200


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1",
        "http://no-such-host.invalid",
        "http://",
        "not a url",
        "ftp://example.com",
        "http://user:pw@127.0.0.1:1",
        "http://[::1",
        "http://a..b",
        "http://" + "a" * 300,
        "http://\x00",
    ],
)
async def test_an_endpoint_that_cannot_be_reached_is_no_answer(http: ReportSink, url: str) -> None:
    answer = await http.deliver(Tenant("acme", client_base_url=url), PAYLOAD, REPORT_ID)
    assert answer.status is None
    assert answer.error
    assert "pw" not in answer.error


async def test_what_has_nothing_to_do_with_the_endpoint_makes_it_no_other_place(
    sink: ReportSink, tenant: Tenant
) -> None:
    assert sink.place(replace(tenant, name="Another name", active=False)) == sink.place(tenant)
