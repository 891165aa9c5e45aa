"""An SMTP account: the server that a tenant's mail goes to, and how to log in there."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from mail_proxy.domain.oauth import OAuth
from mail_proxy.domain.rate_limit import LimitBehavior, Limits
from mail_proxy.domain.secret import Secret

IMPLICIT_TLS_PORT = 465


class TlsMode(str, Enum):
    """How the connection is protected.

    `auto`: implicit on port 465; else STARTTLS where it is offered, and always where there are credentials and the
    host is not loopback. `none`: in clear because the account says so.
    """

    AUTO = "auto"
    STARTTLS = "starttls"
    IMPLICIT = "implicit"
    NONE = "none"


class AuthMethod(str, Enum):
    """Which SASL mechanism is used; `auto` takes the strongest one with a password that the server offers."""

    AUTO = "auto"
    PLAIN = "plain"
    LOGIN = "login"
    CRAM_MD5 = "cram-md5"
    XOAUTH2 = "xoauth2"
    """With an access token in place of a password."""


class OnUncertain(str, Enum):
    """What follows when the connection died between the final dot and its answer."""  # G4

    RESEND = "resend"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Hold:
    """An account that is not used for now, and why."""  # G8

    reason: str
    since: float


@dataclass(frozen=True, slots=True)
class Outage:
    """A server that this instance leaves alone: why, since when, and when it is tried again (Unix seconds)."""  # G8

    reason: str
    since_ts: float
    next_probe_ts: float


@dataclass(frozen=True, slots=True)
class Account:
    """One SMTP account of one tenant. `pk` is the store's number for it; `id` is unique within the tenant."""

    pk: int
    tenant_id: str
    id: str
    host: str
    port: int
    user: str | None = None
    password: Secret | None = None
    oauth: OAuth | None = None
    """For XOAUTH2."""
    unreadable: bool = False
    """A secret of it is stored that no key opens, and left out here: it is of no use before that is given anew."""
    auth: AuthMethod = AuthMethod.AUTO
    tls: TlsMode = TlsMode.AUTO
    verify_tls: bool = True
    ttl: float = 300.0
    """Seconds that an idle session is kept."""
    max_connections: int = 4
    """Sessions at a time, for each instance."""
    batch_size: int | None = None
    """Messages claimed at a time; None takes the instance's setting."""
    on_uncertain: OnUncertain | None = None
    """None takes the tenant's choice."""
    is_default: bool = False
    limits: Limits = field(default_factory=Limits)
    limit_behavior: LimitBehavior = LimitBehavior.DEFER
    fallback_account_id: str | None = None
    """The account of the same tenant that its messages may go by while it cannot be used."""
    host_by_tenant: bool = False
    """The tenant's own token has set host or port: only addresses that a tenant may name are connected to."""
    token_url_by_tenant: bool = False
    """The same for `oauth.token_url`."""
    hold: Hold | None = None

    @property
    def has_credentials(self) -> bool:
        """True when a login is made before mail is sent."""
        return bool(self.user) and (self.password is not None or self.oauth is not None)

    @property
    def implicit_tls(self) -> bool:
        """True when TLS starts with the connection itself."""
        return self.tls is TlsMode.IMPLICIT or (self.tls is TlsMode.AUTO and self.port == IMPLICIT_TLS_PORT)
