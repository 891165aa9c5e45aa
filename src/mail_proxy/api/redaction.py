"""What of a call may stand in the command log. Only what is named here does: whatever is new is masked.

Secrets are not named, nor is anything of a message but its ids, so neither needs to be recognised.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel

from mail_proxy.intake.receipt import Receipt, shown_id
from mail_proxy.intake.submission import MAX_ID

MASK = "********"
MAX_DETAILS = 4096
"""Characters of an entry's details."""
SHORT = MAX_DETAILS // 5
MAX_TEXT = 255
FIRST = 3
"""Of a list so many values are shown, and their number."""

SHOWN = frozenset(
    {
        # whose, which and how many
        *("id", "ids", "tenant_id", "account_id", "message_id", "batch_code", "older_than_seconds"),
        *("status", "state", "priority", "created_from", "created_to", "active_only", "force", "until"),
        # the instance
        *("instance_name", "scheduler_active"),
        # tenants
        *("name", "active", "on_uncertain", "rate_limits", "hourly", "daily", "api_key_expires_at"),
        *("client_base_url", "client_auth", "method"),
        *("large_file_config", "enabled", "max_size_mb", "action", "storage_url", "public_base_url"),
        *("file_ttl_days", "lifespan_after_download_days"),
        # accounts
        *("host", "port", "auth", "tls", "use_tls", "verify_tls", "ttl", "max_connections", "batch_size"),
        *("limit_per_minute", "limit_per_hour", "limit_per_day", "limit_behavior", "fallback_account_id", "is_default"),
        *("oauth", "token_url", "client_id", "scope"),
    }
)
"""Fields of bodies and parameters of queries whose values are shown. Other fields are only named."""
RESULTS = frozenset(
    {
        *("created", "queued", "duplicates", "replaced", "rejected", "skipped"),
        *("removed", "not_found", "unauthorized", "in_progress", "pending_messages", "scheduler_active", "suspended"),
    }
)
"""Numbers and truth values of answers that are shown; of a list its length."""

_encode = json.JSONEncoder(separators=(",", ":")).encode


def shown_body(body: BaseModel) -> dict[str, object]:
    """Return what was given in a body that has been checked. Names come from the model, so that they are none's own."""
    given = ((name, getattr(body, name)) for name in type(body).model_fields if name in body.model_fields_set)
    return {name: _shown(name, value) for name, value in given}


def shown_query(query: Iterable[tuple[str, str]]) -> dict[str, object]:
    """Return the parameters that are known."""
    return {name: value[:MAX_TEXT] for name, value in query if name in SHOWN}


def shown_path(ids: Mapping[str, object]) -> dict[str, object]:
    """Return the ids in a path, which may be any text."""
    return {name: str(value)[:MAX_TEXT] for name, value in ids.items() if name in SHOWN}


def shown_answer(answer: Mapping[str, object]) -> dict[str, object]:
    """Return the numbers that an answer tells."""
    told: dict[str, object] = {}
    for name in sorted(RESULTS & answer.keys()):
        value = answer[name]
        if isinstance(value, (bool, int)):
            told[name] = value
        elif isinstance(value, list):
            told[name] = len(value)
    return told


def shown_batch(items: list[Any]) -> dict[str, object]:
    """Return of a submission how many messages it has, and the ids of the first few."""
    return {"messages": len(items), "ids": [shown_id(item, MAX_ID) for item in items[:FIRST]]}


def shown_receipt(receipt: Receipt) -> dict[str, object]:
    """Return what became of a submission, in numbers."""
    return {
        "queued": receipt.queued,
        "duplicates": len(receipt.duplicates),
        "replaced": len(receipt.replaced),
        "rejected": len(receipt.rejected),
    }


def details(**parts: Mapping[str, object] | None) -> str:
    """Return what there is of an entry as JSON in ASCII; of parts that make it too long only how long they are."""
    given = {name: part for name, part in parts.items() if part}
    text = _encode(given)
    if len(text) <= MAX_DETAILS:
        return text
    lengths = {name: len(_encode(part)) for name, part in given.items()}
    return _encode(
        {name: part if lengths[name] <= SHORT else {"characters": lengths[name]} for name, part in given.items()}
    )


def _shown(name: str, value: object) -> object:
    if value is None:
        return None
    if name not in SHOWN:
        return MASK
    match value:
        case BaseModel():
            return shown_body(value)
        case bool() | int() | float():
            return value
        case str():
            return _origin(value) if name.endswith("_url") else value[:MAX_TEXT]
        case list():
            return {"count": len(value), "first": [_shown(name, each) for each in value[:FIRST]]}
        case _:
            return MASK


def _origin(url: str) -> str:
    """Return the scheme and host of a URL: some have a secret in their path."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"[:MAX_TEXT]
