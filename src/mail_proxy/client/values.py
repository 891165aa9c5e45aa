"""What goes in and what comes out, field by field as the API has it. Fields of later versions come along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

State = Literal["waiting", "sending", "sent", "failed", "expired", "cancelled"]
PriorityName = Literal["immediate", "high", "medium", "low"]
Fields = Mapping[str, Any]
"""Fields of a message, an account or a tenant, by the names of the API."""


class Rejected(TypedDict):
    """A message that was not taken: `index` in the batch, the field that is wrong, and why."""

    index: int
    id: str | None
    field: str | None
    reason: str
    code: str


class Receipt(TypedDict):
    """What became of each message of a batch. Those that are in no list are queued."""

    ok: bool
    queued: int
    duplicates: list[str]
    replaced: list[str]
    rejected: list[Rejected]


class Recipient(TypedDict):
    """One recipient and what the server said about it."""

    address: str
    kind: Literal["to", "cc", "bcc"]
    state: str
    code: int | None
    enhanced_code: str | None
    text: str | None
    ts: float | None


class Message(TypedDict):
    """One message. Times are Unix seconds."""

    pk: str
    id: str
    tenant_id: str
    account_id: str
    priority: int
    batch_code: str | None
    state: State
    status: str
    attempts: int
    created_ts: float
    deferred_ts: float | None
    deferred_reason: str | None
    sent_ts: float | None
    error_ts: float | None
    error: str | None
    error_code: str | None
    reported_ts: float | None
    metadata: dict[str, Any] | None
    message: dict[str, Any]
    body_removed_ts: float | None
    recipients: list[Recipient]


class PastEvent(TypedDict):
    """One line of a message's history."""

    event_id: str | None
    type: str
    ts: float
    reported_ts: float | None
    report: dict[str, Any] | None


class Obstacle(TypedDict):
    """One thing that holds a message."""

    reason: str
    since: float | None
    until: float | None
    text: str


class Explanation(TypedDict):
    """Why a message has not been sent yet."""

    id: str
    tenant_id: str
    account_id: str
    state: State
    sentence: str
    holds: list[Obstacle]
    ahead: int | None
    ahead_is_at_least: bool
    attempts: int
    last_reply: str | None
    expires_ts: float | None


class Deleted(TypedDict):
    """What became of messages that were to be deleted."""

    removed: int
    not_found: list[str]
    in_progress: list[str]


class Retried(TypedDict):
    """How many messages are sent once more, and why others are not."""

    queued: int
    skipped: int
    reasons: dict[str, int]
    next_cursor: str | None


class Cleaned(TypedDict):
    """How many messages were removed."""

    removed: int
    next_cursor: str | None


class Entry(TypedDict, total=False):
    """An event as reports and the feed have it. `event` says what it is; the rest depends on it."""

    event_id: str
    tenant_id: str
    id: str
    event: str
    recipients: Sequence[dict[str, Any]]


class Page(TypedDict):
    """A page of the feed."""

    events: list[Entry]
    next_cursor: str
    more: bool


class Tenant(TypedDict):
    """A tenant, secrets left out."""

    id: str
    name: str
    client_base_url: str | None
    client_sync_path: str
    client_attachment_path: str
    active: bool
    on_uncertain: str
    rate_limits: dict[str, int | None]
    large_file_config: dict[str, Any] | None
    has_api_key: bool
    api_key_expires_at: float | None
    suspended: bool
    suspended_batches: list[str]
    created_ts: float


class Account(TypedDict):
    """An SMTP account, secrets left out."""

    id: str
    tenant_id: str
    host: str
    port: int
    user: str | None
    has_password: bool
    tls: str
    max_connections: int
    is_default: bool
    limit_per_minute: int | None
    limit_per_hour: int | None
    limit_per_day: int | None
    limit_behavior: str
    hold: dict[str, Any] | None
    server: dict[str, Any] | None


class Tested(TypedDict):
    """How far a login without a message came."""

    ok: bool
    steps: list[str] | None
    step: str | None
    error: str | None
    code: str | None


class SyncStatus(TypedDict):
    """How reporting to a tenant goes. Times are Unix seconds."""

    tenant_id: str
    last_sync_ts: float | None
    next_sync_due: float | None
    in_dnd: bool
    pending_events: int
    pending_events_is_at_least: bool
    consecutive_failures: int
    last_error: str | None


class Setting(TypedDict):
    """A setting; the value of a secret is None."""

    name: str
    value: Any
    secret: bool
    is_set: bool
    source: str


class Instance(TypedDict):
    """An instance and its settings."""

    version: str
    instance_name: str
    scheduler_active: bool
    database: str
    workers: int
    started_ts: float
    encryption: dict[str, Any]
    settings: list[Setting]


class Command(TypedDict):
    """A call that may have changed something."""

    id: str
    ts: float
    caller: Literal["admin", "tenant"]
    tenant_id: str | None
    method: str
    route: str
    path: dict[str, Any]
    query: dict[str, Any]
    payload: Any
    result: dict[str, Any]
    status: int | None
    code: str | None
    address: str | None


class Status(TypedDict, total=False):
    """How the instance is doing; what comes after `workers` is for the admin token."""

    version: str
    instance: str
    scheduler_active: bool
    pending_messages: int | None
    uptime_seconds: float
    database: str
    workers: int
    loops: dict[str, str]
    accounts_on_hold: list[dict[str, Any]]
    servers_left_alone: list[dict[str, Any]]
    oldest_waiting_ts: float | None
