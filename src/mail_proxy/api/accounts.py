"""SMTP accounts."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from mail_proxy.administration.requests import AccountIn
from mail_proxy.administration.views import account_view, probe_view
from mail_proxy.api.auth import AnyCaller, tenant_meant
from mail_proxy.api.bodies import read_model, refuse_body
from mail_proxy.api.cursors import cursor_to
from mail_proxy.api.documented import BODY, body, failures
from mail_proxy.api.errors import answer
from mail_proxy.api.queries import AccountsQuery, ForceTenantQuery, NoQuery, TenantQuery
from mail_proxy.api.schemas.accounts import AccountAnswer, AccountsAnswer, TestAnswer
from mail_proxy.api.schemas.answer import Answer, Put
from mail_proxy.api.services import services_of
from mail_proxy.ports.archive import Place

router = APIRouter(tags=["accounts"])

AccountId = Annotated[str, Path(description="The account's id.", examples=["main"])]

_NEW: dict[str, dict[str, Any]] = {
    "With a login": {
        "id": "main",
        "tenant_id": "acme",
        "host": "smtp.acme.example",
        "port": 587,
        "user": "mailer@acme.example",
        "password": "its-password",
        "is_default": True,
    },
    "With OAuth": {
        "id": "office",
        "tenant_id": "acme",
        "host": "smtp.office365.com",
        "port": 587,
        "user": "mailer@acme.example",
        "auth": "xoauth2",
        "oauth": {
            "token_url": "https://login.microsoftonline.com/common/oauth2/v2.0/token",
            "client_id": "my-application",
            "client_secret": "its-secret",
            "refresh_token": "the-refresh-token",
            "scope": "https://outlook.office.com/SMTP.Send offline_access",
        },
    },
    "A relay without login": {"id": "relay", "tenant_id": "acme", "host": "relay.acme.example", "port": 25},
}


@router.post(
    "/account",
    summary="Create or change an account",
    response_model=Put,
    responses=failures(403, 404, *BODY),
    openapi_extra=body(AccountIn, _NEW),
)
async def put_account(request: Request, caller: AnyCaller, _query: Annotated[NoQuery, Query()]) -> Response:
    """Create an SMTP account, or change it: what is left out stays, null means the default. Ends its hold.

    Secrets are written, never read back. When `host`, `port` or the token URL change, they have to be given anew. For
    what a tenant's token sets, no address inside the network is connected to.
    """
    services = services_of(request)
    wanted = await read_model(request, AccountIn, services.settings.max_request_bytes)
    tenant_id = await tenant_meant(caller, wanted.tenant_id, services)
    created = await services.accounts.put(tenant_id, wanted, by_tenant=not caller.is_admin)
    return answer({"ok": True, "created": created})


@router.get(
    "/accounts",
    summary="List accounts",
    response_model=AccountsAnswer,
    responses=failures(403, 404),
)
async def list_accounts(request: Request, caller: AnyCaller, query: Annotated[AccountsQuery, Query()]) -> Response:
    """List a tenant's accounts, oldest first: all of them, or by the page with `limit` and `cursor`."""
    services = services_of(request)
    tenant_id = await tenant_meant(caller, query.tenant_id, services)
    last: int | None = None
    if query.page_size is None:
        accounts = await services.accounts.of(tenant_id)
    else:
        accounts, last = await services.accounts.page(tenant_id, query.after, query.page_size)
    shown = [account_view(each, services.outage_of(each.pk)) for each in accounts]
    next_cursor = None if last is None else cursor_to(Place(0.0, last))
    return answer({"ok": True, "accounts": shown, "next_cursor": next_cursor})


@router.get(
    "/account/{account_id}",
    summary="Show an account",
    response_model=AccountAnswer,
    responses=failures(403, 404),
)
async def get_account(
    request: Request, caller: AnyCaller, account_id: AccountId, query: Annotated[TenantQuery, Query()]
) -> Response:
    """Show an account, secrets left out."""
    services = services_of(request)
    account = await services.accounts.get(await tenant_meant(caller, query.tenant_id, services), account_id)
    return answer({"ok": True, **account_view(account, services.outage_of(account.pk))})


@router.post(
    "/account/{account_id}/test",
    summary="Try an account",
    response_model=TestAnswer,
    response_model_exclude_unset=True,
    responses=failures(403, 404, *BODY),
)
async def test_account(
    request: Request, caller: AnyCaller, account_id: AccountId, query: Annotated[TenantQuery, Query()]
) -> Response:
    """Connect, TLS, EHLO, AUTH, QUIT: say which step fails and what the server replies. Nothing is sent.

    It takes at most 30 s, and tries what sending would try. When it gets through, a hold of the account ends. With a
    tenant's token what is behind a port that speaks no SMTP is not told.
    """
    services = services_of(request)
    await refuse_body(request, services.settings.max_request_bytes)
    tenant_id = await tenant_meant(caller, query.tenant_id, services)
    tested = await services.account_tests.test(tenant_id, account_id, by_tenant=not caller.is_admin)
    return answer(probe_view(tested))


@router.delete(
    "/account/{account_id}",
    summary="Remove an account",
    response_model=Answer,
    responses=failures(403, 404, 409, *BODY),
)
async def delete_account(
    request: Request, caller: AnyCaller, account_id: AccountId, query: Annotated[ForceTenantQuery, Query()]
) -> Response:
    """Remove an account; 409 while messages wait for it. With `force` they are cancelled and reported."""
    services = services_of(request)
    await refuse_body(request, services.settings.max_request_bytes)
    tenant_id = await tenant_meant(caller, query.tenant_id, services)
    await services.accounts.delete(tenant_id, account_id, force=query.force)
    return answer({"ok": True})
