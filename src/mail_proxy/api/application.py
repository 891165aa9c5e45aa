"""The application: routes, errors and documentation put together."""

from __future__ import annotations

from fastapi import FastAPI

import mail_proxy
from mail_proxy.api import accounts, commands, docs, errors, messages, service, submission, tenants
from mail_proxy.api.services import Services


def create_app(services: Services) -> FastAPI:
    """Return the ASGI application. It starts and stops nothing: what it works with runs already."""
    app = docs.Api(
        title="genro-mail-proxy",
        version=mail_proxy.__version__,
        description=docs.DESCRIPTION,
        openapi_tags=docs.TAGS,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        docs_url=None,
        redoc_url=None,
        # a redirect would take the token along to wherever the Host header points
        redirect_slashes=False,
    )
    app.state.services = services
    submission.install(app)  # first: routes are tried in order, and this one is the hot one
    for module in (commands, messages, accounts, tenants, service, docs):
        app.include_router(module.router)
    errors.install(app)
    return app
