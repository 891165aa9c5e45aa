"""Commands to the instance: run now, suspend, activate."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from mail_proxy.administration.scheduling import Held
from mail_proxy.api.auth import AnyCaller, Caller, tenant_meant, tenant_or_all
from mail_proxy.api.bodies import refuse_body
from mail_proxy.api.documented import BODY, failures
from mail_proxy.api.errors import answer
from mail_proxy.api.queries import OptionalTenantQuery, SuspensionQuery
from mail_proxy.api.schemas import suspensions
from mail_proxy.api.schemas.answer import Answer
from mail_proxy.api.services import services_of

router = APIRouter(prefix="/commands", tags=["commands"])


@router.post(
    "/run-now",
    summary="Look at once for what is due",
    response_model=Answer,
    responses=failures(403, 404, *BODY),
)
async def run_now(request: Request, caller: AnyCaller, query: Annotated[OptionalTenantQuery, Query()]) -> Response:
    """Wake the loops now; answers at once, and does only what is due. For a tenant it also ends its do-not-disturb."""
    services = services_of(request)
    await refuse_body(request, services.settings.max_request_bytes)
    await services.run_now(await tenant_or_all(caller, query.tenant_id, services))
    return answer({"ok": True})


@router.post(
    "/suspend",
    summary="Hold a tenant, a batch or the whole scheduler",
    response_model=suspensions.Held,
    response_model_exclude_unset=True,
    responses=failures(403, 404, 409, *BODY),
)
async def suspend(request: Request, caller: AnyCaller, query: Annotated[SuspensionQuery, Query()]) -> Response:
    """Hold a tenant or one of its batches: what is held adds up. With the admin token and neither: everything."""
    return await _switch(request, caller, query, active=False)


@router.post(
    "/activate",
    summary="Free a tenant, a batch or the whole scheduler",
    response_model=suspensions.Held,
    response_model_exclude_unset=True,
    responses=failures(403, 404, 409, *BODY),
)
async def activate(request: Request, caller: AnyCaller, query: Annotated[SuspensionQuery, Query()]) -> Response:
    """Free a tenant with all its batches, or one batch.

    One batch cannot be freed while its tenant is held as a whole (409 `tenant_suspended`).
    """
    return await _switch(request, caller, query, active=True)


async def _switch(request: Request, caller: Caller, query: SuspensionQuery, *, active: bool) -> Response:
    services = services_of(request)
    await refuse_body(request, services.settings.max_request_bytes)
    if query.batch_code is None and await tenant_or_all(caller, query.tenant_id, services) is None:
        await services.scheduling.set_active(active=active)
        if active:
            await services.run_now(None)
        pending = services.insight().pending
        return answer({"ok": True, "scheduler_active": active, "suspended_batches": [], "pending_messages": pending})
    tenant_id = await tenant_meant(caller, query.tenant_id, services)
    change = services.scheduling.activate if active else services.scheduling.suspend
    return answer(_held_view(await change(tenant_id, query.batch_code)))


def _held_view(held: Held) -> dict[str, object]:
    return {
        "ok": True,
        "tenant_id": held.tenant_id,
        "suspended": held.suspension.whole_tenant,
        "suspended_batches": sorted(held.suspension.batches),
        "pending_messages": held.pending,
    }
