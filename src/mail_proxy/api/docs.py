"""The API's documentation: one OpenAPI document, and two pages that show it without the internet."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Iterator
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from typing_extensions import override

from mail_proxy.administration.requests import (
    AccountIn,
    ApiKeyIn,
    CleanupIn,
    DeleteIn,
    InstanceChanges,
    RetryIn,
    TenantChanges,
    TenantIn,
)
from mail_proxy.api.auth import ADMIN_ROLE
from mail_proxy.domain.errors import NotFound
from mail_proxy.intake.submission import BatchIn, MessageIn

router = APIRouter(include_in_schema=False)

_BODIES: tuple[type[BaseModel], ...] = (
    *(BatchIn, MessageIn, DeleteIn, RetryIn, CleanupIn),
    *(TenantIn, TenantChanges, ApiKeyIn, AccountIn, InstanceChanges),
)
_ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "swagger-start.js": "text/javascript",
    "redoc.standalone.js": "text/javascript",
}
# Scripts come from here alone: a page that was made for the internet cannot quietly fetch something from there.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_ADDRESS = "http://127.0.0.1:8000"
"""What stands for the address in `DESCRIPTION`, until somebody asks for the document."""
_HOST = re.compile(r"(?:[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
"""A name or an address, and perhaps a port: nothing that a shell or Markdown would read as anything else."""

DESCRIPTION = """
Takes messages, writes them down, sends them by SMTP, and reports what became of them.

## A first message

Three calls: a tenant (an organisation with accounts of its own), the SMTP account that its mail goes by, the message.
`TOKEN` is the admin token, `GMP_API_TOKEN` of the instance; put your own mail server in place of `smtp.acme.example`.
Or in the browser, at `/docs`: **Authorize**, then execute the examples of `POST /tenant`, `POST /account` and
`POST /commands/add-messages` as they stand.

```sh
API=http://127.0.0.1:8000
curl -H "X-API-Token: $TOKEN" $API/tenant -d '{"id": "acme"}'
curl -H "X-API-Token: $TOKEN" $API/account -d '{
  "id": "main", "tenant_id": "acme",
  "host": "smtp.acme.example", "port": 587,
  "user": "mailer@acme.example", "password": "its-password"}'
curl -H "X-API-Token: $TOKEN" $API/commands/add-messages -d '{
  "messages": [{"id": "hello-1", "tenant_id": "acme",
    "from": "shop@acme.example", "to": "anna@example.org",
    "subject": "Hello", "body": "It works."}]}'
```

The answer says `queued: 1`: the message is on disk, and is being sent. What became of it:

```sh
curl -H "X-API-Token: $TOKEN" \\
  "$API/messages/hello-1?tenant_id=acme"
```

`POST /tenant` has answered the tenant's own token, `api_key`: this once. With it `tenant_id` may be left out.

## Tokens

In the header `X-API-Token`, or in `Authorization: Bearer …`. The **admin token** may do everything. A **tenant's
token** may do what is its tenant's own: `tenant_id` is implied and may be left out everywhere. With the admin token
`tenant_id` may be left out where there is exactly one tenant.

## Answers

