"""Commands about messages that are there already: delete, send once more, clean up."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from mail_proxy.administration.message_commands import Retried
from mail_proxy.administration.requests import CleanupIn, DeleteIn, OfTenant, RetryIn
from mail_proxy.api.auth import AnyCaller, Caller, refuse_other_tenant, tenant_meant
from mail_proxy.api.bodies import LISTS, read_model
from mail_proxy.api.documented import BODY, body, failures
from mail_proxy.api.errors import answer
from mail_proxy.api.queries import TenantQuery
from mail_proxy.api.schemas.messages import CleanedOut, DeletedOut, RetriedOut
from mail_proxy.api.services import Services, services_of
from mail_proxy.domain.errors import Invalid, Problem
from mail_proxy.ports.message_changes import RetryFilter

router = APIRouter(prefix="/commands", tags=["commands"])

_FILTERS = ("state", "status", "account_id", "batch_code", "created_from", "created_to")


@router.post(
    "/delete-messages",
    summary="Delete messages",
    response_model=DeletedOut,
    responses=failures(403, 404, *BODY),
    openapi_extra=body(
        DeleteIn,
        {"Two messages": {"tenant_id": "acme", "ids": ["order-1042-confirmation", "order-1043-confirmation"]}},
    ),
)
async def delete_messages(request: Request, caller: AnyCaller, query: Annotated[TenantQuery, Query()]) -> Response:
    """Delete messages of a tenant, all in one transaction.

    One that waits becomes `cancelled`, which is reported. One that is finished is gone, and its id is free; what is
    not reported of it yet is reported all the same. One that is being sent is left alone.
    """
    services = services_of(request)
    wanted = await read_model(request, DeleteIn, services.settings.max_request_bytes, most=LISTS)
    tenant_id = await _tenant_meant(caller, query, wanted, services)
    deleted = await services.message_commands.delete(tenant_id, wanted.ids)
    return answer(
        {
            "ok": True,
            "removed": deleted.removed,
            "not_found": deleted.not_found,
            "unauthorized": [],
            "in_progress": deleted.in_progress,
        }
    )


@router.post(
    "/retry-messages",
    summary="Send failed messages once more",
    response_model=RetriedOut,
    responses=failures(403, 404, *BODY),
    openapi_extra=body(
        RetryIn,
        {
            "By id": {"tenant_id": "acme", "ids": ["order-1042-confirmation"]},
            "What failed of a campaign": {
                "tenant_id": "acme",
                "batch_code": "newsletter-2026-07",
                "state": "failed",
            },
        },
    ),
)
async def retry_messages(request: Request, caller: AnyCaller, query: Annotated[TenantQuery, Query()]) -> Response:
    """Send messages once more to those recipients whom they failed to reach, as if they had not been tried before.

    By `ids`, also messages that reached some of their recipients; or by a filter, those that failed or expired
    altogether. One call does some 10 000 messages; `next_cursor` says where to go on.
    """
    services = services_of(request)
    wanted = await read_model(request, RetryIn, services.settings.max_request_bytes, most=LISTS)
    filtered = [name for name in _FILTERS if getattr(wanted, name) is not None]
    if wanted.ids is not None and (filtered or wanted.cursor is not None):
        raise Invalid(Problem((filtered or ["cursor"])[0], "must not be given together with ids"))
    if wanted.ids is None and not filtered:
        raise Invalid(Problem("ids", f"is required, or one of {', '.join(_FILTERS)}"))
    tenant_id = await _tenant_meant(caller, query, wanted, services)
    commands = services.message_commands
    if wanted.ids is not None:
        return answer(_retried_view(await commands.retry(tenant_id, wanted.ids)))
    matching = RetryFilter(
        state=wanted.state,
        account_id=wanted.account_id,
        batch_code=wanted.batch_code,
        created_from=wanted.created_from,
        created_to=wanted.created_to,
    )
    return answer(_retried_view(await commands.retry_matching(tenant_id, matching, int(wanted.cursor or 0))))


@router.post(
    "/cleanup-messages",
    summary="Remove finished and reported messages",
    response_model=CleanedOut,
    responses=failures(403, 404, *BODY),
    openapi_extra=body(
        CleanupIn, {"Older than a day": {"tenant_id": "acme", "older_than_seconds": 86400}}, required=False
    ),
)
async def cleanup_messages(request: Request, caller: AnyCaller, query: Annotated[TenantQuery, Query()]) -> Response:
    """Remove messages of a tenant that are finished and reported, instead of waiting for the retention to pass.

    Of a tenant without an endpoint, which nothing is reported to, those that are finished. One call removes some
    10 000 messages; `next_cursor` says where to go on.
    """
    services = services_of(request)
    wanted = await read_model(request, CleanupIn, services.settings.max_request_bytes, optional=True)
    tenant_id = await _tenant_meant(caller, query, wanted, services)
    cleaned = await services.message_commands.clean(tenant_id, wanted.older_than_seconds, int(wanted.cursor or 0))
    return answer({"ok": True, "removed": cleaned.removed, "next_cursor": _cursor(cleaned.next_after)})


async def _tenant_meant(caller: Caller, query: TenantQuery, wanted: OfTenant, services: Services) -> str:
    """Return the tenant that is named in the query, or in the body, or by neither. Raises as `tenant_meant`."""
    refuse_other_tenant(caller, query.tenant_id)
    refuse_other_tenant(caller, wanted.tenant_id)
    if None not in {query.tenant_id, wanted.tenant_id} and query.tenant_id != wanted.tenant_id:
        raise Invalid(Problem("tenant_id", "is another one in the body than in the query"))
    return await tenant_meant(caller, wanted.tenant_id if query.tenant_id is None else query.tenant_id, services)


def _retried_view(retried: Retried) -> dict[str, object]:
    skipped = {reason.value: count for reason, count in retried.skipped.items() if count}
    return {
        "ok": True,
        "queued": retried.queued,
        "skipped": sum(skipped.values()),
        "reasons": skipped,
        "next_cursor": _cursor(retried.next_after),
    }


def _cursor(after: int | None) -> str | None:
    return None if after is None else str(after)
