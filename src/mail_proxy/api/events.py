"""The feed of events, for those who would rather ask than be called."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from mail_proxy.api.auth import AnyCaller, tenant_meant
from mail_proxy.api.documented import failures
from mail_proxy.api.long_lists import answer_with_list
from mail_proxy.api.queries import FeedQuery
from mail_proxy.api.schemas.events import FeedAnswer
from mail_proxy.api.services import services_of
from mail_proxy.reporting.feed import Wanted

router = APIRouter(prefix="/events", tags=["messages"])


@router.get(
    "",
    summary="Follow what becomes of messages",
    response_model=FeedAnswer,
    responses=failures(403, 404, 410),
)
async def follow_events(request: Request, caller: AnyCaller, query: Annotated[FeedQuery, Query()]) -> Response:
    """List events of a tenant in the order in which they happened, whether they were reported or not.

    Go on with `next_cursor`, or with the last `event_id` that you have handled: none is left out and none comes twice.
    With `wait`, the answer to an empty page comes as soon as there is an event. Events are kept as long as
    `GMP_DELIVERY_REPORT_RETENTION_SECONDS` says; a cursor that is older is answered with 410.
    """
    services = services_of(request)
    tenant_id = await tenant_meant(caller, query.tenant_id, services)

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    wanted = Wanted(tenant_id, query.place, query.limit, query.wait)
    page = await services.feed.read(wanted, lambda: services.page_turns.turn(tenant_id), gone)
    others: dict[str, object] = {"next_cursor": str(page.next_after), "more": page.more}
    if page.too_many_wait:
        others["too_many_wait"] = True
    return answer_with_list("events", b"[%s]" % b",".join(page.entries), others)
