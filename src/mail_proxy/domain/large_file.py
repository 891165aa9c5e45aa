"""Large files: what a tenant wants done with them, and where they are kept. Pure.

attachment over `max_size` ──▶ warn: sent as it is
──▶ reject: its message fails
──▶ rewrite: stored; the message carries a link instead
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import unquote, urlsplit

from mail_proxy.domain.errors import Problem
from mail_proxy.domain.secret import Secret

DAY = 86400.0
DEFAULT_MAX_SIZE_MB = 10.0
LEAST_MAX_SIZE_MB = 0.1
"""Below that nothing is worth a link, and intake need not look at what is inline."""
DEFAULT_TTL_DAYS = 30
MOST_DAYS = 3650
LONGEST_PRESIGNED = 7 * DAY
"""What the clouds allow for a URL that they signed (S3's Signature Version 4, and Google's V4)."""
MAX_URL = 2000
MAX_CREDENTIAL = 16_384

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}\Z")
_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()/ -]*\Z")


class LargeFileAction(str, Enum):
    """What is done with an attachment that is larger than the tenant wants to send."""

    WARN = "warn"
    """The log says so, and it is sent."""
    REJECT = "reject"
    """Its message fails."""
    REWRITE = "rewrite"
    """It is stored, and a link to it is sent instead."""


class StorageKind(str, Enum):
    """What a storage URL begins with."""

    FILE = "file"
    """A folder of this machine, below one of `GMP_STORAGE_ROOTS`."""
    S3 = "s3"
    """Amazon S3, and what speaks its protocol."""
    GS = "gs"
    """Google Cloud Storage."""
    AZ = "az"
    """Azure Blob Storage."""


CREDENTIALS: Mapping[StorageKind, Sequence[str]] = {
    StorageKind.FILE: (),
    StorageKind.S3: ("access_key_id", "secret_access_key", "session_token", "region", "endpoint_url"),
    StorageKind.GS: ("service_account", "endpoint_url"),
    StorageKind.AZ: ("account_name", "account_key", "connection_string", "endpoint_url"),
}
"""The names of credentials of each kind; left out, the environment's usual ones count."""


@dataclass(frozen=True, slots=True)
class StoragePlace:
    """A place that takes files. Two are the same place if they have the same URL: credentials may change."""

    kind: StorageKind
    url: str
    """`s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, `file:///folder`; no `/` at its end."""
    credentials: Mapping[str, Secret] = field(default_factory=dict)
    unreadable: bool = False
    """Its credentials are stored, but no key opens them; left out here."""

    @property
    def bucket(self) -> str:
        """The bucket or container; for a folder nothing."""
        return urlsplit(self.url).netloc

    @property
    def path(self) -> str:
        """What stands before a file's key in the bucket, without `/` around it; for a folder its absolute path."""
        path = unquote(urlsplit(self.url).path)
        return path if self.kind is StorageKind.FILE else path.strip("/")


@dataclass(frozen=True, slots=True)
class LargeFileConfig:
    """What a tenant wants done with large files. Sizes in bytes, times in seconds."""

    enabled: bool = True
    max_size: int = int(DEFAULT_MAX_SIZE_MB * 1_000_000)
    action: LargeFileAction = LargeFileAction.WARN
    storage: StoragePlace | None = None
    public_base_url: str | None = None
    """Before `/files/…` in links; None: `GMP_PUBLIC_URL`, and without that a URL of the storage itself."""
    ttl: float = DEFAULT_TTL_DAYS * DAY
    lifespan_after_download: float | None = None


def storage_place(url: str, credentials: Mapping[str, Secret]) -> StoragePlace | Problem:
    """Read a storage URL and its credentials; a `Problem` names the field that is wrong."""
    problem = Problem("storage_url", "must be s3://bucket/prefix, gs://…, az://container/…, or file:///folder")
    try:
        parts = urlsplit(url)
        kind = StorageKind(parts.scheme)
    except ValueError:
        return problem
    if len(url) > MAX_URL or not url.isprintable() or parts.query or parts.fragment or "?" in url or "#" in url:
        return problem
    path = unquote(parts.path)
    if ".." in path.split("/") or "//" in path or not path.isprintable():
        return Problem("storage_url", "must not contain .. or //")
    if kind is StorageKind.FILE:
        if parts.netloc or not path.startswith("/"):
            return Problem("storage_url", "must be file:///folder, with an absolute path")
    elif not _BUCKET.match(parts.netloc) or not _PREFIX.match(path):
        return problem
    allowed = CREDENTIALS[kind]
    for name, value in credentials.items():
        if name not in allowed:
            known = f"takes {', '.join(allowed)}" if allowed else "has no place here"
            return Problem(f"credentials.{name}", f"is not known: {kind.value}:// {known}")
        if not 0 < len(value.reveal()) <= MAX_CREDENTIAL:
            return Problem(f"credentials.{name}", f"must have 1 to {MAX_CREDENTIAL} characters")
    return StoragePlace(kind, url.rstrip("/"), credentials)


# -- files that are kept, and links to them ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A content in a storage, which all messages of its tenant share. Not `ready`: it has to be stored first."""

    pk: int
    key: str
    """Its name in the storage."""
    ready: bool


@dataclass(frozen=True, slots=True)
class LinkWanted:
    """A link that one message is to carry in place of one of its attachments, the same in every attempt."""  # G4

    file_pk: int
    message_pk: int
    message_ts: float
    """When the message was taken: a later one may get its number."""
    n: int
    """Which of the attachments."""
    filename: str
    mime_type: str
    until: float
    """Unix seconds."""
    renew_below: float
    """A link of an earlier attempt that ends before that is prolonged."""
    lifespan: float | None
    """Seconds that it lives after the first download; None: as long as without one."""


@dataclass(frozen=True, slots=True)
class FileLink:
    """A link as it stands: its number, the key that its token is made with, and until when it holds."""

    pk: int
    signing_key: Secret
    until: float


@dataclass(frozen=True, slots=True)
class LinkedFile:
    """What a link leads to."""

    link: FileLink
    tenant_id: str
    place: StoragePlace
    key: str
    filename: str
    mime_type: str
    size: int
    downloaded: bool
    """True when somebody has begun to fetch it by this link."""


@dataclass(frozen=True, slots=True)
class DoomedFile:
    """A file that no link leads to any more, to be removed."""

    pk: int
    tenant_id: str
    place: StoragePlace
    key: str


def as_it_is_now(place: StoragePlace, config: LargeFileConfig | None) -> StoragePlace:
    """Return the place with the credentials that the tenant has for it today, if it still uses it."""
    if config is None or config.storage is None or config.storage.url != place.url:
        return place
    return config.storage
