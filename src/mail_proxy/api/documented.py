"""What the documentation of a route needs beside its signature: bodies, and how it can fail."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from mail_proxy.api.schemas.answer import Failure

_FAILURES: dict[int, tuple[str, str, str]] = {
    401: ("No valid token.", "There is no valid token in X-API-Token or Authorization: Bearer.", "unauthorized"),
    403: (
        "The token is valid but may not do this: `admin_only`, or `wrong_tenant` for another tenant's id.",
        "The token belongs to another tenant.",
        "wrong_tenant",
    ),
    404: ("Unknown, or another tenant's: the two are never told apart.", "There is no such tenant.", "not_found"),
    408: ("The body did not arrive in time.", "The body did not arrive in time.", "timeout"),
    409: ("Not in the present state of things.", "Messages are waiting for the account.", "conflict"),
    410: (
        "What follows on the cursor has been removed; `oldest_cursor` is where the feed begins now.",
        "Events after this cursor are older than the retention and were removed; what is kept follows on 4711.",
        "cursor_too_old",
    ),
    413: ("More bytes or messages than the instance allows.", "A body has at most 100000000 bytes here.", "too_large"),
    415: ("The body is compressed.", "A compressed body is not accepted.", "unsupported_encoding"),
    422: ("The request does not validate; `detail` names each field.", "port: must be at most 65535", "invalid"),
    429: (
        "Asked too often; `Retry-After` says when to come back.",
        "Too many tokens from this address have failed.",
        "too_many_failures",
    ),
    500: ("A mistake in the service; the log has it under the id in the header `X-Request-ID`.", "", "internal_error"),
    503: (
        "Nothing was stored: the database cannot be used, or there is no room (`too_busy`). See `Retry-After`.",
        "the database cannot be used now",
        "store_unavailable",
    ),
}
_ALWAYS = (401, 422, 429, 500, 503)
BODY = (408, 413, 415)
"""How a request with a body can fail besides."""


def failures(*statuses: int, public: bool = False) -> dict[int | str, dict[str, Any]]:
    """Describe how a route can fail: as every route with a token can (unless `public`), and with these statuses."""
    everything = sorted({*statuses, *((500,) if public else _ALWAYS)})
    return {status: _failure(status) for status in everything}


def _failure(status: int) -> dict[str, Any]:
    description, error, code = _FAILURES[status]
    sentence = error or "Something went wrong here; the log has the reason under the id in X-Request-ID."
    example: dict[str, Any] = {"ok": False, "error": sentence, "code": code}
    if status == 422:
        example["detail"] = [{"field": "port", "problem": "must be at most 65535"}]
    if status == 410:
        example["oldest_cursor"] = "4711"
    return {
        "model": Failure,
        "description": description,
        "content": {"application/json": {"example": example}},
    }


def body(model: type[BaseModel], examples: dict[str, dict[str, Any]], *, required: bool = True) -> dict[str, Any]:
    """Describe a body that the route reads itself. `examples`: a summary for each, and a value that can be pasted."""
    content = {
        "schema": {"$ref": f"#/components/schemas/{model.__name__}"},
        "examples": {
            name.lower().replace(" ", "-"): {"summary": name, "value": value} for name, value in examples.items()
        },
    }
    return {"requestBody": {"required": required, "content": {"application/json": content}}}
