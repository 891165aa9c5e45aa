"""An id for each request: the caller's own, else a new one. Its answer and every line that is logged have it."""

from __future__ import annotations

from time import monotonic

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mail_proxy.api.notes import path_of
from mail_proxy.runtime.http_refusal import ID_HEADER, id_from, new_id

log = structlog.get_logger(__name__)


def current() -> str:
    """Return the id of the request that is being served; a new one outside of any."""
    found: str | None = structlog.contextvars.get_contextvars().get("request_id")
    return found or new_id()


class Identified:
    """Serves requests under their ids."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = id_from(scope["headers"])
        status, began = 0, monotonic()

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (ID_HEADER, request_id.encode())]
            await send(message)

        before = structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            await self._app(scope, receive, named)
        finally:
            log.debug(
                "request",
                method=scope["method"],
                path=path_of(scope),
                status=status,
                ms=round((monotonic() - began) * 1000, 1),
            )
            structlog.contextvars.reset_contextvars(**before)
