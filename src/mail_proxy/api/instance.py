"""The instance's settings, and its admin token."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

import mail_proxy
from mail_proxy.administration.instance import refuse_what_cannot_change
from mail_proxy.administration.requests import InstanceChanges
from mail_proxy.api.auth import REFUSED, AdminCaller, presented_token
from mail_proxy.api.bodies import read_small_json, refuse_body, validated
from mail_proxy.api.documented import BODY, body, failures
from mail_proxy.api.errors import answer
from mail_proxy.api.queries import NoQuery
from mail_proxy.api.redaction import shown_body
from mail_proxy.api.schemas.instance import ApiTokenAnswer, InstanceAnswer
from mail_proxy.api.services import Services, services_of
from mail_proxy.domain.errors import Unauthorized
from mail_proxy.runtime.shown_settings import Shown
from mail_proxy.secrets import tokens

router = APIRouter(prefix="/instance", tags=["service"])

Nothing = Annotated[NoQuery, Query()]

_CHANGES: dict[str, dict[str, Any]] = {
    "Another name": {"instance_name": "mail-eu"},
    "Hold everything": {"scheduler_active": False},
}


@router.get("", summary="Show the settings", response_model=InstanceAnswer, responses=failures(403))
async def get_instance(request: Request, _caller: AdminCaller, _query: Nothing) -> Response:
    """Show every setting with its value and where that comes from; of secrets only whether they are set.

    Where several instances or workers share the address, it is the one that answers.
    """
    services = services_of(request)
    return answer(await _view(services))


@router.put(
    "",
    summary="Change what can be changed while it runs",
    response_model=InstanceAnswer,
    responses=failures(403, *BODY),
    openapi_extra=body(InstanceChanges, _CHANGES),
)
async def change_instance(request: Request, caller: AdminCaller, _query: Nothing) -> Response:
    """Change the name or whether anything is sent, on all instances on the database; what is left out stays.

    The name is for every instance that was not started with one of its own; null takes it away. All other settings are
    read when an instance starts.
    """
    services = services_of(request)
    fields = await read_small_json(request, services.settings.max_request_bytes)
    refuse_what_cannot_change(fields, frozenset(each.name for each in services.shown_settings()))
    wanted = validated(InstanceChanges, fields)
    caller.notes.payload = shown_body(wanted)
    if await services.instance.change(wanted):
        await services.run_now(None)
    return answer(await _view(services))


@router.post(
    "/api-token",
    summary="Make a new admin token",
    response_model=ApiTokenAnswer,
    responses=failures(403, 409, *BODY),
)
async def new_api_token(request: Request, _caller: AdminCaller, _query: Nothing) -> Response:
    """Make a new admin token, shown this once, and keep it in `config.toml`; the old one ends at once.

    It counts for every worker of the instance. 409 where the token comes from the environment.
    """
    services = services_of(request)
    await refuse_body(request, services.settings.max_request_bytes)
    shown = presented_token(request.scope)
    if shown is None:
        raise Unauthorized(REFUSED)
    return answer({"ok": True, "api_token": await services.admin_token.renew(tokens.digest(shown))})


async def _view(services: Services) -> dict[str, object]:
    settings, standing = await services.instance.settings(), await services.seals.standing()
    name = await services.instance.name()
    now = {"instance_name": name, "scheduler_active": settings.scheduler_active}
    return {
        "ok": True,
        "version": mail_proxy.__version__,
        "instance_name": name,
        "scheduler_active": settings.scheduler_active,
        "database": services.settings.database,
        "workers": services.settings.workers,
        "started_ts": services.started_ts,
        "encryption": {
            "key_id": standing.own_key,
            "key_in_use": standing.key_in_use,
            "old_keys": sorted(standing.old_keys),
            "secrets_with_old_keys": standing.with_old_keys,
            "waits_for": list(standing.awaited),
        },
        "settings": [_setting_view(each, now) for each in services.shown_settings()],
    }


def _setting_view(each: Shown, now: dict[str, object]) -> dict[str, object]:
    """Show a setting as it was given at the start, unless the database says otherwise by now."""
    value = now.get(each.name, each.value)
    source = each.source if value == each.value else "database"
    return {"name": each.name, "value": value, "secret": each.secret, "is_set": each.is_set, "source": source}
