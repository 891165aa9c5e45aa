"""The composition root: every port gets its implementation here, and nowhere else."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import socket
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import SystemRandom
from uuid import uuid4

import structlog

from mail_proxy.administration.account_tests import AccountTests
from mail_proxy.administration.accounts import Accounts
from mail_proxy.administration.audit import AuditLog
from mail_proxy.administration.downloads import Downloads
from mail_proxy.administration.instance import GivenName, InstanceAdministration
from mail_proxy.administration.large_files import LargeFileRules
from mail_proxy.administration.message_commands import MessageCommands
from mail_proxy.administration.pending import Pending
from mail_proxy.administration.scheduling import Scheduling
from mail_proxy.administration.tenants import Tenants
from mail_proxy.delivery.delivery import Delivery
from mail_proxy.delivery.journal import FlightJournal, boot_id
from mail_proxy.delivery.needs import Needs
from mail_proxy.delivery.settings import MOST_FETCHES, DeliverySettings
from mail_proxy.domain.rate_limit import Windows
from mail_proxy.domain.retry import RetrySchedule
from mail_proxy.domain.tenant import ClientAuth
from mail_proxy.intake.intake import Intake, IntakeSettings
from mail_proxy.outbound.access_tokens import RefreshedTokens
from mail_proxy.outbound.callback import Endpoint, HttpReportSink
from mail_proxy.outbound.client import Limits, OutboundClient
from mail_proxy.outbound.guard import Guarded, Trusted, refusal
from mail_proxy.outbound.own_reporter import BUILT_IN, OwnReporterSink, load
from mail_proxy.ports.clock import Clock
from mail_proxy.ports.observers import Observers, Tracer
from mail_proxy.ports.report_sink import ReportSink
from mail_proxy.reporters import Reporter as OwnReporter
from mail_proxy.reporting.feed import Feed
from mail_proxy.reporting.reporter import Reporter
from mail_proxy.reporting.settings import ReportingSettings
from mail_proxy.reporting.turns import Turns
from mail_proxy.runtime.attachments import open_attachments, open_storages
from mail_proxy.runtime.clock import DatabaseClock, SystemClock
from mail_proxy.runtime.config_file import NAME as CONFIG_FILE
from mail_proxy.runtime.folders import WHERE, FolderRefused, made
from mail_proxy.runtime.loops import loops
from mail_proxy.runtime.setting_values import SqliteFile
from mail_proxy.runtime.settings import DEFAULT, Settings
from mail_proxy.runtime.supervisor import Supervisor
from mail_proxy.runtime.tally import Tally
from mail_proxy.runtime.telemetry import PrometheusMeter
from mail_proxy.runtime.tracing import NoTracer, OtlpTracer
from mail_proxy.secrets import tokens
from mail_proxy.secrets.cipher import AesGcmCipher, check_key
from mail_proxy.secrets.keys import KEY_FILE_NAME, obtain_key, old_keys
from mail_proxy.smtp.pool import SmtpTransport
from mail_proxy.smtp.timeouts import Timeouts
from mail_proxy.store.opening import database_url
from mail_proxy.store.store import Store, open_store
from mail_proxy.store.usage import UsageSettings

SWITCH_INTERVAL = 0.0001
"""Seconds after which a thread that wants the interpreter gets it; the store's threads wait that long for each step."""
YOUNG = 10_000
"""New containers after which garbage is looked for. With the usual 700 a body of many small lists stops everything for
a second; nothing that is made often has cycles.
"""

log = structlog.get_logger(__name__)

TEST_TIMEOUTS = Timeouts(connect=8.0, command=10.0)
"""For `POST /account/{id}/test`, whose caller waits."""
REPORT_LOOKUPS = 512
"""Name servers asked at a time for reports: as many as there are reports at a time, as dead ones delay no other."""
MANY_FILES = 16_000
"""Beyond that connections to a thousand endpoints a second may be kept for a while."""


