"""What the routes work with; put together by the composition root."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from starlette.requests import Request

from mail_proxy.administration.account_tests import AccountTests
from mail_proxy.administration.accounts import Accounts
from mail_proxy.administration.audit import AuditLog
from mail_proxy.administration.downloads import Downloads
from mail_proxy.administration.instance import InstanceAdministration
from mail_proxy.administration.message_commands import MessageCommands
from mail_proxy.administration.pending import Pending
from mail_proxy.administration.scheduling import Scheduling
from mail_proxy.administration.tenants import Tenants
from mail_proxy.api.body_memory import BodyMemory
from mail_proxy.api.failed_tokens import FailedTokens
from mail_proxy.api.metrics_text import MetricsText
from mail_proxy.api.page_turns import PageTurns
from mail_proxy.api.security_log import SecurityLog
from mail_proxy.domain.account import Account, Outage
from mail_proxy.domain.explanation import Here
from mail_proxy.intake.intake import Intake
from mail_proxy.ports.archive import Archive
from mail_proxy.ports.clock import Clock
from mail_proxy.ports.directory import Directory, Registry
from mail_proxy.ports.observers import Tracer
from mail_proxy.ports.secrets import Seals
from mail_proxy.reporting.feed import Feed
from mail_proxy.reporting.overview import SyncOverview
from mail_proxy.runtime.admin_token import AdminToken
from mail_proxy.runtime.shown_settings import Shown


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """What the instance sets. Tokens are only known by their SHA-256 (`secrets.tokens.digest`)."""

    metrics_token_digest: str | None
    """None: `/metrics` is for everybody."""
    max_request_bytes: int | None
    """None: no limit."""
    database: str
    """For `/status`: `sqlite` or `postgresql`."""
    workers: int = 1
    """Processes that answer on this address."""
    max_values: int = 500_000
    """Values in the JSON of a submission."""
    trusted_proxies: Sequence[IPv4Network | IPv6Network] = ()
    """Whose `X-Forwarded-For` is believed."""


@dataclass(frozen=True, slots=True)
class Insight:
    """What is known of the running instance without asking the database. None: not known yet."""

    pending: int | None = None
    oldest_waiting_ts: float | None = None
    loops: Mapping[str, str] | None = None
    """The state of each loop by its name."""
    left_alone: Sequence[tuple[Account, Outage]] = ()
    """Accounts whose server this instance leaves alone."""


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that an answer is made from."""

    settings: ApiSettings
    intake: Intake
    tenants: Tenants
    downloads: Downloads
    accounts: Accounts
    account_tests: AccountTests
    scheduling: Scheduling
    message_commands: MessageCommands
    pending: Pending
    directory: Directory
    registry: Registry
    archive: Archive
    feed: Feed
    sync_overview: SyncOverview
    audit: AuditLog
    security_log: SecurityLog
    clock: Clock
    started: float
    """When the instance started, by the monotonic clock."""
    started_ts: float
    """The same in Unix seconds."""
    admin_token: AdminToken
    instance: InstanceAdministration
    seals: Seals
    shown_settings: Callable[[], Sequence[Shown]]
    run_now: Callable[[str | None], Awaitable[None]]
    """Wake the loops: for one tenant, or (None) for all."""
    not_ready: Callable[[], Awaitable[Sequence[str]]]
    """Why the instance is not ready, one sentence each; empty when it is."""
    outage_of: Callable[[int], Outage | None]
    """Why this instance leaves an account's server alone, or None; by the store's number of the account."""
    insight: Callable[[], Insight]
    here: Callable[[int], Here]
    """What this instance knows, besides the database, of why messages of an account are not sent."""
    metrics_text: MetricsText
    body_memory: BodyMemory
    failed_tokens: FailedTokens
    page_turns: PageTurns
    tracer: Tracer


def services_of(request: Request) -> Services:
    """Return what the application was made with."""
    services: Services = request.app.state.services
    return services
