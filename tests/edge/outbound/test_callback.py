"""Callbacks as their receivers see them: where they go, with which credentials, and what of it never shows."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mail_proxy
from mail_proxy.domain.secret import Secret
from mail_proxy.domain.signing import EarlierSecret, Signing, shown_secret, signatures
from mail_proxy.domain.tenant import ClientAuth, ClientAuthMethod, Tenant, TenantSecret
from mail_proxy.outbound.callback import Endpoint, HttpReportSink, retry_after
from mail_proxy.outbound.client import OutboundClient
from mail_proxy.outbound.guard import Trusted
from mail_proxy.reporting.answer import Paused, Refused, understand
from tests.support.callback_server import CallbackServer, Manner, Reply
from tests.support.fake_clock import FakeClock

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure

CANARY = "s3cr3t-canary"
PAYLOAD = json.dumps({"delivery_report": []}).encode()
REPORT_ID = "report_1"
BEARER = ClientAuth(ClientAuthMethod.BEARER, token=Secret(CANARY))
BASIC = ClientAuth(ClientAuthMethod.BASIC, user="jürgen", password=Secret("pä:ss"))


@pytest.fixture
async def client() -> AsyncIterator[OutboundClient]:
    async with OutboundClient(Trusted()) as opened:
        yield opened


@pytest.fixture
def sink(client: OutboundClient) -> HttpReportSink:
    return HttpReportSink(client, FakeClock(), timeout=0.5)


async def test_a_report_is_a_post_of_json_to_base_url_and_sync_path(
    server: CallbackServer, sink: HttpReportSink
) -> None:
    await sink.deliver(Tenant("acme", client_base_url=f"{server.url}/app/"), PAYLOAD, REPORT_ID)
    await sink.deliver(Tenant("acme", client_base_url=server.url, client_sync_path="hook?x=1"), PAYLOAD, REPORT_ID)
    first, second = server.requests
    assert (first.method, first.path, second.path) == ("POST", "/app/mail-proxy/sync", "/hook?x=1")
    assert first.headers["content-type"] == "application/json"
    assert first.headers["user-agent"] == f"genro-mail-proxy/{mail_proxy.__version__}"
    assert "authorization" not in first.headers
    assert first.body == PAYLOAD


async def test_a_token_and_a_password_arrive_as_the_tenant_wrote_them(
    server: CallbackServer, sink: HttpReportSink
) -> None:
    for auth in (BEARER, BASIC, ClientAuth(ClientAuthMethod.BASIC), ClientAuth(ClientAuthMethod.BEARER)):
        await sink.deliver(Tenant("acme", client_base_url=server.url, client_auth=auth), PAYLOAD, REPORT_ID)
    bearer, basic, *empty = [request.headers["authorization"] for request in server.requests]
    assert bearer == f"Bearer {CANARY}"
    assert base64.b64decode(basic.removeprefix("Basic ")).decode() == "jürgen:pä:ss"
    assert empty == ["Basic Og==", "Bearer"]


async def test_without_a_secret_that_no_key_opens_nothing_is_sent_anywhere(
    client: OutboundClient, server: CallbackServer, sink: HttpReportSink
) -> None:
    own = Tenant("acme", client_base_url=server.url, unreadable=frozenset({TenantSecret.CLIENT_AUTH}))
    unsigned = replace(own, unreadable=frozenset({TenantSecret.SIGNING}))
    for tenant in (own, unsigned):
        (lost,) = tenant.unreadable
        assert understand(await sink.deliver(tenant, PAYLOAD, REPORT_ID)) == Refused(lost.lost)
        assert sink.place(tenant) != sink.place(replace(tenant, unreadable=frozenset()))  # given anew, it is tried
    assert server.requests == []
    common = HttpReportSink(client, FakeClock(), Endpoint(server.url, ClientAuth()))
    assert (await common.deliver(replace(own, client_base_url=None), PAYLOAD, REPORT_ID)).status == 200
    await common.deliver(replace(unsigned, client_base_url=None), PAYLOAD, REPORT_ID)
    assert len(server.requests) == 1  # it needs no credentials of the tenant's, but its signature


async def test_tenants_without_url_report_to_the_common_endpoint_with_its_own_credentials(
    client: OutboundClient, server: CallbackServer
) -> None:
    async with CallbackServer() as common:
        fallback = Endpoint(f"{common.url}/all", ClientAuth(ClientAuthMethod.BEARER, token=Secret("common")))
        sink = HttpReportSink(client, FakeClock(), fallback)
        silent = Tenant("silent", client_auth=BEARER)
        assert sink.has_endpoint(silent)
        await sink.deliver(silent, PAYLOAD, REPORT_ID)
        await sink.deliver(Tenant("acme", client_base_url=server.url), PAYLOAD, REPORT_ID)
    (to_common,), (to_own,) = common.requests, server.requests
    assert (to_common.path, to_common.headers["authorization"]) == ("/all", "Bearer common")
    assert "authorization" not in to_own.headers


@pytest.mark.parametrize("token", ["two\r\nX-Evil: 1", "nul\x00", "line\nfeed"])
async def test_credentials_that_would_break_out_of_their_header_are_not_sent(
    server: CallbackServer, sink: HttpReportSink, token: str
) -> None:
    auth = ClientAuth(ClientAuthMethod.BEARER, token=Secret(token))
    answer = await sink.deliver(Tenant("acme", client_base_url=server.url, client_auth=auth), PAYLOAD, REPORT_ID)
    assert answer.status is None
    assert answer.error
    assert token not in answer.error
    assert server.requests == []


@pytest.mark.parametrize("manner", [Manner.RESET, Manner.CUT, Manner.HANG, Manner.RAW, Manner.ENDLESS])
async def test_no_error_shows_credentials_path_or_payload(
    server: CallbackServer, sink: HttpReportSink, manner: Manner, caplog: pytest.LogCaptureFixture
) -> None:
    server.script(Reply(200, b"x" * 65536, manner=manner))
    tenant = Tenant("acme", client_base_url=server.url, client_sync_path=f"/{CANARY}?k={CANARY}", client_auth=BEARER)
    answer = await sink.deliver(tenant, f'{{"delivery_report": ["{CANARY}"]}}'.encode(), REPORT_ID)
    assert answer.error
    assert CANARY not in repr(answer) + caplog.text


async def test_status_counts_even_where_the_body_is_too_long(server: CallbackServer, sink: HttpReportSink) -> None:
    tenant = Tenant("acme", client_base_url=server.url)
    endless = [Reply(status, b" " * 65536, {"Retry-After": "9"}, manner=Manner.ENDLESS) for status in (200, 410, 503)]
    server.script(*endless)
    meanings = [understand(await sink.deliver(tenant, PAYLOAD, REPORT_ID)) for _ in endless]
    assert isinstance(meanings[0], Refused)
    assert isinstance(meanings[1], Paused)
    assert meanings[2] == Refused("HTTP 503", 9.0)


NOW = 1_760_000_000.0  # Thu, 09 Oct 2025 08:53:20 GMT


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("9" * 400, float("inf")),
        ("Thu, 09 Oct 2025 08:55:20 GMT", 120.0),
        ("Thursday, 09-Oct-25 08:55:20 GMT", 120.0),
        ("Thu Oct  9 08:55:20 2025", 120.0),
        ("Thu, 09 Oct 2025 07:00:00 GMT", 0.0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("१२", None),
        ("Thu, 99 Oct 2025 08:55:20 GMT", None),
        ("Thu, 09 Oct 99999 08:55:20 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str, seconds: float | None) -> None:
    assert retry_after(header, NOW) == seconds


@PATIENT
@given(st.text())
def test_any_retry_after_is_harmless(header: str) -> None:
    seconds = retry_after(header, NOW)
    assert seconds is None or seconds >= 0


async def test_a_report_is_signed_with_every_secret_whose_time_lasts(
    server: CallbackServer, client: OutboundClient
) -> None:
    new, old, ended = (shown_secret(bytes([n]) * 32) for n in range(3))
    clock = FakeClock()
    now = clock.now()
    signing = Signing(new, (EarlierSecret(old, now + 1), EarlierSecret(ended, now)))
    tenant = Tenant("acme", client_base_url=server.url, signing=signing)
    await HttpReportSink(client, clock).deliver(tenant, PAYLOAD, REPORT_ID)
    (request,) = server.requests
    assert request.headers["webhook-id"] == REPORT_ID
    assert request.headers["webhook-timestamp"] == str(int(now))
    assert request.headers["webhook-signature"] == signatures((new, old), REPORT_ID, int(now), request.body)


async def test_at_the_common_endpoint_a_report_is_signed_with_its_tenant_s_secret(
    server: CallbackServer, client: OutboundClient
) -> None:
    secret, clock = shown_secret(b"k" * 32), FakeClock()
    sink = HttpReportSink(client, clock, Endpoint(f"{server.url}/all", ClientAuth()))
    empty = b'{"delivery_report":[]}'
    await sink.deliver(Tenant("silent", signing=Signing(secret)), empty, REPORT_ID)
    (request,) = server.requests
    assert request.headers["webhook-signature"] == signatures((secret,), REPORT_ID, int(clock.now()), empty)


async def test_without_a_secret_a_report_has_its_id_and_no_signature(
    server: CallbackServer, sink: HttpReportSink
) -> None:
    await sink.deliver(Tenant("acme", client_base_url=server.url), PAYLOAD, REPORT_ID)
    assert server.requests[0].headers["webhook-id"] == REPORT_ID
    assert "webhook-signature" not in server.requests[0].headers


async def test_another_endpoint_and_other_credentials_are_another_place(sink: HttpReportSink) -> None:
    one, other = (ClientAuth(ClientAuthMethod.BEARER, Secret(text)) for text in ("one", "other"))
    tenant = Tenant("acme", client_base_url="https://acme.example")
    changes: list[dict[str, Any]] = [
        {},
        {"client_base_url": "https://elsewhere.example"},
        {"client_sync_path": "/elsewhere"},
        {"client_auth": one},
        {"client_auth": other},
    ]
    places = [sink.place(replace(tenant, **each)) for each in changes]
    assert len(set(places)) == len(places)
