"""The real application over a real store, with what sends and reports replaced by notes of what it was told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
from fastapi import FastAPI

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
from mail_proxy.api.application import create_app
from mail_proxy.api.body_memory import BodyMemory
from mail_proxy.api.failed_tokens import FailedTokens
from mail_proxy.api.metrics_text import MetricsText
from mail_proxy.api.page_turns import PageTurns
from mail_proxy.api.security_log import SecurityLog
from mail_proxy.api.services import ApiSettings, Insight, Services
from mail_proxy.domain.account import Account, Outage
from mail_proxy.domain.attempt import Probed, ProbeResult, Step
from mail_proxy.domain.backlog import Survey
from mail_proxy.domain.explanation import Here
from mail_proxy.intake.intake import Intake, IntakeSettings
from mail_proxy.reporting.feed import Feed
from mail_proxy.reporting.lane import SyncStatus
from mail_proxy.reporting.overview import SyncOverview
from mail_proxy.runtime.admin_token import AdminToken
from mail_proxy.runtime.settings import Settings
from mail_proxy.runtime.shown_settings import shown_settings
from mail_proxy.runtime.telemetry import PrometheusMeter
from mail_proxy.runtime.tracing import NoTracer
from mail_proxy.secrets import tokens
from mail_proxy.secrets.cipher import AesGcmCipher, check_key
from mail_proxy.store.opening import database_url
from mail_proxy.store.store import Store, open_store
from tests.support.storages import MemoryStorages
from tests.support.stores import SetClock, ready_made

ADMIN_TOKEN = "admin-token-of-the-tests"
KEY = bytes(range(32))


@dataclass(slots=True)
class Told:
    """What the sending side was told."""

    run_now: list[str | None] = field(default_factory=list)
    accounts: list[frozenset[int]] = field(default_factory=list)
    tested: list[Account] = field(default_factory=list)
    server_answers: list[int] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    """The tenants whose events were written by command."""
    submitted: list[tuple[frozenset[int], bool]] = field(default_factory=list)


@dataclass(slots=True)
class Instance:
    """A service without its sending side."""

    services: Services
    store: Store
    clock: SetClock
    meter: PrometheusMeter
    told: Told
    reasons: list[str]
    insight: Insight
    app: FastAPI
    outages: dict[int, Outage]
    """What this instance knows of servers, by the store's number of the account."""
    storages: MemoryStorages
    probed: ProbeResult = field(default_factory=lambda: Probed("TLSv1.3", tuple(Step)))
    """What comes of testing an account."""
    surveyed: Survey | None = None
    here: dict[int, Here] = field(default_factory=dict)

    def client(self, token: str | None = ADMIN_TOKEN, app: FastAPI | None = None) -> httpx.AsyncClient:
        """Return a client in process; an exception that the application lets out fails the test."""
        headers = {} if token is None else {"X-API-Token": token}
        transport = httpx.ASGITransport(app or self.app)
        return httpx.AsyncClient(transport=transport, base_url="http://testserver", headers=headers)


