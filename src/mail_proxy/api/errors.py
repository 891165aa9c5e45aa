"""How failures are answered: always an object with `ok`, `error` and `code`, whatever went wrong.

MailProxyError
├── TooBusy        there is no room for the body now
├── TooSlow        the body did not arrive in time
└── BadEncoding    the body is compressed
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from math import ceil

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mail_proxy.api import request_ids
from mail_proxy.api.notes import path_of
from mail_proxy.api.validation import problems
from mail_proxy.domain import errors
from mail_proxy.domain.errors import Invalid, MailProxyError, Problem

log = structlog.get_logger(__name__)

RETRY_AFTER = 5
"""Seconds that a client is asked to wait while the store is away."""


class TooBusy(MailProxyError):
    """There is no room in memory for the body now; safe to repeat."""

    code = "too_busy"


class TooSlow(MailProxyError):
    """The body did not arrive in time."""

    code = "timeout"


class CutOff(Exception):
    """An answer that has begun cannot go on: the connection is closed, so that nobody takes it for the whole."""


class BadEncoding(MailProxyError):
    """The body is compressed: a few bytes could become any number of them."""

    code = "unsupported_encoding"


STATUS: Mapping[type[MailProxyError], int] = {
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    TooSlow: 408,
    errors.Conflict: 409,
    errors.CursorTooOld: 410,
    errors.Gone: 410,
    errors.TooLarge: 413,
    BadEncoding: 415,
    errors.Invalid: 422,
    errors.TooMany: 429,
    TooBusy: 503,
    errors.StoreUnavailable: 503,
}

_HEADERS: Mapping[int, Mapping[str, str]] = {
    401: {"WWW-Authenticate": "Bearer"},
    503: {"Retry-After": str(RETRY_AFTER)},
}


_encode = json.JSONEncoder(separators=(",", ":")).encode


def to_json(value: object) -> bytes:
    """Return a value as JSON in ASCII, so that also half of a surrogate pair can be answered."""
    return _encode(value).encode("ascii")


def answer(value: Mapping[str, object], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with a JSON object."""
    return Response(to_json(value), status, headers, media_type="application/json")


def failure(
    status: int,
    error: str,
    code: str,
    *,
    problems: Sequence[Problem] | None = None,
    oldest_cursor: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Answer that something is wrong: one plain sentence and a stable word."""
    body: dict[str, object] = {"ok": False, "error": error, "code": code}
    if problems is not None:
        body["detail"] = [{"field": each.field, "problem": each.problem} for each in problems]
    if oldest_cursor is not None:
        body["oldest_cursor"] = oldest_cursor
    return answer(body, status, {**_HEADERS.get(status, {}), **(headers or {})})


def refusal(error: MailProxyError) -> Response:
    """Answer one of our own errors."""
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), None)
    if status is None:
        raise error
    if isinstance(error, Invalid):
        return failure(status, _summary(error.problems), error.code, problems=error.problems)
    if isinstance(error, errors.CursorTooOld):
        return failure(status, error.sentence, error.code, oldest_cursor=str(error.oldest))
    headers = {"Retry-After": str(ceil(error.retry_after))} if isinstance(error, errors.TooMany) else None
    return failure(status, error.sentence, error.code, headers=headers)


def _summary(problems: Sequence[Problem]) -> str:
    first = f"{problems[0].field}: {problems[0].problem}"
    return first if len(problems) == 1 else f"{first} (and {len(problems) - 1} more)"


class LastResort:
    """Answers 500 to whatever nobody foresaw, and writes it down with its traceback and an id that both show."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; raises only where an answer has begun already."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except (ClientDisconnect, CutOff):
            return  # an answer that is not complete is ended by the server, by closing the connection
        except Exception:
            request_id = request_ids.current()
            log.exception("request_failed", method=scope["method"], path=path_of(scope), request_id=request_id)
            if begun:
                raise  # the client must see that what it got is not the whole
            sentence = "Something went wrong here; the log has the reason under the id in X-Request-ID."
            response = failure(500, sentence, "internal_error")
            await response(scope, receive, send)


def install(app: FastAPI) -> None:
    """Make every failure of an application look alike."""
    app.add_exception_handler(MailProxyError, _ours)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_middleware(LastResort)


async def _ours(_request: Request, error: Exception) -> Response:
    if not isinstance(error, MailProxyError):
        raise error
    return refusal(error)


async def _validation(_request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    return refusal(Invalid(*problems(error.errors(), skip=1)))


_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")


async def _http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    match error.status_code:
        case 404:
            return failure(
                404, "There is no such route: /docs and /openapi.json show those that there are.", "not_found"
            )
        case 405:
            methods = _methods(request)
            sentence = f"This route does not take {request.method}, but {methods}."
            return failure(405, sentence, "method_not_allowed", headers={"Allow": methods})
        case status:
            return failure(status, f"{HTTPStatus(status).phrase}.", "http_error", headers=error.headers)


def _methods(request: Request) -> str:
    """Name all methods that a path has (RFC 9110 section 15.5.6); each route by itself knows only its own."""
    routes = request.app.routes
    asked = ((method, {**request.scope, "method": method}) for method in _METHODS)
    return ", ".join(
        method for method, scope in asked if any(route.matches(scope)[0] is Match.FULL for route in routes)
    )