@dataclass(slots=True)
class App:
    """An instance with everything in its place; `supervisor` runs its loops."""

    settings: Settings
    clock: Clock
    store: Store
    meter: PrometheusMeter
    tracer: Tracer
    intake: Intake
    tenants: Tenants
    downloads: Downloads
    accounts: Accounts
    account_tests: AccountTests
    scheduling: Scheduling
    message_commands: MessageCommands
    pending: Pending
    audit: AuditLog
    instance: InstanceAdministration
    delivery: Delivery
    reporter: Reporter
    feed: Feed
    supervisor: Supervisor

    async def run_now(self, tenant_id: str | None) -> None:
        """Send and report at once what is due, on every instance; for one tenant, its do-not-disturb ends as well."""
        self.delivery.run_now()
        self.reporter.wake(tenant_id)
        await self.store.hints.run_now()

    async def run(self) -> None:
        """Run every loop until `stop`, and then let each end in good order."""
        await self.supervisor.run()

    def stop(self) -> None:
        """Begin nothing new; `run` returns when what was begun has ended."""  # G6
        self.delivery.stop()
        self.feed.stop()

    async def not_ready(self) -> Sequence[str]:
        """Say why the instance should get no requests now; empty when it should."""
        reasons = self.supervisor.not_running
        if not self.delivery.recorder.available:
            reasons.append("Outcomes cannot be recorded.")  # G12
        reasons += await self.store.problems()
        return reasons

    def loop_states(self) -> Mapping[str, str]:
        """Return the state of each loop."""
        return self.supervisor.states


@asynccontextmanager
async def open_app(
    settings: Settings, address: str, worker: int = 0, tally: Tally | None = None, *, sends: bool = True
) -> AsyncIterator[App]:
    """Open everything that an instance is made of, and close it in the opposite order.

    `address` is told to others that want the same SQLite file; workers of one port differ in their number and share the
    tally. Nothing runs yet; whoever will run no loops does not send. Raises `KeyRefused`, `WrongKey`, `StoreRefused`,
    `SchemaTooNew`, `StoreUnavailable`, `JournalLocked`, `JournalUnwritable` and `ReporterRefused` in a sentence.
    """
    own_reporter = None if settings.reporter == BUILT_IN else load(settings.reporter)
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])  # G11
    meter, instance_id = (
        PrometheusMeter(tally, worker, max_series=settings.metrics_max_accounts),
        _instance_id(settings),
    )
    clock = SystemClock() if isinstance(settings.database, SqliteFile) else DatabaseClock(SystemClock())
    async with AsyncExitStack() as stack:
        store = await _open_store(settings, address, instance_id, clock)
        stack.push_async_callback(store.close)
        store.database.commits.meter = meter
        if isinstance(clock, DatabaseClock):
            await clock.ask(store.time)  # G14
        audit = AuditLog(store.command_log, clock, settings.command_log_retention_seconds)
        stack.push_async_callback(audit.close)
        tracer = _tracer(stack, settings, clock)
        journal = FlightJournal(settings.data_folder / f"flight-{worker}.log", instance_id, boot_id(), sends=sends)
        stack.callback(journal.close)
        guard = Guarded(tuple(settings.allow_networks))
        http = await stack.enter_async_context(OutboundClient(Trusted()))
        guarded_http = await stack.enter_async_context(OutboundClient(guard))
        alone = store.database.dialect == "sqlite"
        tokens_for = RefreshedTokens(http, guarded_http, store.directory, store.directory, clock, alone=alone)
        stack.push_async_callback(tokens_for.close)
        transport = _transport(stack, _timeouts(settings), guard, tokens_for)
        attachments = await open_attachments(stack, settings, guard, clock, meter)
        storages = await open_storages(stack, settings)
        reports_http = await stack.enter_async_context(OutboundClient(Trusted(), _limits_of_reports()))
        sink = _sink(stack, own_reporter, HttpReportSink(reports_http, clock, _fallback(settings)))
        directory = store.directory
        rng = SystemRandom()
        marked = store.seals.mark
        turns = Turns(store.sync_leases, lambda: delivery.standing(), clock, rng, marked)  # noqa: PLW0108 - it comes below
        observers = Observers(meter, tracer)
        reporter = Reporter(store.outbox, directory, sink, clock, observers, _reporting(settings), rng, turns)
        feed = Feed(store.feed, clock)

        def told(tenant_ids: Iterable[str]) -> None:
            whose = tuple(tenant_ids)
            reporter.notify(whose)
            feed.notify(whose)

        needs = Needs(
            instance_id,
            store.queue,
            directory,
            directory,
            transport,
            attachments,
            store.files,
            storages,
            store.cipher,
            sink,
            clock,
            meter,
            tracer,
        )
        delivery = Delivery(needs, _delivery(settings), journal, told, alone=alone)
        intake = Intake(
            store.queue,
            directory,
            clock,
            IntakeSettings(
                socket.getfqdn(), settings.default_priority, settings.max_batch, settings.max_attachment_bytes
            ),
            lambda pks, urgent: delivery.notify(pks, urgent=urgent),
        )
        pending = Pending(store.archive, lambda: delivery.maintenance.surveyed)
        accounts = Accounts(
            directory,
            directory,
            lambda host: _host_refusal(host, guard),
            delivery.notify,
            clock,
            settings.max_connections_per_account,
        )
        account_tests = AccountTests(
            accounts,
            directory,
            directory,
            clock,
            # It shares no sessions with the one that sends, and waits less.
            _transport(stack, TEST_TIMEOUTS, guard, tokens_for).probe,
            delivery.server_answers,
        )
        yield App(
            settings=settings,
            clock=clock,
            store=store,
            meter=meter,
            tracer=tracer,
            intake=intake,
            tenants=Tenants(
                directory,
                directory,
                clock,
                tokens.new_token,
                tokens.digest,
                tokens.new_signing_secret,
                LargeFileRules(storages.problem, has_public_url=settings.public_url is not None),
                attachments.forget,
            ),
            downloads=Downloads(store.files, storages, directory, clock),
            accounts=accounts,
            account_tests=account_tests,
            scheduling=Scheduling(directory, directory, pending, delivery.freed),
            message_commands=MessageCommands(
                store.message_changes,
                directory,
                clock,
                sink.has_endpoint,
                delivery.notify,
                told,
                settings.max_batch,
            ),
            pending=pending,
            audit=audit,
            instance=InstanceAdministration(directory, directory, _given_name(settings)),
            delivery=delivery,
            reporter=reporter,
            feed=feed,
            supervisor=Supervisor(loops(delivery, reporter, feed, audit, store, clock, attachments)),
        )