@asynccontextmanager
async def running_instance(folder: Path, url: str | None = None) -> AsyncIterator[Instance]:
    """Open a store and put the services together as the composition root does.

    The store is the database of that URL, else a file in the folder.
    """
    clock, meter, told, reasons = SetClock(), PrometheusMeter(process=False), Told(), list[str]()
    outages = dict[int, Outage]()
    cipher = AesGcmCipher(KEY)
    config = folder / "config.toml"
    config.touch(0o600)
    config.write_text(f'api_token = "{ADMIN_TOKEN}"\n')
    settings = Settings.load({"GMP_DATA_DIR": str(folder)}, key_file=folder / "none")
    store = await open_store(
        url or ready_made(database_url(str(folder / "mail_service.db"))),
        instance_id="api-tests",
        address="in process",
        cipher=cipher,
        check_key=partial(check_key, cipher),
        clock=clock,
    )
    directory = store.directory

    async def run_now(tenant_id: str | None) -> None:
        told.run_now.append(tenant_id)

    async def not_ready() -> list[str]:
        return reasons

    feed = Feed(store.feed, clock)
    storages = MemoryStorages()

    def tell(tenant_ids: Iterable[str]) -> None:
        whose = tuple(tenant_ids)
        told.events.extend(whose)
        feed.notify(whose)

    pending = Pending(store.archive, lambda: instance.surveyed)

    async def probe(account: Account) -> ProbeResult:
        told.tested.append(account)
        return instance.probed

    accounts = Accounts(directory, directory, _refuse_localhost, told.accounts.append, clock)
    services = Services(
        settings=ApiSettings(
            metrics_token_digest=None,
            max_request_bytes=1_000_000,
            database=store.database.dialect,
        ),
        intake=Intake(
            store.queue,
            directory,
            clock,
            IntakeSettings(host="proxy.example"),
            lambda pks, urgent: told.submitted.append((pks, urgent)),
        ),
        tenants=Tenants(
            directory,
            directory,
            clock,
            tokens.new_token,
            tokens.digest,
            tokens.new_signing_secret,
            LargeFileRules(storages.problem, has_public_url=False),
        ),
        downloads=Downloads(store.files, storages, directory, clock),
        accounts=accounts,
        account_tests=AccountTests(accounts, directory, directory, clock, probe, told.server_answers.append),
        scheduling=Scheduling(directory, directory, pending, told.accounts.append),
        message_commands=MessageCommands(
            store.message_changes,
            directory,
            clock,
            lambda tenant: tenant.sync_url is not None,
            told.accounts.append,
            tell,
        ),
        pending=pending,
        directory=directory,
        registry=directory,
        archive=store.archive,
        feed=feed,
        sync_overview=SyncOverview(store.sync_records, lambda _tenant_id: SyncStatus(), clock, 300.0),
        audit=AuditLog(store.command_log, clock, retention=90 * 86400),
        security_log=SecurityLog(clock),
        clock=clock,
        started=clock.monotonic(),
        started_ts=clock.now(),
        admin_token=AdminToken(settings),
        instance=InstanceAdministration(directory, directory, GivenName("tests", None)),
        seals=store.seals,
        shown_settings=lambda: shown_settings(settings),
        run_now=run_now,
        not_ready=not_ready,
        outage_of=outages.get,
        insight=lambda: instance.insight,
        here=lambda account_pk: instance.here.get(account_pk, Here()),
        metrics_text=MetricsText(meter.render, clock.monotonic),
        body_memory=BodyMemory(256_000_000),
        failed_tokens=FailedTokens(clock.monotonic),
        tracer=NoTracer(),
        page_turns=PageTurns(),
    )
    instance = Instance(
        services, store, clock, meter, told, reasons, Insight(), create_app(services), outages, storages
    )
    try:
        yield instance
    finally:
        await store.close()


def _refuse_localhost(host: str) -> str | None:
    return "is an address inside the network" if host in {"localhost", "127.0.0.1", "::1"} else None


async def new_tenant(client: httpx.AsyncClient, tenant_id: str, *accounts: str) -> str:
    """Make a tenant with accounts by the API and return its token."""
    made = await client.post("/tenant", json={"id": tenant_id})
    assert made.status_code == 200, made.text
    for account_id in accounts:
        body = {"id": account_id, "tenant_id": tenant_id, "host": "smtp.example.com", "port": 25}
        assert (await client.post("/account", json=body)).status_code == 200
    token: str = made.json()["api_key"]
    return token


def a_submission(id_: str = "M1", **fields: object) -> dict[str, object]:
    """Return a message as clients submit it."""
    message = {"id": id_, "from": "a@example.com", "to": "b@example.net", "subject": "S", "body": "B"}
    return {**message, **fields}
