"""The one hot route. It reads the body itself and answers bytes; the documentation is made from the same models."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from mail_proxy.api.auth import authenticate
from mail_proxy.api.bodies import read_json, validated
from mail_proxy.api.documented import BODY, body, failures
from mail_proxy.api.errors import refusal, to_json
from mail_proxy.api.schemas import ReceiptOut
from mail_proxy.api.services import services_of
from mail_proxy.api.views import receipt_view
from mail_proxy.domain.errors import Invalid, MailProxyError, Problem
from mail_proxy.intake.submission import BatchIn

PATH = "/commands/add-messages"
_SECURITY: list[dict[str, list[str]]] = [{"Token": []}, {"Bearer": []}]

_EXAMPLES: dict[str, dict[str, Any]] = {
    "One message": {
        "messages": [
            {
                "id": "order-1042-confirmation",
                "from": "Acme Shop <shop@acme.example>",
                "to": ["Anna Rossi <anna@example.org>"],
                "subject": "Your order 1042",
                "body": "Thank you for your order.",
            }
        ]
    },
    "A batch": {
        "default_priority": "low",
        "messages": [
            {
                "id": "newsletter-2026-07-1",
                "account_id": "main",
                "from": "news@acme.example",
                "to": "anna@example.org",
                "subject": "News in July",
                "text": "What is new.",
                "html": "<p>What is <b>new</b>.</p>",
                "batch_code": "newsletter-2026-07",
                "metadata": {"customer": 4711},
            },
            {
                "id": "password-reset-77",
                "from": "noreply@acme.example",
                "to": "bob@example.net",
                "subject": "Your new password",
                "body": "Follow this link.",
                "priority": "immediate",
            },
        ],
    },
}


class RawRoute(APIRoute):
    """A route that FastAPI documents and stays out of: no parameters, no dependencies, no exit stacks."""

    @override
    def __init__(self, path: str, endpoint: Any, **kwargs: Any) -> None:
        super().__init__(path, endpoint, **kwargs)
        self.app = _Raw()


class _Raw:
    """The route as an ASGI application."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one submission; errors that are not ours go on to the last resort."""
        try:
            response = await add_messages(Request(scope, receive))
        except MailProxyError as error:
            response = refusal(error)
        await response(scope, receive, send)


async def add_messages(request: Request) -> Response:
    """Queue messages.

    One transaction, answered only after its commit. Each message is taken or refused by itself. No answer, or 503:
    sending the same request again is safe, as messages that were taken come back as `duplicates`.
    """  # G1, G2
    services = services_of(request)
    caller = await authenticate(request.scope, services)
    if request.scope["query_string"]:
        raise Invalid(*(Problem(name[:80], "is not known here") for name in request.query_params))
    batch = validated(BatchIn, await read_json(request, services.settings.max_request_bytes))
    receipt = await services.intake.submit(caller.tenant_id, batch.messages, batch.priority)
    return Response(to_json(receipt_view(receipt)), media_type="application/json")


def install(app: FastAPI) -> None:
    """Add the route; where it comes first, it is also found first."""
    app.router.add_api_route(
        PATH,
        add_messages,
        methods=["POST"],
        tags=["commands"],
        summary="Queue a batch of messages",
        response_model=ReceiptOut,
        responses=failures(403, *BODY),
        openapi_extra={**body(BatchIn, _EXAMPLES), "security": _SECURITY},
        route_class_override=RawRoute,
    )