def _transport(stack: AsyncExitStack, timeouts: Timeouts, guard: Guarded, tokens_for: RefreshedTokens) -> SmtpTransport:
    """Return a transport that connects to whatever the operator has set, and for tenants to what they may name."""
    made = SmtpTransport(timeouts=timeouts, address_refusal=lambda address: refusal(address, guard), tokens=tokens_for)
    stack.push_async_callback(made.close)
    return made


def _tracer(stack: AsyncExitStack, settings: Settings, clock: Clock) -> Tracer:
    """Return what sends traces where they are wanted, else what only keeps the callers' own."""
    if settings.traces_url is None:
        return NoTracer()
    tracer = OtlpTracer(settings.traces_url, settings.traces_ratio, settings.instance_name, clock)
    stack.push_async_callback(asyncio.to_thread, tracer.close)
    return tracer


def _sink(stack: AsyncExitStack, own: OwnReporter | None, http: HttpReportSink) -> ReportSink:
    """Return what carries reports."""
    if own is None:
        return http
    sink = OwnReporterSink(own)
    stack.push_async_callback(sink.close)
    return sink


def _instance_id(settings: Settings) -> str:
    """Name this run of the instance: no other run, here or elsewhere, has the same name."""
    return f"{settings.instance_name}-{os.getpid()}-{uuid4().hex[:12]}"


def _given_name(settings: Settings) -> GivenName:
    source = settings.source("instance_name")
    where = {DEFAULT: None, CONFIG_FILE: f"instance_name in {CONFIG_FILE}"}.get(source, "GMP_INSTANCE_NAME")
    return GivenName(settings.instance_name, where)


