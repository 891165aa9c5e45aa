"""Running an instance in the foreground until a signal ends it."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import anyio
import click
import structlog

from mail_proxy.api.application import create_app
from mail_proxy.api.composition import services_from
from mail_proxy.cli.workers import Place, Workers
from mail_proxy.delivery.journal import JournalLocked, JournalUnwritable
from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.outbound.own_reporter import ReporterRefused
from mail_proxy.ports.secrets import WrongKey
from mail_proxy.runtime import environment
from mail_proxy.runtime.app import App, open_app
from mail_proxy.runtime.folders import FolderRefused
from mail_proxy.runtime.http_places import MOST_BEYOND
from mail_proxy.runtime.http_server import AddressInUse, HttpServer, listening_socket, new_event_loop
from mail_proxy.runtime.logs import configure_logging
from mail_proxy.runtime.service_manager import ALIVE, READY, STOPPING, ServiceManager
from mail_proxy.runtime.settings import Settings, SettingsError, from_environment
from mail_proxy.runtime.tally import Tally
from mail_proxy.runtime.telemetry import new_tally
from mail_proxy.runtime.tracing import TracingRefused
from mail_proxy.secrets.keys import KeyRefused
from mail_proxy.store.errors import SchemaTooNew
from mail_proxy.store.opening import StoreRefused

REFUSALS = (
    AddressInUse,
    FolderRefused,
    JournalLocked,
    JournalUnwritable,
    KeyRefused,
    ReporterRefused,
    SchemaTooNew,
    StoreRefused,
    StoreUnavailable,
    TracingRefused,
    WrongKey,
)
"""Reasons not to start that an operator can do something about: told in a sentence, without a traceback."""

log = structlog.get_logger(__name__)


def serve(
    workers: int | None = None, listening: socket.socket | None = None, worded: Callable[[str], str] = str
) -> int:
    """Run until SIGTERM or Ctrl-C; return the exit code. `workers` beats what the environment says.

    `listening`: a socket to answer on, in the place of one at the address that the settings name. `worded` puts what is
    wrong into the words of whoever has started it.
    """
    try:
        settings = from_environment(workers)
    except SettingsError as error:
        for problem in error.problems:
            click.echo(f"mail-proxy: {worded(problem)}", err=True)
        return 2
    configure_logging(settings.log_level, settings.log_format)
    _open_as_many_files_as_allowed()
    _look_at_room_for_connections(settings)
    for hint in settings.hints:
        log.info("setting passed over", hint=hint)
    try:
        listening = listening or listening_socket(settings.host, settings.port)
    except AddressInUse as error:
        click.echo(f"mail-proxy: {error}", err=True)
        return 1
    if settings.workers == 1:
        return _run(settings, listening, Place(), new_tally(max_series=settings.metrics_max_accounts), worded)
    # Before there is a thread or a loop: workers are forked, and get the socket and the memory of the counts that way.
    tally = new_tally(settings.workers, settings.metrics_max_accounts)
    address = _address(listening)

    def all_serve() -> None:
        about = {"instance": settings.instance_name, "address": address, "docs": f"{address}/docs"}
        log.info("serving", **about, workers=settings.workers)

    return Workers(
        settings.workers,
        lambda place: _run(settings, listening, place, tally, worded),
        all_serve,
        settings.shutdown_grace,
        ServiceManager(environment.current()),
    ).run()


def _run(settings: Settings, listening: socket.socket, place: Place, tally: Tally, worded: Callable[[str], str]) -> int:
    try:
        run_in_fast_loop(partial(_serve, settings, listening, place, tally))
    except REFUSALS as error:
        click.echo(f"mail-proxy: {worded(str(error))}", err=True)
        return 2 if isinstance(error, KeyRefused) else 1
    return 0


def _open_as_many_files_as_allowed() -> None:
    """Raise the limit of open files as far as the system lets this process: each idle SMTP session is one.

    Shells and service managers begin with 1024 for the sake of old programs.
    """  # G11
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:  # macOS says infinity and takes less
            log.info("the limit of open files stays as it is", limit=soft, reason=str(error))


def _room_for_connections(settings: Settings) -> int:
    """Return how many HTTP connections there may be: half of the open files are for everything else."""  # G11
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return settings.max_http_connections
    return max(1, min(settings.max_http_connections, soft // 2 - MOST_BEYOND))


def _look_at_room_for_connections(settings: Settings) -> None:
    room = _room_for_connections(settings)
    if room < settings.max_http_connections:
        log.warning("fewer connections than set, as few files may be open", limit=room)


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


async def _serve(settings: Settings, listening: socket.socket, place: Place, tally: Tally) -> None:
    address = _address(listening)
    # Of several workers the parent speaks for all.
    manager = ServiceManager(environment.current() if place.news is None else {})
    async with open_app(settings, address, place.worker, tally) as app:
        room = _room_for_connections(settings)
        app.feed.most_waiting = max(1, room // 2)  # G11
        services = services_from(app)
        server = HttpServer(create_app(services), listening, room, services.security_log.request_refused)
        app.supervisor.add("http", server.run)

        def stop() -> None:
            manager.tell(STOPPING)
            server.stop()
            app.stop()

        async with anyio.create_task_group() as group:
            group.start_soon(_announce, app, address, place, manager, name="announce")
            group.start_soon(_say_that_it_lives, place, manager, name="watchdog")
            group.start_soon(_stop_on_signal, settings, stop, name="signals")
            group.start_soon(_stop_with_parent, place, stop, name="parent")
            await app.run()
            group.cancel_scope.cancel()
    log.info("ended", instance=settings.instance_name)


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


async def _announce(app: App, address: str, place: Place, manager: ServiceManager) -> None:
    await app.supervisor.started()
    about = {"instance": await app.instance.name(), "address": address, "docs": f"{address}/docs"}
    log.info(place.word, **about, database=app.store.database.dialect, pid=os.getpid())
    place.ready()
    manager.tell(READY)


async def _say_that_it_lives(place: Place, manager: ServiceManager) -> None:
    """Keep the service manager, or the parent, from taking a process for hung whose loop turns."""
    every = manager.alive_every if place.beats is None else place.beat_every
    while every is not None:
        place.beat()
        manager.tell(ALIVE)
        await anyio.sleep(every)


async def _stop_on_signal(settings: Settings, stop: Callable[[], None]) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for received in signals:
            log.info("stopping", signal=received.name, grace=settings.shutdown_grace)
            stop()


async def _stop_with_parent(place: Place, stop: Callable[[], None]) -> None:
    """End in good order when the parent has ended, however it did."""
    if place.lifeline is not None:
        await anyio.wait_readable(place.lifeline)
        log.warning("stopping", reason="the parent process is gone")
        stop()
