"""Running an instance in the foreground until a signal ends it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import anyio
import click
import structlog

from mail_proxy.api.application import create_app
from mail_proxy.api.composition import services_from
from mail_proxy.delivery.journal import JournalLocked, JournalUnwritable
from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.runtime.app import App, FolderRefused, open_app
from mail_proxy.runtime.http_server import AddressInUse, HttpServer, listening_socket, new_event_loop
from mail_proxy.runtime.logs import configure_logging
from mail_proxy.runtime.settings import Settings, SettingsError, from_environment
from mail_proxy.secrets.cipher import WrongKey
from mail_proxy.secrets.keys import KeyRefused
from mail_proxy.store.errors import SchemaTooNew
from mail_proxy.store.opening import StoreRefused

REFUSALS = (
    AddressInUse,
    FolderRefused,
    JournalLocked,
    JournalUnwritable,
    KeyRefused,
    SchemaTooNew,
    StoreRefused,
    StoreUnavailable,
    WrongKey,
)
"""Reasons not to start that an operator can do something about: told in a sentence, without a traceback."""

log = structlog.get_logger(__name__)


def serve() -> int:
    """Run until SIGTERM or Ctrl-C; return the exit code."""
    try:
        settings = from_environment()
    except SettingsError as error:
        for problem in error.problems:
            click.echo(f"mail-proxy: {problem}", err=True)
        return 2
    configure_logging(settings.log_level, settings.log_format)
    for hint in settings.hints:
        log.info("setting passed over", hint=hint)
    try:
        run_in_fast_loop(partial(_serve, settings))
    except REFUSALS as error:
        click.echo(f"mail-proxy: {error}", err=True)
        return 2 if isinstance(error, KeyRefused) else 1
    return 0


def run_in_fast_loop(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine to its end on the fast event loop; one exception of a group comes out as itself."""
    loop = new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(work())
    except BaseException as error:  # noqa: BLE001 - nothing is caught, only unwrapped
        raise only_one(error) from None
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def only_one(error: BaseException) -> BaseException:
    """Return the exception inside groups of one, which is what went wrong."""
    while (inner := getattr(error, "exceptions", None)) is not None and len(inner) == 1:
        error = inner[0]
    return error


async def _serve(settings: Settings) -> None:
    listening = listening_socket(settings.host, settings.port)
    host, port = listening.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    async with open_app(settings, address) as app:
        server = HttpServer(create_app(services_from(app)), listening)
        app.supervisor.add("http", server.run)
        async with anyio.create_task_group() as group:
            group.start_soon(_announce, app, address, name="announce")
            group.start_soon(_stop_on_signal, app, server, name="signals")
            await app.run()
            group.cancel_scope.cancel()
    log.info("ended", instance=settings.instance_name)


async def _announce(app: App, address: str) -> None:
    await app.supervisor.started()
    log.info(
        "serving",
        instance=app.settings.instance_name,
        address=address,
        docs=f"{address}/docs",
        database=app.store.database.dialect,
    )


async def _stop_on_signal(app: App, server: HttpServer) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for received in signals:
            log.info("stopping", signal=received.name, grace=app.settings.shutdown_grace)
            server.stop()
            app.stop()
