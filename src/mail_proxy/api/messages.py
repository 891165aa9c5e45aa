"""Messages: list, one, its history, and what holds it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from mail_proxy.api.auth import AnyCaller, tenant_meant
from mail_proxy.api.cursors import cursor_to
from mail_proxy.api.documented import failures
from mail_proxy.api.errors import answer
from mail_proxy.api.long_lists import answer_with_list, in_thread_if_long
from mail_proxy.api.queries import MessagesQuery, TenantQuery
from mail_proxy.api.schemas.events import EventsAnswer
from mail_proxy.api.schemas.messages import ExplanationAnswer, MessageAnswer, MessagesAnswer
from mail_proxy.api.services import services_of
from mail_proxy.api.views import event_view, explanation_view, message_view
from mail_proxy.domain.errors import NotFound
from mail_proxy.domain.explanation import explain
from mail_proxy.intake.submission import MAX_ID

router = APIRouter(prefix="/messages", tags=["messages"])

MessageId = Annotated[str, Path(description="Your id of the message.", examples=["order-1042-confirmation"])]


@router.get(
    "",
    summary="List and search messages",
    response_model=MessagesAnswer,
    responses=failures(403, 404),
)
async def list_messages(request: Request, caller: AnyCaller, query: Annotated[MessagesQuery, Query()]) -> Response:
    """List messages of a tenant, newest first, or search them; all that is given must hold.

    A page costs the same at row one million as at row one. A search in texts (`recipient`, `from`, `subject`,
    `metadata`), and one for which there is no index, looks at no more than 10 000 messages and then answers what it has
    found, be it nothing: go on with `next_cursor` until it is null.
    """
    services = services_of(request)
    tenant_id = await tenant_meant(caller, query.tenant_id, services)
    now = services.clock.now()
    async with services.page_turns.turn(tenant_id):
        page = await services.archive.page(tenant_id, query.filter(), query.below, query.limit, now)
        shown = await in_thread_if_long(page.messages, lambda message: message_view(message, now))
    next_cursor = None if page.below is None else cursor_to(page.below)
    return answer_with_list("messages", shown, {"next_cursor": next_cursor})


@router.get(
    "/{message_id}",
    summary="Show one message",
    response_model=MessageAnswer,
    responses=failures(403, 404),
)
async def get_message(
    request: Request, caller: AnyCaller, message_id: MessageId, query: Annotated[TenantQuery, Query()]
) -> Response:
    """Show one message with the state of each recipient."""
    services = services_of(request)
    tenant_id = await tenant_meant(caller, query.tenant_id, services)
    details = await services.archive.message(tenant_id, message_id) if _possible(message_id) else None
    if details is None:
        raise NotFound("There is no such message.")
    return answer({"ok": True, **message_view(details, services.clock.now())})


@router.get(
    "/{message_id}/events",
    summary="Show a message's history",
    response_model=EventsAnswer,
    responses=failures(403, 404),
)
async def get_history(
    request: Request, caller: AnyCaller, message_id: MessageId, query: Annotated[TenantQuery, Query()]
) -> Response:
    """Show what happened to a message, oldest first."""
    services = services_of(request)
    tenant_id = await tenant_meant(caller, query.tenant_id, services)
    history = await services.archive.history(tenant_id, message_id) if _possible(message_id) else None
    if history is None:
        raise NotFound("There is no such message.")
    return answer({"ok": True, "events": [event_view(event) for event in history]})


@router.get(
    "/{message_id}/explain",
    summary="Explain why a message has not been sent yet",
    response_model=ExplanationAnswer,
    responses=failures(403, 404),
)
async def explain_message(
    request: Request, caller: AnyCaller, message_id: MessageId, query: Annotated[TenantQuery, Query()]
) -> Response:
    """Say what holds a message, since when, until when, and how many go before it; or how it ended."""
    services = services_of(request)
    tenant_id = await tenant_meant(caller, query.tenant_id, services)
    standing = await services.archive.standing(tenant_id, message_id) if _possible(message_id) else None
    if standing is None:
        raise NotFound("There is no such message.")
    explanation = explain(standing, services.here(standing.account_pk), services.clock.now())
    return answer({"ok": True, **explanation_view(standing, explanation)})


def _possible(message_id: str) -> bool:
    """False for what no message can be called; a database must not be asked for a text with a NUL."""
    return message_id.isprintable() and len(message_id) <= MAX_ID
