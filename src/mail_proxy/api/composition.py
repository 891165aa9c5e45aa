"""What the routes work with, taken from an open instance."""

from __future__ import annotations

from mail_proxy.api.body_memory import BodyMemory
from mail_proxy.api.failed_tokens import FailedTokens
from mail_proxy.api.metrics_text import MetricsText
from mail_proxy.api.page_turns import PageTurns
from mail_proxy.api.security_log import SecurityLog
from mail_proxy.api.services import ApiSettings, Insight, Services
from mail_proxy.reporting.overview import SyncOverview
from mail_proxy.runtime.admin_token import AdminToken
from mail_proxy.runtime.app import App
from mail_proxy.runtime.shown_settings import shown_settings
from mail_proxy.secrets.tokens import digest

VALUES_PER_MESSAGE = 500
"""Values (fields, recipients, headers) that the messages of a batch may have on average."""
MIN_VALUES = 200_000
"""What one submission may have however small its batch has to be."""


def services_from(app: App) -> Services:
    """Return the services of an instance for `create_app`."""
    settings = app.settings
    return Services(
        settings=ApiSettings(
            metrics_token_digest=None if settings.metrics_token is None else digest(settings.metrics_token.reveal()),
            max_request_bytes=settings.max_request_bytes,
            database=app.store.database.dialect,
            workers=settings.workers,
            max_values=max(VALUES_PER_MESSAGE * settings.max_batch, MIN_VALUES),
            trusted_proxies=settings.trusted_proxies,
        ),
        intake=app.intake,
        tenants=app.tenants,
        downloads=app.downloads,
        accounts=app.accounts,
        account_tests=app.account_tests,
        scheduling=app.scheduling,
        message_commands=app.message_commands,
        pending=app.pending,
        directory=app.store.directory,
        registry=app.store.directory,
        archive=app.store.archive,
        feed=app.feed,
        sync_overview=SyncOverview(app.store.sync_records, app.reporter.status, app.clock, settings.sync_interval),
        audit=app.audit,
        security_log=SecurityLog(app.clock),
        clock=app.clock,
        started=app.clock.monotonic(),
        started_ts=app.clock.now(),
        admin_token=AdminToken(settings),
        instance=app.instance,
        seals=app.store.seals,
        shown_settings=lambda: shown_settings(settings),
        run_now=app.run_now,
        not_ready=app.not_ready,
        insight=lambda: _insight(app),
        outage_of=app.delivery.outage_of,
        here=app.delivery.here,
        metrics_text=MetricsText(app.meter.render, app.clock.monotonic),
        body_memory=BodyMemory(int(settings.max_bodies_mb * 1_000_000)),
        failed_tokens=FailedTokens(app.clock.monotonic),
        page_turns=PageTurns(),
        tracer=app.tracer,
    )


def _insight(app: App) -> Insight:
    surveyed = app.delivery.maintenance.surveyed
    return Insight(
        pending=app.meter.pending_messages,
        oldest_waiting_ts=None if surveyed is None else surveyed.oldest_ready_ts,
        loops=app.loop_states(),
        left_alone=app.delivery.left_alone(),
    )
