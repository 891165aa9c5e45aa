"""The command log: who asked for which change, when, and what came of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Annotated

import structlog
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from mail_proxy.api.auth import AdminCaller
from mail_proxy.api.bodies import refuse_body
from mail_proxy.api.documented import BODY, failures
from mail_proxy.api.errors import CutOff, answer, to_json
from mail_proxy.api.queries import CommandLogPageQuery, CommandLogPurgeQuery, CommandLogQuery
from mail_proxy.api.schemas.command_log import CommandLogAnswer, PurgedAnswer
from mail_proxy.api.services import services_of
from mail_proxy.api.views import entry_view
from mail_proxy.domain.command_log import Logged, Position
from mail_proxy.domain.errors import StoreUnavailable

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/command-log", tags=["service"])

LINES = "application/x-ndjson"
_EXAMPLE = (
    '{"id":"4711","ts":1785492000.25,"caller":"admin","tenant_id":"acme","method":"DELETE",'
    '"route":"/account/{account_id}","path":{"account_id":"main"},"query":{"tenant_id":"acme"},"payload":null,'
    '"result":{},"status":409,"code":"account_in_use","address":"192.0.2.7"}\n'
)


@router.get(
    "",
    summary="List changes that were asked for",
    response_model=CommandLogAnswer,
    responses=failures(403),
)
async def list_entries(
    request: Request, _caller: AdminCaller, query: Annotated[CommandLogPageQuery, Query()]
) -> Response:
    """List calls that may have changed something, newest first: who, what, when, and what came of it.

    Secrets and contents of messages are left out. A page costs the same at entry one million as at entry one. With
    `method` or `route` each call reads up to 10 000 entries: a page may have few or none and still a `next_cursor`.
    """
    page = await services_of(request).audit.page(query.filter(), query.position(), query.limit)
    return answer(
        {
            "ok": True,
            "entries": [entry_view(each) for each in page.entries],
            "next_cursor": None if page.next_position is None else _cursor(page.next_position),
        }
    )


@router.get(
    "/export",
    summary="Export changes that were asked for",
    response_class=Response,
    responses={
        **failures(403),
        200: {
            "description": "One entry a line, oldest first, each as in the list: all that there were at the beginning.",
            "content": {LINES: {"schema": {"type": "string"}, "example": _EXAMPLE}},
        },
    },
)
async def export_entries(
    request: Request, _caller: AdminCaller, query: Annotated[CommandLogQuery, Query()]
) -> Response:
    """Stream the same as JSON lines, oldest first. Where it cannot go on, the connection is cut instead of ended."""
    chunks = services_of(request).audit.all(query.filter())
    first = await anext(chunks)  # what fails before the answer has begun is answered as everywhere

    async def lines() -> AsyncIterator[bytes]:
        async with aclosing(chunks):
            yield _lines(first)
            try:
                async for chunk in chunks:
                    yield _lines(chunk)
            except StoreUnavailable as error:
                log.warning("an export is cut off", reason=error.sentence)
                raise CutOff from error

    disposition = {"Content-Disposition": 'attachment; filename="command-log.ndjson"'}
    return StreamingResponse(lines(), media_type=LINES, headers=disposition)


@router.delete(
    "",
    summary="Remove old entries",
    response_model=PurgedAnswer,
    responses=failures(403, *BODY),
)
async def purge_entries(
    request: Request, _caller: AdminCaller, query: Annotated[CommandLogPurgeQuery, Query()]
) -> Response:
    """Remove what is older than a time, before its retention has passed; export it first. This call is logged as well.

    One call removes some 20 000 entries, the oldest first: repeat it while `more` is true.
    """
    services = services_of(request)
    await refuse_body(request, services.settings.max_request_bytes)
    removed, more = await services.audit.remove(query.until)
    return answer({"ok": True, "removed": removed, "more": more})


def _lines(entries: Sequence[Logged]) -> bytes:
    return b"".join(to_json(entry_view(each)) + b"\n" for each in entries)


def _cursor(position: Position) -> str:
    return f"{position.ts!r}-{position.pk}"
