"""What a tenant wants done with large files: read, checked, shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mail_proxy.administration.requests import LargeFileConfigIn, LargeFileCredentialsIn
from mail_proxy.domain.errors import Invalid, Problem
from mail_proxy.domain.large_file import (
    DAY,
    LargeFileAction,
    LargeFileConfig,
    StorageKind,
    StoragePlace,
    storage_place,
)
from mail_proxy.domain.secret import Secret

FIELD = "large_file_config"


@dataclass(frozen=True, slots=True)
class LargeFileRules:
    """What this instance can do. `problem` says why a storage cannot be used here, or None."""

    problem: Callable[[StoragePlace], Problem | None]
    has_public_url: bool


def read_config(
    wanted: LargeFileConfigIn | None, before: LargeFileConfig | None, *, lost: bool = False
) -> LargeFileConfig | None:
    """Return what is asked for; credentials that are not mentioned stay, for the same storage.

    Of what no key opens (`lost`) nothing can stay: they have to be mentioned. Raises `Invalid`.
    """
    if wanted is None:
        return None
    storage = None
    if wanted.storage_url is not None:
        place = storage_place(wanted.storage_url, _given(wanted.credentials))
        if isinstance(place, Problem):
            raise _within(place)
        if lost and place.kind is not StorageKind.FILE and "credentials" not in wanted.model_fields_set:
            raise _wrong(
                "credentials", "must be given again, or null, because the stored ones cannot be opened with any key"
            )
        kept = before.storage if before is not None else None
        same = kept is not None and kept.url == place.url and "credentials" not in wanted.model_fields_set
        storage = kept if same else place
    action = LargeFileAction(wanted.action)
    if action is LargeFileAction.REWRITE and storage is None:
        raise _wrong("storage_url", "is required for rewrite: it says where large files are kept")
    if wanted.credentials is not None and storage is None:
        raise _wrong("credentials", "has no place without storage_url")
    lifespan = wanted.lifespan_after_download_days
    return LargeFileConfig(
        enabled=wanted.enabled,
        max_size=int(wanted.max_size_mb * 1_000_000),
        action=action,
        storage=storage,
        public_base_url=wanted.public_base_url,
        ttl=wanted.file_ttl_days * DAY,
        lifespan_after_download=None if lifespan is None else lifespan * DAY,
    )


def check_config(config: LargeFileConfig | None, rules: LargeFileRules) -> None:
    """Raise `Invalid` for what this instance cannot do."""
    if config is None or config.storage is None:
        return
    problem = rules.problem(config.storage)
    if problem is not None:
        raise _within(problem)
    if config.storage.kind is StorageKind.FILE and config.public_base_url is None and not rules.has_public_url:
        raise _wrong("public_base_url", "is required for file://, or GMP_PUBLIC_URL: links have to lead here")


def config_view(config: LargeFileConfig | None) -> dict[str, object] | None:
    """Return it for JSON, secrets left out."""
    if config is None:
        return None
    storage = config.storage
    lifespan = config.lifespan_after_download
    return {
        "enabled": config.enabled,
        "max_size_mb": config.max_size / 1_000_000,
        "action": config.action.value,
        "storage_url": None if storage is None else storage.url,
        "has_credentials": storage is not None and bool(storage.credentials),
        "public_base_url": config.public_base_url,
        "file_ttl_days": config.ttl / DAY,
        "lifespan_after_download_days": None if lifespan is None else lifespan / DAY,
    }


def _given(credentials: LargeFileCredentialsIn | None) -> Mapping[str, Secret]:
    if credentials is None:
        return {}
    named = ((name, getattr(credentials, name)) for name in LargeFileCredentialsIn.model_fields)
    return {
        name: Secret(value if isinstance(value, str) else value.get_secret_value())
        for name, value in named
        if value is not None
    }


def _wrong(field: str, problem: str) -> Invalid:
    return Invalid(Problem(f"{FIELD}.{field}", problem))


def _within(problem: Problem) -> Invalid:
    return _wrong(problem.field, problem.problem)
