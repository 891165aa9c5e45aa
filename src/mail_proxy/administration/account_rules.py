"""What a request makes of an account. Pure: the account that is there, the request, and the account that follows."""

from __future__ import annotations

from dataclasses import replace

from mail_proxy.administration.requests import AccountIn
from mail_proxy.domain.account import IMPLICIT_TLS_PORT, Account, AuthMethod, OnUncertain, TlsMode
from mail_proxy.domain.errors import Invalid, Problem
from mail_proxy.domain.rate_limit import LimitBehavior, Limits
from mail_proxy.domain.secret import Secret

DEFAULT_CONNECTIONS = 4


def changed_account(
    existing: Account | None, tenant_id: str, wanted: AccountIn, max_connections: int = DEFAULT_CONNECTIONS
) -> Account:
    """Return the account that the request asks for; raises `Invalid` naming every field that is wrong.

    `max_connections` is for a new account that gives none.

    A stored password stays only while host and port stay: otherwise whoever may change an account could have a password
    that he cannot read sent to a server of his own.
    """
    problems = _missing(existing, wanted)
    if problems:
        raise Invalid(*problems)
    defaults = Account(pk=0, tenant_id=tenant_id, id=wanted.id, host="", port=0, max_connections=max_connections)
    base = existing or defaults
    given = wanted.model_fields_set
    host = wanted.host if wanted.host is not None else base.host
    port = wanted.port if wanted.port is not None else base.port
    user, password = _login(existing, wanted, moved=(host.lower(), port) != (base.host.lower(), base.port))
    return replace(
        base,
        host=host,
        port=port,
        user=user,
        password=password,
        auth=AuthMethod(wanted.auth or AuthMethod.AUTO) if "auth" in given else base.auth,
        tls=_tls(wanted, base, port),
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
            for name in ("verify_tls", "ttl", "max_connections", "batch_size", "is_default")
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


def _login(existing: Account | None, wanted: AccountIn, *, moved: bool) -> tuple[str | None, Secret | None]:
    given = wanted.model_fields_set
    stored = existing.password if existing is not None else None
    user = wanted.user if "user" in given or existing is None else existing.user
    if "password" in given:
        text = wanted.password.get_secret_value() if wanted.password is not None else ""
        password = Secret(text) if text else None
    else:
        password = None if moved or not user else stored
    if user and password is None:
        again = moved and stored is not None and "password" not in given
        raise Invalid(
            Problem(
                "password", "must be given again, because host or port changed" if again else "is required with a user"
            )
        )
    if password is not None and not user:
        raise Invalid(Problem("user", "is required with a password"))
    return user or None, password


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