async def _open_store(settings: Settings, address: str, instance_id: str, clock: Clock) -> Store:
    database = settings.database
    key_folder: Path | None = None
    first_start = False
    if isinstance(database, SqliteFile):
        made(database.path.parent)
        key_folder, first_start = settings.data_folder, not database.path.exists()
        url = database_url(str(database.path))
    else:
        url = database_url(database.url.reveal())
        if (settings.data_folder / KEY_FILE_NAME).exists():  # it is never made here: all instances need the same
            key_folder = settings.data_folder
    made(settings.data_folder)
    cipher = AesGcmCipher(
        obtain_key(settings.encryption_key, key_folder, first_start=first_start),
        old_keys(settings.encryption_keys_old),
    )
    # Not before there is a key: a database without its key is never taken for a new one.
    if isinstance(database, SqliteFile) and first_start:
        # It holds mail: for this user only, and so are the files that SQLite puts beside it.
        try:
            os.close(os.open(database.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise FolderRefused(f"{database.path} cannot be made: {error.strerror}; {WHERE}") from None
    is_new = False

    def check(held: str | None) -> str:
        nonlocal is_new
        is_new = held is None
        return check_key(cipher, held)

    store = await open_store(
        url,
        instance_id=instance_id,
        address=address,
        cipher=cipher,
        check_key=check,
        clock=clock,
        usage=UsageSettings(Windows(*settings.rate_windows)),
        lease=settings.lease,
    )
    if is_new and not settings.scheduler_active:
        await store.directory.set_scheduler_active(active=False)
    return store


def _delivery(settings: Settings) -> DeliverySettings:
    return DeliverySettings(
        schedule=RetrySchedule(
            delays=settings.retry_delays, max_attempts=settings.max_retries, max_age=settings.max_age
        ),
        batch_size=settings.batch_size_per_account,
        max_concurrent_sends=settings.max_concurrent_sends,
        max_sending=int(settings.max_sending_mb * 1_000_000),
        public_url=settings.public_url,
        max_fetches=max(4, min(MOST_FETCHES, _open_files() // 128)),
        poll_interval=settings.send_loop_interval,
        grace=settings.shutdown_grace,
        lease=settings.lease,
        retention=settings.delivery_report_retention_seconds,
        body_retention=settings.body_retention_seconds,
        only_on_demand=settings.test_mode,
        log_each_attempt=settings.log_delivery_activity,
    )


def _limits_of_reports() -> Limits:
    """The reporter keeps the number of its connections down; those that nobody uses are open files as well."""  # G11
    return Limits(0, 0, lookups=REPORT_LOOKUPS, keep_alive=4.0 if _open_files() > MANY_FILES else 0.5)


def _reporting(settings: Settings) -> ReportingSettings:
    """Where few files may be open, most are for others than endpoints that do not answer."""  # G11
    made = ReportingSettings(sync_interval=settings.sync_interval, automatic=not settings.test_mode)
    return replace(made, parallel_slow=max(16, min(made.parallel_slow, _open_files() // 16)))


def _open_files() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def _timeouts(settings: Settings) -> Timeouts:
    return Timeouts(
        connect=settings.smtp_connect_timeout,
        command=settings.smtp_command_timeout,
        data_block=settings.smtp_data_timeout,
        dot=settings.smtp_dot_timeout,
    )


def _fallback(settings: Settings) -> Endpoint | None:
    """Return where reports go for tenants without an endpoint of their own."""
    if settings.client_sync_url is None:
        return None
    auth = ClientAuth.of(settings.client_sync_token, settings.client_sync_user, settings.client_sync_password)
    return Endpoint(settings.client_sync_url, auth)


def _host_refusal(host: str, guard: Guarded) -> str | None:
    """Say why a tenant may not name a host that is an address of this machine or of a private network."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        name = "127.0.0.1"
    last = name.rpartition(".")[2]
    if not (":" in name or last.isdigit() or last.startswith("0x")):
        return None  # a name; what it stands for is known only when it is connected to
    kind = refusal(name.strip("[]"), guard)
    return None if kind is None else f"must not be {kind}; ask the operator, who can allow a network"