Every answer is an object with `ok`. A failure has `ok: false`, `error` (one plain sentence) and `code` (a stable word);
with 422 also `detail`, which names each field. Unknown query parameters and unknown fields are errors, not ignored.
Times are Unix seconds, sizes bytes. Bodies are JSON in UTF-8, whatever their `Content-Type` says.
"""
TAGS = [
    {"name": "commands", "description": "Submit messages; hold and free the sending."},
    {"name": "messages", "description": "What became of messages."},
    {"name": "accounts", "description": "The SMTP servers that a tenant's mail goes to."},
    {"name": "tenants", "description": "Organisations with their own accounts, messages and reports."},
    {"name": "service", "description": "The instance itself."},
]


class DocumentedApi(FastAPI):
    """An application whose OpenAPI document also has the bodies that routes read themselves."""

    @override
    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = get_openapi(
                title=self.title,
                version=self.version,
                description=self.description,
                routes=self.routes,
                tags=self.openapi_tags,
                license_info=self.license_info,
            )
            _, schemas = models_json_schema(
                [(model, "validation") for model in _BODIES], ref_template="#/components/schemas/{model}"
            )
            document["components"]["schemas"] |= schemas["$defs"]
            document["components"]["schemas"]["BatchIn"]["properties"]["messages"]["items"] = {
                "$ref": "#/components/schemas/MessageIn"
            }
            _describe_successes(document)
            _name_roles(document)
            for schema in document["components"]["schemas"].values():
                _without_noise(schema.get("properties", {}).values())
            for operation in _operations(document):
                _without_noise(each["schema"] for each in operation.get("parameters", []))
            self.openapi_schema = document
        return self.openapi_schema


def _describe_successes(document: dict[str, Any]) -> None:
    """Say of each 200 what its answer is, in the words of its schema."""
    for operation in _operations(document):
        success = operation["responses"]["200"]
        reference = success["content"].get("application/json", {}).get("schema", {}).get("$ref", "")
        schema = document["components"]["schemas"].get(reference.rpartition("/")[2])
        if schema is not None:
            success["description"] = schema["description"]


def _name_roles(document: dict[str, Any]) -> None:
    """Say it in words where only the admin token will do: the pages do not show roles."""
    for operation in _operations(document):
        if any(ADMIN_ROLE in roles for each in operation.get("security", []) for roles in each.values()):
            operation["description"] += "\n\n**Needs the admin token.**"


def _without_noise(properties: Iterable[dict[str, Any]]) -> None:
    """Leave out what pydantic adds and tells a reader nothing: the name once more as a title, and null as a default."""
    for each in properties:
        each.pop("title", None)
        if each.get("default", ...) is None:
            del each["default"]


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for methods in document["paths"].values():
        yield from methods.values()


async def openapi_document(request: Request) -> Response:
    """Show the document, with the address that it was asked for at: who pastes a command sends the token there."""
    document: dict[str, Any] = request.app.openapi()
    description = document["info"]["description"].replace(_ADDRESS, _address(request))
    return JSONResponse({**document, "info": {**document["info"], "description": description}})


router.add_route("/openapi.json", openapi_document, include_in_schema=False)


def _address(request: Request) -> str:
    """Return where the caller has reached the instance, or its own address where the caller says nothing usable.

    `X-Forwarded-Proto` is believed from anybody: all it can do is ask for https.
    """
    host = request.headers.get("host", "")
    if not _HOST.fullmatch(host):
        name, port = request.scope.get("server") or ("", None)
        host = f"[{name}]" if ":" in name else name
        host = host if port is None else f"{host}:{port}"
        return f"http://{host}" if _HOST.fullmatch(host) else _ADDRESS
    scheme = "https" if request.headers.get("x-forwarded-proto") == "https" else request.scope["scheme"]
    return f"{scheme}://{host}"


@router.get("/docs")
async def swagger_page() -> Response:
    """Show Swagger UI: the document, with a form to try each route."""
    return _page(
        '<link rel="stylesheet" href="docs/assets/swagger-ui.css">'
        "<style>@media (prefers-color-scheme: dark) { html { background: #1c2022 } }</style></head>"
        '<body><div id="swagger-ui"></div>'
        '<script src="docs/assets/swagger-ui-bundle.js"></script><script src="docs/assets/swagger-start.js"></script>'
    )


@router.get("/redoc")
async def redoc_page() -> Response:
    """Show ReDoc: the document, to read."""
    return _page(
        '<style>body { margin: 0 }</style></head><body><redoc spec-url="openapi.json"></redoc>'
        '<script src="docs/assets/redoc.standalone.js"></script>'
    )


@router.get("/docs/assets/{name}")
async def asset(request: Request, name: str) -> Response:
    """Serve one of the files that the two pages are made of."""
    if name not in _ASSETS:
        raise NotFound("There is no such file.")
    compressed, body = await run_in_threadpool(
        _read, name, unpack="gzip" not in request.headers.get("accept-encoding", "")
    )
    headers = {"Cache-Control": "public, max-age=3600", "Vary": "Accept-Encoding", "X-Content-Type-Options": "nosniff"}
    if compressed:
        headers["Content-Encoding"] = "gzip"
    return Response(body, headers=headers, media_type=_ASSETS[name])


def _read(name: str, *, unpack: bool) -> tuple[bool, bytes]:
    """Return (whether it is compressed, a file as it is kept), compressed unless `unpack` is wanted."""
    folder = files("mail_proxy.api").joinpath("static")
    plain = folder.joinpath(name)
    if plain.is_file():
        return False, plain.read_bytes()
    packed = folder.joinpath(f"{name}.gz").read_bytes()
    return (False, gzip.decompress(packed)) if unpack else (True, packed)


def _page(rest: str) -> Response:
    # relative addresses: the service may stand behind a proxy, under a path of its own
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>genro-mail-proxy API</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"{rest}</body></html>"
    )
    return HTMLResponse(text, headers={"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"})
