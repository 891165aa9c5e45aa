"""A tenant: one organisation with its own accounts, messages and reports."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import Enum

from mail_proxy.domain.account import OnUncertain
from mail_proxy.domain.large_file import LargeFileConfig
from mail_proxy.domain.rate_limit import Limits
from mail_proxy.domain.secret import Secret
from mail_proxy.domain.signing import Signing

DEFAULT_SYNC_PATH = "/mail-proxy/sync"
DEFAULT_ATTACHMENT_PATH = "/mail-proxy/attachments"

COMMAND_WORDS = frozenset(
    "accounts command-log config connect info list messages run-now send serve start status stop restart delete demo "
    "stats completion suspend activate tenants token backup restore watch help".split()
)
"""Words of the command line, which an id must not be: `mail-proxy NAME WORD` would be ambiguous."""

_ID = re.compile(r"[A-Za-z0-9._@-]{1,64}\Z")


def id_problem(text: str) -> str | None:
    """Say what is wrong with an id of a tenant or an account, or None."""
    if not _ID.match(text):
        return "must be 1 to 64 of letters, digits, '.', '_', '-', '@'"
    if text.strip(".") == "":
        return "must not consist of dots only"
    if text.lower() in COMMAND_WORDS:
        return f"'{text}' is a word of the command line; choose another id"
    return None


class ClientAuthMethod(str, Enum):
    """How the service logs in at a tenant's own endpoints."""

    NONE = "none"
    BEARER = "bearer"
    BASIC = "basic"


class TenantSecret(str, Enum):
    """What is sealed of a tenant, by the name that operators give it."""

    CLIENT_AUTH = "client_auth"
    SIGNING = "signing_secret"
    LARGE_FILES = "large_file_config"

    @property
    def lost(self) -> str:
        """What is said of one that no key opens: of no use before it is given anew."""
        return f"{self.value} of the tenant cannot be opened with any key; give it anew"


@dataclass(frozen=True, slots=True)
class ClientAuth:
    """Credentials for a tenant's own endpoints."""

    method: ClientAuthMethod = ClientAuthMethod.NONE
    token: Secret | None = None
    user: str | None = None
    password: Secret | None = None

    @classmethod
    def of(cls, token: Secret | None, user: str | None, password: Secret | None) -> ClientAuth:
        """Return the method that was given credentials: a token wins over a user; without both, none."""
        if token is not None:
            return cls(ClientAuthMethod.BEARER, token=token)
        if user is not None:
            return cls(ClientAuthMethod.BASIC, user=user, password=password or Secret(""))
        return cls()


@dataclass(frozen=True, slots=True)
class Suspension:
    """What of a tenant is held: everything, or some batches. They add up."""

    whole_tenant: bool = False
    batches: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant's settings."""

    id: str
    name: str = ""
    client_base_url: str | None = None
    client_sync_path: str = DEFAULT_SYNC_PATH
    client_attachment_path: str = DEFAULT_ATTACHMENT_PATH
    client_auth: ClientAuth = field(default_factory=ClientAuth)
    active: bool = True
    on_uncertain: OnUncertain = OnUncertain.RESEND
    limits: Limits = field(default_factory=Limits)
    """Over all its accounts together; none by the minute."""
    api_key_expires_at: float | None = None
    has_api_key: bool = False
    suspension: Suspension = field(default_factory=Suspension)
    signing: Signing = field(default_factory=Signing)
    large_files: LargeFileConfig | None = None
    unreadable: frozenset[TenantSecret] = frozenset()
    """Stored, but no key opens them; left out here. What needs one of them waits until it is given anew."""  # G16
    created_ts: float = 0.0

    @property
    def sync_url(self) -> str | None:
        """Where reports go, or None where the tenant has no endpoint of its own."""
        if not self.client_base_url:
            return None
        return self.client_base_url.rstrip("/") + "/" + self.client_sync_path.lstrip("/")

    @property
    def attachment_url(self) -> str | None:
        """Where its attachments are fetched, or None where the tenant has no endpoint of its own."""
        if not self.client_base_url:
            return None
        return self.client_base_url.rstrip("/") + "/" + self.client_attachment_path.lstrip("/")


_SET = (
    "name",
    "client_base_url",
    "client_sync_path",
    "client_attachment_path",
    "client_auth",
    "active",
    "on_uncertain",
    "limits",
    "api_key_expires_at",
    "large_files",
)
"""What operators set of a tenant as a whole. Its key, signing secrets and suspensions are changed by themselves."""
_IN_SECRETS = {"client_auth": TenantSecret.CLIENT_AUTH, "large_files": TenantSecret.LARGE_FILES}


def with_changes(stored: Tenant, before: Tenant, after: Tenant) -> Tenant:
    """Return a tenant as it is now with what was changed from `before` to `after`; all else stays as it is."""
    given = before.unreadable - after.unreadable
    changed = {
        name: getattr(after, name)
        for name in _SET
        if getattr(after, name) != getattr(before, name) or _IN_SECRETS.get(name) in given
    }
    lost = stored.unreadable - {_IN_SECRETS[name] for name in changed if name in _IN_SECRETS}
    return replace(stored, **changed, unreadable=lost)
