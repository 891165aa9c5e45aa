"""Tenants and their keys."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from mail_proxy.administration.requests import ApiKeyIn, TenantChanges, TenantIn
from mail_proxy.administration.views import tenant_view
from mail_proxy.api.auth import AdminCaller, AnyCaller, tenant_meant
from mail_proxy.api.bodies import read_model, refuse_body
from mail_proxy.api.documented import BODY, body, failures
from mail_proxy.api.errors import answer
from mail_proxy.api.queries import ForceQuery, NoQuery, SyncStatusQuery, TenantsQuery
from mail_proxy.api.schemas.answer import Answer
from mail_proxy.api.schemas.tenants import (
    ApiKeyAnswer,
    SigningSecretAnswer,
    SyncStatusAnswer,
    TenantAnswer,
    TenantPut,
    TenantsAnswer,
)
from mail_proxy.api.services import services_of
from mail_proxy.api.views import sync_view

router = APIRouter(tags=["tenants"])

TenantId = Annotated[str, Path(description="The tenant's id.", examples=["acme"])]
Nothing = Annotated[NoQuery, Query()]

_NEW: dict[str, dict[str, Any]] = {
    "A tenant": {"id": "acme"},
    "With an endpoint for reports": {
        "id": "acme",
        "name": "ACME Corp",
        "client_base_url": "https://acme.example",
        "client_sync_path": "/mail-proxy/sync",
        "client_auth": {"method": "bearer", "token": "the-token-of-my-endpoint"},
    },
}
_CHANGES: dict[str, dict[str, Any]] = {"Another name": {"name": "ACME International"}, "Switch off": {"active": False}}
_KEY: dict[str, dict[str, Any]] = {"For ever": {}, "With an end": {"api_key_expires_at": 1900000000}}


@router.post(
    "/tenant",
    summary="Create or change a tenant",
    response_model=TenantPut,
    response_model_exclude_unset=True,
    responses=failures(403, *BODY),
    openapi_extra=body(TenantIn, _NEW),
)
async def put_tenant(request: Request, caller: AdminCaller, _query: Nothing) -> Response:
    """Create a tenant, and answer with its token: shown this once. Or change it: what is left out stays."""
    services = services_of(request)
    wanted = await read_model(request, TenantIn, services.settings.max_request_bytes)
    caller.notes.tenant_id = wanted.id
    key = await services.tenants.put(wanted)
    told = {} if key is None else {"api_key": key}
    return answer({"ok": True, "created": key is not None, **told})


@router.get("/tenants", summary="List tenants", response_model=TenantsAnswer, responses=failures(403))
async def list_tenants(request: Request, _caller: AdminCaller, query: Annotated[TenantsQuery, Query()]) -> Response:
    """List tenants, by id: all of them, or by the page with `limit` and `cursor`."""
    services = services_of(request)
    last: str | None = None
    if query.page_size is None:
        tenants = await services.tenants.all()
    else:
        tenants, last = await services.tenants.page(query.cursor, query.page_size)
    return answer({"ok": True, "tenants": [tenant_view(tenant) for tenant in tenants], "next_cursor": last})


@router.get(
    "/tenants/sync-status",
    summary="Show how reporting goes",
    response_model=SyncStatusAnswer,
    responses=failures(403),
)
async def sync_status(request: Request, _caller: AdminCaller, query: Annotated[SyncStatusQuery, Query()]) -> Response:
    """Show how reporting to each tenant goes, by id: when it last worked, when the next report is due, why it fails."""
    tenants, last = await services_of(request).sync_overview.page(query.cursor, query.limit)
    return answer({"ok": True, "tenants": [sync_view(each) for each in tenants], "next_cursor": last})


@router.get(
    "/tenant/{tenant_id}",
    summary="Show a tenant",
    response_model=TenantAnswer,
    responses=failures(403, 404),
)
async def get_tenant(request: Request, caller: AnyCaller, tenant_id: TenantId, _query: Nothing) -> Response:
    """Show a tenant's settings, secrets left out."""
    services = services_of(request)
    tenant = await services.tenants.get(await tenant_meant(caller, tenant_id, services))
    return answer({"ok": True, **tenant_view(tenant)})


