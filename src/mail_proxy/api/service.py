"""The instance itself: does it live, is it ready, how is it doing."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

import mail_proxy
from mail_proxy.api.auth import AnyCaller, presented_bearer, refused, tenant_or_all
from mail_proxy.api.documented import failures
from mail_proxy.api.errors import answer, failure
from mail_proxy.api.queries import NoQuery, OptionalTenantQuery
from mail_proxy.api.schemas.answer import Answer
from mail_proxy.api.schemas.status import StatusAnswer
from mail_proxy.api.services import services_of
from mail_proxy.domain.errors import Unauthorized
from mail_proxy.runtime.telemetry import CONTENT_TYPE
from mail_proxy.secrets import tokens

router = APIRouter(tags=["service"])

Nothing = Annotated[NoQuery, Query()]


@router.get("/health", summary="Does it live?", response_model=Answer, responses=failures(422, public=True))
async def health(_query: Nothing) -> Response:
    """Answer while the process lives."""
    return answer({"ok": True})


@router.head("/health", include_in_schema=False)
async def health_head(query: Nothing) -> Response:
    """Answer as `health` does, without its body."""
    return _head_of(await health(query))


@router.get(
    "/ready",
    summary="Is it ready?",
    response_model=Answer,
    responses=failures(422, 503, public=True),
)
async def ready(request: Request, _query: Nothing) -> Response:
    """Answer 200 when the store answers and the loops run, else 503 with the reason."""
    reasons = await services_of(request).not_ready()
    return failure(503, " ".join(reasons), "not_ready") if reasons else answer({"ok": True})


@router.head("/ready", include_in_schema=False)
async def ready_head(request: Request, query: Nothing) -> Response:
    """Answer as `ready` does, without its body."""
    return _head_of(await ready(request, query))


def _head_of(whole: Response) -> Response:
    """Return the answer to HEAD: that to GET with all its headers, its length too (RFC 9110 section 9.3.2)."""
    return Response(status_code=whole.status_code, headers=dict(whole.headers))


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={
        **failures(401, 422, 429, public=True),
        200: {
            "description": "Metrics in the text format of Prometheus.",
            "content": {
                "text/plain": {
                    "schema": {"type": "string"},
                    "example": 'gmp_sent_total{tenant_id="acme",account_id="main"} 42.0\n',
                }
            },
        },
    },
)
async def metrics(request: Request, _query: Nothing) -> Response:
    """Answer the metrics; where `GMP_METRICS_TOKEN` is set, only to that bearer token."""
    services = services_of(request)
    wanted = services.settings.metrics_token_digest
    if wanted is not None:
        shown = presented_bearer(request.scope)
        if shown is None or not tokens.same(tokens.digest(shown), wanted):
            await refused(request.scope, services, guessed=shown is not None)
            raise Unauthorized("The metrics are behind a bearer token of their own.")
    return Response(await services.metrics_text.get(), media_type=CONTENT_TYPE)


@router.get(
    "/status",
    summary="How is it doing?",
    response_model=StatusAnswer,
    response_model_exclude_unset=True,
    responses=failures(403, 404),
)
async def status(request: Request, caller: AnyCaller, query: Annotated[OptionalTenantQuery, Query()]) -> Response:
    """Show the state of the instance; the admin token also sees loops, outages and the oldest message.

    With `tenant_id`, or a tenant's token, `pending_messages` are that tenant's: exact below 10 000.

    Where several workers share the address, it is the one that answers whose uptime and loops are shown.
    """
    services = services_of(request)
    settings, insight = services.settings, services.insight()
    tenant_id = await tenant_or_all(caller, query.tenant_id, services)
    shown: dict[str, object] = {
        "ok": True,
        "version": mail_proxy.__version__,
        "instance": await services.instance.name(),
        "scheduler_active": await services.scheduling.active(),
        "pending_messages": insight.pending if tenant_id is None else await services.pending.of(tenant_id),
        "uptime_seconds": round(services.clock.monotonic() - services.started, 3),
        "database": settings.database,
        "workers": settings.workers,
    }
    if caller.is_admin:
        held = await services.accounts.on_hold()
        shown |= {
            "loops": dict(insight.loops or {}),
            "accounts_on_hold": [
                {"tenant_id": each.tenant_id, "id": each.id, "reason": each.hold.reason, "since": each.hold.since}
                for each in held
                if each.hold is not None
            ],
            "servers_left_alone": [
                {
                    "tenant_id": account.tenant_id,
                    "id": account.id,
                    "reason": outage.reason,
                    "since": outage.since_ts,
                    "next_probe_ts": outage.next_probe_ts,
                }
                for account, outage in insight.left_alone
            ],
            "oldest_waiting_ts": insight.oldest_waiting_ts,
        }
    return answer(shown)
