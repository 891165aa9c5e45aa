"""Who is calling, and for whom: the admin token may do everything, a tenant's token what is its own."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials
from starlette.requests import Request
from starlette.types import Scope

from mail_proxy.api.failed_tokens import client_of
from mail_proxy.api.notes import Notes, address_of, notes_of, route_of
from mail_proxy.api.services import Services, services_of
from mail_proxy.domain.errors import Forbidden, Invalid, NotFound, Problem, Unauthorized
from mail_proxy.domain.reply import printable
from mail_proxy.domain.tenant import id_problem
from mail_proxy.secrets import tokens

_TOKEN = re.compile(rb"[\x21-\x7e]{1,%d}\Z" % tokens.LONGEST)
REFUSED = "There is no valid token in X-API-Token or Authorization: Bearer."

_api_key = APIKeyHeader(
    name="X-API-Token", scheme_name="Token", description="The admin token or a tenant's token.", auto_error=False
)
_bearer = HTTPBearer(
    scheme_name="Bearer", description="The same tokens, as `Authorization: Bearer …`.", auto_error=False
)


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever has shown a valid token; `tenant_id` is None for the admin token."""

    tenant_id: str | None
    notes: Notes = field(default_factory=Notes, compare=False, repr=False)
    """Of this call."""

    @property
    def is_admin(self) -> bool:
        """True for the admin token."""
        return self.tenant_id is None


ADMIN_ROLE = "admin"
"""What the OpenAPI document asks of a token where it has to be the admin's."""


async def authenticate(scope: Scope, services: Services) -> Caller:
    """Return who calls; raises `Unauthorized` for a token that is missing, unknown, expired or revoked."""
    token = presented_token(scope)
    caller = None if token is None else await _caller_with(token, notes_of(scope), services)
    if caller is None:
        await refused(scope, services, guessed=token is not None)
        raise Unauthorized(REFUSED)
    caller.notes.known, caller.notes.by_admin, caller.notes.tenant_id = True, caller.is_admin, caller.tenant_id
    return caller


async def _caller_with(token: str, notes: Notes, services: Services) -> Caller | None:
    digest = tokens.digest(token)
    if tokens.same(digest, services.admin_token.digest()):
        return Caller(None, notes)
    keyed = await services.registry.tenant_by_key(digest)
    if keyed is None or (keyed.expires_at is not None and keyed.expires_at <= services.clock.now()):
        return None
    return Caller(keyed.tenant.id, notes)


async def refused(scope: Scope, services: Services, *, guessed: bool) -> None:
    """Write down that a token was refused, and slow down who tries too many of them; raises `TooMany`."""
    services.security_log.token_refused(address_of(scope), scope["method"], route_of(scope))
    if guessed:
        await services.failed_tokens.failed(client_of(scope, services.settings.trusted_proxies))


def presented_token(scope: Scope) -> str | None:
    """Return the token that came with a request, or None where there is none that could be right.

    `X-API-Token` counts where it is there at all. Two of them are none: it would not be clear which one counts.
    """
    named = [value for name, value in scope["headers"] if name == b"x-api-token"]
    return _single(named) if named else presented_bearer(scope)


def presented_bearer(scope: Scope) -> str | None:
    """Return the bearer token that came with a request (RFC 6750 section 2.1), or None."""
    found = [value for name, value in scope["headers"] if name == b"authorization"]
    return _single([value[7:].strip() if value[:7].lower() == b"bearer " else b"" for value in found])


def _single(values: list[bytes]) -> str | None:
    return values[0].decode("ascii") if len(values) == 1 and _TOKEN.match(values[0]) else None


async def any_caller(
    request: Request,
    _token: Annotated[str | None, Security(_api_key)],
    _credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> Caller:
    """Let everybody in who has a token; the two parameters only tell the documentation about it."""
    caller = await authenticate(request.scope, services_of(request))
    query = request.query_params
    twice = sorted(name for name in query if len(query.getlist(name)) > 1)
    if twice:
        raise Invalid(*(Problem(printable(name, 80), "is given more than once") for name in twice))
    return caller


async def admin_only(caller: Annotated[Caller, Security(any_caller, scopes=[ADMIN_ROLE])]) -> Caller:
    """Let nobody in but the admin token; the role tells the documentation so."""
    if not caller.is_admin:
        raise Forbidden("This needs the admin token.", code="admin_only")
    return caller


AnyCaller = Annotated[Caller, Depends(any_caller)]
AdminCaller = Annotated[Caller, Depends(admin_only)]


def refuse_other_tenant(caller: Caller, tenant_id: str | None) -> None:
    """Raise `Forbidden` where a tenant's token comes with the id of another tenant, whether there is one or not."""
    if caller.tenant_id is not None and tenant_id is not None and tenant_id != caller.tenant_id:
        raise Forbidden("The token belongs to another tenant.", code="wrong_tenant")


async def tenant_meant(caller: Caller, tenant_id: str | None, services: Services) -> str:
    """Return the tenant that a request is about: the named one, the caller's own, or the only one there is.

    Raises `Forbidden` for another tenant's id, `NotFound` for an unknown one, and `Invalid` where none can be meant.
    """
    refuse_other_tenant(caller, tenant_id)
    if caller.tenant_id is not None:
        return caller.tenant_id
    if tenant_id is not None:
        if id_problem(tenant_id) is not None or await services.directory.tenant(tenant_id) is None:
            raise NotFound("There is no such tenant.")
        caller.notes.tenant_id = tenant_id
        return tenant_id
    only = await services.directory.only_tenant()
    if only is None:
        raise Invalid(Problem("tenant_id", "is required with the admin token, unless there is exactly one tenant"))
    caller.notes.tenant_id = only
    return only


async def tenant_or_all(caller: Caller, tenant_id: str | None, services: Services) -> str | None:
    """Return the tenant that a request is about, or None for all of them: the admin's, which names none."""
    refuse_other_tenant(caller, tenant_id)
    if caller.is_admin and tenant_id is None:
        return None
    return await tenant_meant(caller, tenant_id, services)
