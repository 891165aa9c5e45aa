"""What a request makes of an account. Pure: the account that is there, the request, and the account that follows."""

from __future__ import annotations

from dataclasses import replace

from mail_proxy.administration.credentials import credentials
from mail_proxy.administration.requests import AccountIn
from mail_proxy.domain.account import IMPLICIT_TLS_PORT, Account, OnUncertain, TlsMode
from mail_proxy.domain.errors import Invalid, Problem
from mail_proxy.domain.rate_limit import LimitBehavior, Limits

DEFAULT_CONNECTIONS = 4


def changed_account(
    existing: Account | None,
    tenant_id: str,
    wanted: AccountIn,
    max_connections: int = DEFAULT_CONNECTIONS,
    *,
    by_tenant: bool = False,
    grant: str = "",
) -> Account:
    """Return the account that the request asks for; raises `Invalid` naming every field that is wrong.

    `max_connections` is for a new account that gives none; `grant` names a refresh token that is given. What a tenant's
    own token sets is marked as his: the operator's stays the operator's until a tenant changes it, and the other way
    round until the operator gives it himself.
    """
    problems = _missing(existing, wanted)
    if problems:
        raise Invalid(*problems)
    defaults = Account(pk=0, tenant_id=tenant_id, id=wanted.id, host="", port=0, max_connections=max_connections)
    base = existing or defaults
    given = wanted.model_fields_set
    host = wanted.host if wanted.host is not None else base.host
    port = wanted.port if wanted.port is not None else base.port
    tls = _tls(wanted, base, port)
    verify_tls = (wanted.verify_tls is not False) if "verify_tls" in given else base.verify_tls
    lost = "the stored one cannot be opened with any key" if base.unreadable else None
    if existing is not None and moved(existing, wanted):
        lost = "host or port changed"
    elif existing is not None and by_tenant and _weaker(existing, tls, verify_tls=verify_tls):
        lost = "the connection would be less protected"
    login = credentials(base, wanted, lost, grant)
    return replace(
        base,
        host=host,
        port=port,
        host_by_tenant=_set_by_tenant(
            before=base.host_by_tenant,
            by_tenant=by_tenant,
            changed=existing is None or moved(existing, wanted),
            given=wanted.host is not None,
        ),
        user=login.user,
        password=login.password,
        oauth=login.oauth,
        unreadable=False,
        token_url_by_tenant=login.oauth is not None
        and _set_by_tenant(
            before=base.token_url_by_tenant,
            by_tenant=by_tenant,
            changed=base.oauth is None or login.oauth.token_url != base.oauth.token_url,
            given=wanted.oauth is not None and wanted.oauth.token_url is not None,
        ),
        auth=login.auth,
        tls=tls,
        verify_tls=verify_tls,
        on_uncertain=(wanted.on_uncertain and OnUncertain(wanted.on_uncertain))
        if "on_uncertain" in given
        else base.on_uncertain,
        limits=_limits(wanted, base.limits),
        limit_behavior=LimitBehavior(wanted.limit_behavior or LimitBehavior.DEFER)
        if "limit_behavior" in given
        else base.limit_behavior,
        fallback_account_id=_fallback(wanted) if "fallback_account_id" in given else base.fallback_account_id,
        **{
            name: value if (value := getattr(wanted, name)) is not None else getattr(defaults, name)
            for name in ("ttl", "max_connections", "batch_size", "is_default")
            if name in given
        },
    )


def _limits(wanted: AccountIn, base: Limits) -> Limits:
    given = wanted.model_fields_set
    return Limits(
        per_minute=(wanted.limit_per_minute or None) if "limit_per_minute" in given else base.per_minute,
        per_hour=(wanted.limit_per_hour or None) if "limit_per_hour" in given else base.per_hour,
        per_day=(wanted.limit_per_day or None) if "limit_per_day" in given else base.per_day,
    )


def _fallback(wanted: AccountIn) -> str | None:
    if wanted.fallback_account_id == wanted.id:
        raise Invalid(Problem("fallback_account_id", "must be another account"))
    return wanted.fallback_account_id


def _missing(existing: Account | None, wanted: AccountIn) -> list[Problem]:
    if existing is None:
        return [
            Problem(name, "is required for a new account") for name in ("host", "port") if getattr(wanted, name) is None
        ]
    return [
        Problem(name, "must not be null")
        for name in ("host", "port")
        if name in wanted.model_fields_set and getattr(wanted, name) is None
    ]


def moved(existing: Account, wanted: AccountIn) -> bool:
    """Say whether a request leads an account to another host or port."""
    host = wanted.host if wanted.host is not None else existing.host
    port = wanted.port if wanted.port is not None else existing.port
    return (host.lower(), port) != (existing.host.lower(), existing.port)


def _weaker(existing: Account, tls: TlsMode, *, verify_tls: bool) -> bool:
    """Say whether somebody on the way could now read what he could not read before."""
    return (tls is TlsMode.NONE and existing.tls is not TlsMode.NONE) or (existing.verify_tls and not verify_tls)


def _set_by_tenant(*, before: bool, by_tenant: bool, changed: bool, given: bool) -> bool:
    """Say whose a setting is now: the tenant's who changes it, the operator's who gives it, else as before."""
    if by_tenant:
        return before or changed
    return before and not given


def _tls(wanted: AccountIn, base: Account, port: int) -> TlsMode:
    if wanted.use_tls is not None:
        if wanted.tls is not None:
            raise Invalid(Problem("use_tls", "is the older form of tls: give one of them"))
        if not wanted.use_tls:
            return TlsMode.AUTO
        return TlsMode.IMPLICIT if port == IMPLICIT_TLS_PORT else TlsMode.STARTTLS
    if "tls" not in wanted.model_fields_set:
        return base.tls
    return TlsMode(wanted.tls or TlsMode.AUTO)
