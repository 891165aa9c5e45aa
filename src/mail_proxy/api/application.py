"""The application: routes, errors and documentation put together."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send
from typing_extensions import override

import mail_proxy
from mail_proxy.api import (
    accounts,
    audit,
    command_log,
    commands,
    docs,
    errors,
    events,
    files,
    instance,
    message_commands,
    messages,
    request_ids,
    service,
    submission,
    tenants,
)
from mail_proxy.api.services import Services


class MailProxyApi(docs.DocumentedApi):
    """The application, with a way of its own for submissions.

    On that way there are no routing table, no exit stacks and none of FastAPI's middleware: together they cost more
    than all that a submission needs from the API.
    """

    def __init__(self, services: Services) -> None:
        super().__init__(
            title="genro-mail-proxy",
            version=mail_proxy.__version__,
            description=docs.DESCRIPTION,
            openapi_tags=docs.TAGS,
            license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
            generate_unique_id_function=lambda route: route.name,  # what generated clients call their functions
            openapi_url=None,  # a route of ours serves it
            docs_url=None,
            redoc_url=None,
            # a redirect would take the token along to wherever the Host header points
            redirect_slashes=False,
        )
        self.state.services = services
        submissions = errors.LastResort(submission.Submission(services))
        self._submission = audit.Audited(submissions, services, waits=False)
        self._change = audit.Audited(super().__call__, services, waits=True)
        self._identified = request_ids.Identified(self._serve)

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._identified(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == submission.PATH and scope["method"] == "POST":
            await self._submission(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] not in audit.CHANGES_NOTHING:
            await self._change(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(services: Services) -> FastAPI:
    """Return the ASGI application. It starts and stops nothing: what it works with runs already."""
    app = MailProxyApi(services)
    submission.install(app)
    for module in (
        *(commands, message_commands, messages, events, files, accounts, tenants),
        *(service, instance, command_log, docs),
    ):
        app.include_router(module.router)
    errors.install(app)
    return app
