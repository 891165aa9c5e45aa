"""Reports by HTTP: POST to the tenant's own endpoint, or to the one that the operator set for all."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from typing_extensions import override

from mail_proxy.domain.signing import signatures
from mail_proxy.domain.tenant import ClientAuth, Tenant, TenantSecret
from mail_proxy.outbound.client import OutboundClient, Request
from mail_proxy.outbound.credentials import authorization
from mail_proxy.outbound.errors import OutboundError, TooLong
from mail_proxy.ports.clock import Clock
from mail_proxy.ports.report_sink import ReportSink, SinkAnswer


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A URL that takes reports, and the credentials for it."""

    url: str
    auth: ClientAuth


class HttpReportSink(ReportSink):
    """Carries reports by HTTP POST. `fallback` is for tenants without a URL of their own.

    A tenant's credentials go to its own URL only, and the fallback's to the fallback only. `timeout` in seconds covers
    a whole exchange; answers over `max_bytes` count as none: one that names every message of a report has 40 kB.
    """

    def __init__(
        self,
        client: OutboundClient,
        clock: Clock,
        fallback: Endpoint | None = None,
        *,
        timeout: float = 30.0,
        max_bytes: int = 256_000,
    ) -> None:
        self._client = client
        self._clock = clock
        self._fallback = fallback
        self._timeout = timeout
        self._max_bytes = max_bytes

    @override
    def has_endpoint(self, tenant: Tenant) -> bool:
        return self._endpoint(tenant) is not None

    @override
    def place(self, tenant: Tenant) -> str:
        endpoint = self._endpoint(tenant)
        if endpoint is None:
            return ""
        auth = endpoint.auth
        secrets = (None if secret is None else secret.reveal() for secret in (auth.token, auth.password))
        return json.dumps(
            [endpoint.url, auth.method.value, auth.user, *secrets, *(each.value for each in _lost(tenant))]
        )

    @override
    async def deliver(self, tenant: Tenant, payload: bytes, report_id: str) -> SinkAnswer:
        endpoint = self._endpoint(tenant)
        if endpoint is None:
            return SinkAnswer(None, b"", error="there is no endpoint to report to")
        lost = _lost(tenant)
        if lost:
            return SinkAnswer(None, b"", error="; ".join(each.lost for each in lost))
        headers = (
            ("Content-Type", "application/json"),
            ("Accept", "application/json"),
            *authorization(endpoint.auth),
            *_signed(tenant, payload, report_id, self._clock.now()),
        )
        request = Request("POST", endpoint.url, self._timeout, self._max_bytes, headers, payload)
        try:
            response = await self._client.request(request)
        except TooLong as error:
            return SinkAnswer(error.status, b"", self._retry_after(error.headers.get("retry-after")), str(error))
        except OutboundError as error:
            return SinkAnswer(None, b"", error=str(error))
        return SinkAnswer(response.status, response.body, self._retry_after(response.headers.get("retry-after")))

    def _endpoint(self, tenant: Tenant) -> Endpoint | None:
        url = tenant.sync_url
        return self._fallback if url is None else Endpoint(url, tenant.client_auth)

    def _retry_after(self, header: str | None) -> float | None:
        return None if header is None else retry_after(header, self._clock.now())


def _lost(tenant: Tenant) -> Sequence[TenantSecret]:
    """Return the secrets that a report of the tenant needs and no key opens: without them nothing is sent."""  # G16
    needed = [TenantSecret.SIGNING] if tenant.sync_url is None else [TenantSecret.CLIENT_AUTH, TenantSecret.SIGNING]
    return [each for each in needed if each in tenant.unreadable]


def retry_after(header: str, now: float) -> float | None:
    """Read a `Retry-After`, seconds or an HTTP date (RFC 9110, 10.2.3), as seconds from `now`; None for others."""
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text) if len(text) < 10 else math.inf
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _signed(tenant: Tenant, payload: bytes, report_id: str, now: float) -> tuple[tuple[str, str], ...]:
    """Return the headers of Standard Webhooks 1.0; without a secret the report is not signed, and has its id alone."""
    secrets, timestamp = tenant.signing.secrets(now), int(now)
    told = (("webhook-id", report_id), ("webhook-timestamp", str(timestamp)))
    if not secrets:
        return told
    return (*told, ("webhook-signature", signatures(secrets, report_id, timestamp, payload)))