@router.put(
    "/tenant/{tenant_id}",
    summary="Change a tenant",
    response_model=Answer,
    responses=failures(403, 404, *BODY),
    openapi_extra=body(TenantChanges, _CHANGES),
)
async def update_tenant(request: Request, caller: AdminCaller, tenant_id: TenantId, _query: Nothing) -> Response:
    """Change a tenant's settings: what is left out stays, null means the default."""
    services = services_of(request)
    changes = await read_model(request, TenantChanges, services.settings.max_request_bytes)
    await services.tenants.update(await tenant_meant(caller, tenant_id, services), changes)
    return answer({"ok": True})


@router.delete(
    "/tenant/{tenant_id}",
    summary="Remove a tenant",
    response_model=Answer,
    responses=failures(403, 404, 409, *BODY),
)
async def delete_tenant(
    request: Request, caller: AdminCaller, tenant_id: TenantId, query: Annotated[ForceQuery, Query()]
) -> Response:
    """Remove a tenant and all its data; 409 while messages are unfinished or unreported, unless `force`."""  # G9
    services = services_of(request)
    await refuse_body(request, services.settings.max_request_bytes)
    await services.tenants.delete(await tenant_meant(caller, tenant_id, services), force=query.force)
    return answer({"ok": True})


@router.post(
    "/tenant/{tenant_id}/api-key",
    summary="Give a tenant a new token",
    response_model=ApiKeyAnswer,
    responses=failures(403, 404, *BODY),
    openapi_extra=body(ApiKeyIn, _KEY, required=False),
)
async def new_api_key(request: Request, caller: AdminCaller, tenant_id: TenantId, _query: Nothing) -> Response:
    """Make a new token, shown this once; the old one ends at once, on every instance."""
    services = services_of(request)
    wanted = await read_model(request, ApiKeyIn, services.settings.max_request_bytes, optional=True)
    meant = await tenant_meant(caller, tenant_id, services)
    return answer({"ok": True, "api_key": await services.tenants.new_key(meant, wanted.api_key_expires_at)})


@router.delete(
    "/tenant/{tenant_id}/api-key",
    summary="Revoke a tenant's token",
    response_model=Answer,
    responses=failures(403, 404, *BODY),
)
async def revoke_api_key(request: Request, caller: AdminCaller, tenant_id: TenantId, _query: Nothing) -> Response:
    """Revoke the tenant's token, at once and on every instance. The tenant's messages go on."""
    services = services_of(request)
    await refuse_body(request, services.settings.max_request_bytes)
    await services.tenants.revoke_key(await tenant_meant(caller, tenant_id, services))
    return answer({"ok": True})


@router.post(
    "/tenant/{tenant_id}/signing-secret",
    summary="Sign a tenant's reports with a new secret",
    response_model=SigningSecretAnswer,
    responses=failures(403, 404, *BODY),
)
async def new_signing_secret(request: Request, caller: AdminCaller, tenant_id: TenantId, _query: Nothing) -> Response:
    """Make a new secret, shown this once. The one before it signs along for 24 hours, so that receivers can change."""
    services = services_of(request)
    await refuse_body(request, services.settings.max_request_bytes)
    secret, until = await services.tenants.new_signing_secret(await tenant_meant(caller, tenant_id, services))
    return answer({"ok": True, "signing_secret": secret, "earlier_secrets_until": until})


@router.delete(
    "/tenant/{tenant_id}/signing-secret",
    summary="Sign a tenant's reports no more",
    response_model=Answer,
    responses=failures(403, 404, *BODY),
)
async def stop_signing(request: Request, caller: AdminCaller, tenant_id: TenantId, _query: Nothing) -> Response:
    """Forget the tenant's signing secrets, at once: its reports go out without signatures."""
    services = services_of(request)
    await refuse_body(request, services.settings.max_request_bytes)
    await services.tenants.stop_signing(await tenant_meant(caller, tenant_id, services))
    return answer({"ok": True})
