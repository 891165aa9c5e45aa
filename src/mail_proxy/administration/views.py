"""Tenants and accounts as they are shown. Secrets are written, never read back: only whether there is one is told."""

from __future__ import annotations

from typing_extensions import assert_never

from mail_proxy.administration.large_files import config_view
from mail_proxy.domain.account import Account, Outage
from mail_proxy.domain.attempt import AccountRefused, HostFailed, Probed, ProbeResult
from mail_proxy.domain.tenant import Tenant, TenantSecret


def tenant_view(tenant: Tenant) -> dict[str, object]:
    """Return a tenant for JSON."""
    auth = tenant.client_auth
    return {
        "id": tenant.id,
        "name": tenant.name,
        "client_base_url": tenant.client_base_url,
        "client_sync_path": tenant.client_sync_path,
        "client_attachment_path": tenant.client_attachment_path,
        "client_auth": {
            "method": auth.method.value,
            "has_token": auth.token is not None,
            "user": auth.user,
            "has_password": auth.password is not None,
        },
        "active": tenant.active,
        "on_uncertain": tenant.on_uncertain.value,
        "rate_limits": {"hourly": tenant.limits.per_hour, "daily": tenant.limits.per_day},
        "large_file_config": config_view(tenant.large_files),
        "has_api_key": tenant.has_api_key,
        "api_key_expires_at": tenant.api_key_expires_at,
        "signs_reports": tenant.signing.secret is not None or TenantSecret.SIGNING in tenant.unreadable,
        "earlier_secrets_until": tenant.signing.earlier_until,
        "unreadable_secrets": sorted(each.value for each in tenant.unreadable),
        "suspended": tenant.suspension.whole_tenant,
        "suspended_batches": sorted(tenant.suspension.batches),
        "created_ts": tenant.created_ts,
    }


def outage_view(outage: Outage | None) -> dict[str, object] | None:
    """Return for JSON why this instance leaves a server alone; None while it does not."""
    if outage is None:
        return None
    return {
        "state": "left_alone",
        "reason": outage.reason,
        "since": outage.since_ts,
        "next_probe_ts": outage.next_probe_ts,
    }


def probe_view(result: ProbeResult) -> dict[str, object]:
    """Return for JSON how far a login without a message came."""
    match result:
        case Probed(tls_version, steps):
            return {"ok": True, "steps": [step.name.lower() for step in steps], "tls_version": tls_version}
        case HostFailed() | AccountRefused():
            return {
                "ok": False,
                "step": None if result.step is None else result.step.name.lower(),
                "error": result.text,
                "reply": None if result.reply is None else str(result.reply),
                "code": "account_refused" if isinstance(result, AccountRefused) else "server_unreachable",
            }
        case _:
            assert_never(result)


def _oauth_view(account: Account) -> dict[str, object] | None:
    oauth = account.oauth
    if oauth is None:
        return None
    return {
        "token_url": oauth.token_url,
        "token_url_set_by": _setter(by_tenant=account.token_url_by_tenant),
        "client_id": oauth.client_id,
        "scope": oauth.scope,
    }


def _setter(*, by_tenant: bool) -> str:
    return "tenant" if by_tenant else "operator"


def account_view(account: Account, outage: Outage | None = None) -> dict[str, object]:
    """Return an account for JSON; `outage` is what this instance knows of its server."""
    hold = account.hold
    return {
        "id": account.id,
        "tenant_id": account.tenant_id,
        "host": account.host,
        "port": account.port,
        "user": account.user,
        "has_password": account.password is not None,
        "has_oauth": account.oauth is not None,
        "oauth": _oauth_view(account),
        "host_set_by": _setter(by_tenant=account.host_by_tenant),
        "auth": account.auth.value,
        "tls": account.tls.value,
        "verify_tls": account.verify_tls,
        "ttl": account.ttl,
        "max_connections": account.max_connections,
        "batch_size": account.batch_size,
        "on_uncertain": None if account.on_uncertain is None else account.on_uncertain.value,
        "is_default": account.is_default,
        "limit_per_minute": account.limits.per_minute,
        "limit_per_hour": account.limits.per_hour,
        "limit_per_day": account.limits.per_day,
        "limit_behavior": account.limit_behavior.value,
        "fallback_account_id": account.fallback_account_id,
        "hold": None if hold is None else {"reason": hold.reason, "since": hold.since},
        "server": outage_view(outage),
    }
