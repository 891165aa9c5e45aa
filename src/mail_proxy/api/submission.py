"""The one hot route: it reads the body itself, answers bytes, and passes by everything that it does not need.

The documentation is made from the same models, by the same route of the application, which does the same more slowly.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mail_proxy.api.auth import authenticate
from mail_proxy.api.bodies import read_json, validated
from mail_proxy.api.documented import BODY, body, failures
from mail_proxy.api.errors import refusal, to_json
from mail_proxy.api.redaction import shown_batch, shown_receipt
from mail_proxy.api.schemas.messages import ReceiptOut
from mail_proxy.api.services import Services, services_of
from mail_proxy.api.views import receipt_view
from mail_proxy.domain.errors import Invalid, MailProxyError, Problem
from mail_proxy.domain.reply import printable
from mail_proxy.intake.submission import BatchIn

PATH = "/commands/add-messages"
MOST_TENANTS = 10
"""Of one submission that the command log names."""
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


class Submission:
    """The route as an ASGI application of its own, which is all that a submission passes through."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one submission; errors that are not ours go on to whoever called."""
        try:
            response = await submit(Request(scope, receive), self._services)
        except MailProxyError as error:
            response = refusal(error)
        await response(scope, receive, send)


async def add_messages(request: Request) -> Response:
    """Take a batch of messages into the queue.

    One transaction, answered only after its commit. Each message is taken or refused by itself. No answer, or 503:
    sending the same request again is safe, as messages that were taken come back as `duplicates`.
    """
    return await submit(request, services_of(request))


async def submit(request: Request, services: Services) -> Response:
    """Answer a submission; raises `MailProxyError`."""  # G1, G2
    caller = await authenticate(request.scope, services)
    if request.scope["query_string"]:
        raise Invalid(*(Problem(printable(name, 80), "is not known here") for name in request.query_params))
    with services.body_memory.room(caller.tenant_id) as room:
        batch = validated(BatchIn, await read_json(request, services, room))
        notes = caller.notes
        notes.payload = shown_batch(batch.messages)
        with services.tracer.submission(request.headers.get("traceparent")) as followed:
            receipt = await services.intake.submit(
                caller.tenant_id, batch.messages, batch.priority, followed.traceparent
            )
            followed.done(caller.tenant_id, receipt.queued, len(receipt.rejected))
        notes.result = shown_receipt(receipt)
        if caller.is_admin and len(receipt.tenant_ids) == 1:
            (notes.tenant_id,) = receipt.tenant_ids
        elif caller.is_admin:
            notes.payload["tenants"] = sorted(receipt.tenant_ids)[:MOST_TENANTS]
    return Response(to_json(receipt_view(receipt)), media_type="application/json")


def install(app: FastAPI) -> None:
    """Document the route, and serve it where it is not taken out of the stack before."""
    app.router.add_api_route(
        PATH,
        add_messages,
        methods=["POST"],
        tags=["commands"],
        summary="Queue a batch of messages",
        response_model=ReceiptOut,
        responses=failures(403, *BODY),
        openapi_extra={**body(BatchIn, _EXAMPLES), "security": _SECURITY},
    )
