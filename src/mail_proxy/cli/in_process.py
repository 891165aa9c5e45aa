"""The API of an instance that does not run: its store is opened here, for as long as a command takes.

Requests go to the same application that a running instance has, so that a command comes to the same either way.
Nothing is sent and nothing is reported meanwhile: no loop runs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress

import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal
from typing_extensions import override

from mail_proxy.api.application import create_app
from mail_proxy.api.composition import services_from
from mail_proxy.cli.instances import Instance, InstanceError, InUse, Wanted, environment_of
from mail_proxy.cli.keys import lost_key
from mail_proxy.cli.serving import REFUSALS
from mail_proxy.cli.told import for_instance
from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.runtime.app import App, open_app
from mail_proxy.runtime.logs import configure_logging
from mail_proxy.runtime.setting_values import SqliteFile
from mail_proxy.runtime.settings import Settings, SettingsError
from mail_proxy.secrets.keys import KEY_FILE_NAME, KeyRefused
from mail_proxy.store.opening import A_COMMAND, AlreadyOpen, StoreRefused


@contextmanager
def opened(chosen: Instance, environment: Mapping[str, str]) -> Iterator[httpx.Client]:
    """Open an instance's store, and yield HTTP to its API.

    Raises `InUse` where another process has it, as the instance was started meanwhile, and `InstanceError` where it
    cannot be opened.
    """
    try:
        settings = Settings.load(environment_of(chosen, Wanted(), environment))
    except SettingsError as error:
        raise InstanceError(for_instance(chosen.name, "; ".join(error.problems))) from None
    configure_logging("error", stream=sys.stderr)
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal())
        app = _open(stack, portal, settings, chosen.name)
        transport = _InProcess(portal, httpx.ASGITransport(create_app(services_from(app))))
        yield stack.enter_context(httpx.Client(transport=transport))


def _open(stack: ExitStack, portal: BlockingPortal, settings: Settings, name: str) -> App:
    """Open the store; an SQLite file is waited for there, and on PostgreSQL nobody has to be."""
    try:
        app = stack.enter_context(portal.wrap_async_context_manager(open_app(settings, A_COMMAND, sends=False)))
    except AlreadyOpen as error:
        raise InUse(str(error)) from None
    except KeyRefused as error:
        raise InstanceError(_about_key(settings) or for_instance(name, str(error))) from None
    except REFUSALS as error:
        raise InstanceError(for_instance(name, str(error))) from None
    portal.call(app.delivery.maintenance.survey)
    return app


def _about_key(settings: Settings) -> str | None:
    """Say how an instance on PostgreSQL comes by a key; None where that is not missing."""
    if settings.encryption_key is not None or isinstance(settings.database, SqliteFile):
        return None
    if (settings.data_folder / KEY_FILE_NAME).exists():
        return None
    name = settings.data_folder.name
    with suppress(StoreRefused, StoreUnavailable):
        lost = lost_key(settings)
        if lost is not None:
            return for_instance(name, lost)
    return (
        f"{name} has no encryption key yet: mail-proxy start {name} makes one; where other instances are on its "
        f"database, give it theirs: mail-proxy {name} config set ENCRYPTION_KEY=-"
    )


class _InProcess(httpx.BaseTransport):
    """Carries requests to an application on the portal's event loop."""

    def __init__(self, portal: BlockingPortal, application: httpx.ASGITransport) -> None:
        self._portal = portal
        self._application = application

    @override
    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        return self._portal.call(self._answer, request)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        answer = await self._application.handle_async_request(request)
        return httpx.Response(answer.status_code, headers=answer.headers, content=await answer.aread())
