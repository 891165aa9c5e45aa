"""What becomes of an account's credentials when it is set anew. Pure.

A stored secret stays only while it goes where it went, as well protected as before: otherwise whoever may change an
account could have a secret that he cannot read sent to a server of his own, or read it on the way.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import SecretStr

from mail_proxy.administration.requests import AccountIn, OAuthIn
from mail_proxy.domain.account import Account, AuthMethod
from mail_proxy.domain.errors import Invalid, Problem
from mail_proxy.domain.oauth import OAuth
from mail_proxy.domain.secret import Secret


@dataclass(frozen=True, slots=True)
class Credentials:
    """How an account logs in: with a password, with OAuth, or not at all."""

    auth: AuthMethod
    user: str | None
    password: Secret | None
    oauth: OAuth | None


def credentials(base: Account, wanted: AccountIn, lost: str | None, grant: str) -> Credentials:
    """Return the credentials that follow; raises `Invalid` naming what has to be given.

    `lost` says why stored secrets do not stay, or None. `grant` names a refresh token that is given.
    """
    given = wanted.model_fields_set
    auth = AuthMethod(wanted.auth or AuthMethod.AUTO) if "auth" in given else base.auth
    user = (wanted.user if "user" in given else base.user) or None
    if auth is AuthMethod.XOAUTH2:
        if wanted.password is not None and wanted.password.get_secret_value():
            raise Invalid(Problem("password", "is not used with auth xoauth2"))
        if user is None:
            raise Invalid(Problem("user", "is required with auth xoauth2"))
        return Credentials(auth, user, None, _oauth(base, wanted, lost, grant))
    if wanted.oauth is not None:
        raise Invalid(Problem("oauth", "is only for auth xoauth2"))
    return Credentials(auth, user, _password(base, user, wanted, lost), None)


def _password(base: Account, user: str | None, wanted: AccountIn, lost: str | None) -> Secret | None:
    if "password" in wanted.model_fields_set:
        text = wanted.password.get_secret_value() if wanted.password is not None else ""
        password = Secret(text) if text else None
    else:
        password = None if lost is not None or user is None else base.password
    if user is not None and password is None:
        had = base.password is not None or base.unreadable
        again = lost is not None and had and "password" not in wanted.model_fields_set
        raise Invalid(
            Problem("password", f"must be given again, because {lost}" if again else "is required with a user")
        )
    if password is not None and user is None:
        raise Invalid(Problem("user", "is required with a password"))
    return password


def _oauth(base: Account, wanted: AccountIn, lost: str | None, grant: str) -> OAuth:
    asked, stored = wanted.oauth or OAuthIn(), base.oauth
    given = asked.model_fields_set
    if stored is None:
        missing = f"must be given again, because {lost}" if base.unreadable else "is required"
        if wanted.oauth is None:
            raise Invalid(Problem("oauth", missing if base.unreadable else "is required with auth xoauth2"))
    elif "oauth" in wanted.model_fields_set and wanted.oauth is None:
        raise Invalid(Problem("oauth", "is required with auth xoauth2"))
    else:
        if asked.token_url is not None and asked.token_url != stored.token_url:
            lost = lost or "token_url changed"
        missing = "is required" if lost is None else f"must be given again, because {lost}"
    keep = stored if lost is None else None
    token_url = asked.token_url or (None if stored is None else stored.token_url)
    client_id = asked.client_id or (None if stored is None else stored.client_id)
    client_secret = _secret(asked.client_secret) or (None if keep is None else keep.client_secret)
    refresh_token = _secret(asked.refresh_token) or (None if keep is None else keep.refresh_token)
    parts = {
        "token_url": token_url,
        "client_id": client_id,
        "client_secret": client_secret,
        "refresh_token": refresh_token,
    }
    problems = [
        Problem(f"oauth.{name}", "must not be null" if name in given and getattr(asked, name) is None else missing)
        for name, value in parts.items()
        if value is None or (name in given and getattr(asked, name) is None)
    ]
    if problems or token_url is None or client_id is None or client_secret is None or refresh_token is None:
        raise Invalid(*problems)
    return OAuth(
        token_url=token_url,
        client_id=client_id,
        client_secret=client_secret,
        refresh_token=refresh_token,
        grant=grant if keep is None or asked.refresh_token is not None else keep.grant,
        scope=asked.scope if "scope" in given or stored is None else stored.scope,
    )


def _secret(given: SecretStr | None) -> Secret | None:
    return None if given is None else Secret(given.get_secret_value())
