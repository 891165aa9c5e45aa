"""Messages: submitted, shown, deleted, sent once more, removed, and why one is not sent yet."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mail_proxy.api.schemas.answer import Answer, Time
from mail_proxy.domain.explanation import Reason

StateWord = Literal["waiting", "sending", "sent", "failed", "expired", "cancelled"]
StatusWord = Literal["pending", "deferred", "sent", "error", "cancelled"]
SkippedWord = Literal["not_found", "not_failed", "cancelled", "expired", "no_account", "body_removed"]


class RejectedOut(BaseModel):
    """A message that was not taken."""

    model_config = ConfigDict(extra="forbid")

    index: int = Field(description="Its place in the request, from 0.", examples=[3])
    id: str | None = Field(description="Its id, as far as it has one.", examples=["M9"])
    field: str | None = Field(description="The field at fault.", examples=["account_id"])
    reason: str = Field(description="What is wrong, in one plain sentence.", examples=["there is no account 'x'"])
    code: str = Field(
        description="A stable word: `invalid`, `id_invalid`, `tenant_required`, `unknown_tenant`, `tenant_inactive`, "
        "`unknown_account`, `no_default_account`, `already_taken`, `already_sent`, `already_failed`, "
        "`already_expired`, `already_cancelled`.",
        examples=["unknown_account"],
    )


class ReceiptOut(BaseModel):
    """What became of each submitted message, exactly once."""

    model_config = ConfigDict(extra="forbid")

    ok: bool = Field(description="False only if nothing was taken and something was rejected.", examples=[True])
    queued: int = Field(description="How many messages are new in the queue.", examples=[2])
    duplicates: list[str] = Field(
        description="Ids that are known with the same content: nothing changes.", examples=[["M1"]]
    )
    replaced: list[str] = Field(
        description="Ids whose waiting, never attempted message was replaced by the new content.", examples=[[]]
    )
    rejected: list[RejectedOut] = Field(description="Messages that were not taken. They spoil no other.")


class DeletedOut(Answer):
    """What became of the messages that were to be deleted; each id counts once."""

    removed: int = Field(
        description="How many were cancelled, as they were waiting, or are gone, as they were finished.", examples=[2]
    )
    not_found: list[str] = Field(
        description="Ids that are unknown, or another tenant's: the two are never told apart.", examples=[["M7"]]
    )
    unauthorized: list[str] = Field(description="Always empty; for older clients.", examples=[[]])
    in_progress: list[str] = Field(
        description="Ids of messages that are being sent at this moment: nothing was changed.", examples=[[]]
    )


class RetriedOut(Answer):
    """What became of the messages that were to be sent once more."""

    queued: int = Field(description="How many are in the queue again.", examples=[120])
    skipped: int = Field(description="How many of those that were looked at are not.", examples=[3])
    reasons: dict[SkippedWord, int] = Field(
        description="Why, and how many each: `not_found`; `not_failed`, not finished, or everybody has it; "
        "`cancelled`; `expired`, its `expires_ts` has passed; `no_account`, its account is gone; "
        "`body_removed`, nothing is left to send.",
        examples=[{"expired": 3}],
    )
    next_cursor: str | None = Field(
        description="There may be more: repeat the request with this as `cursor`. Null: that was all.", examples=[None]
    )


class CleanedOut(Answer):
    """What was removed."""

    removed: int = Field(description="How many messages are gone.", examples=[5000])
    next_cursor: str | None = Field(
        description="There may be more: repeat the request with this as `cursor`. Null: that was all.", examples=[None]
    )


class RecipientOut(BaseModel):
    """One recipient, with an outcome of its own."""

    model_config = ConfigDict(extra="forbid")

    address: str = Field(description="The address.", examples=["bob@example.net"])
    kind: Literal["to", "cc", "bcc"] = Field(description="The header that names it.", examples=["to"])
    state: Literal["waiting", "sent", "failed", "expired", "cancelled"] = Field(
        description="Where it stands.", examples=["failed"]
    )
    code: int | None = Field(description="The SMTP code of the server's last word.", examples=[550])
    enhanced_code: str | None = Field(description="The enhanced status code (RFC 3463).", examples=["5.1.1"])
    text: str | None = Field(description="The server's words, made printable.", examples=["no such user"])
    ts: float | None = Field(description="When that was, in Unix seconds.", examples=[1785492000.25])


class MessageOut(BaseModel):
    """One message and where it stands. Times are Unix seconds."""

    model_config = ConfigDict(extra="forbid")

    pk: str = Field(description="The service's own number for it; grows with time.", examples=["1042"])
    id: str = Field(description="Your id.", examples=["order-1042-confirmation"])
    tenant_id: str = Field(description="Its tenant.", examples=["acme"])
    account_id: str = Field(description="The account that sends it.", examples=["main"])
    priority: int = Field(description="0 (immediate) to 3 (low).", examples=[2])
    batch_code: str | None = Field(description="The campaign it belongs to.", examples=["newsletter-2026-07"])
    state: StateWord = Field(description="Where it stands.", examples=["sent"])
    status: StatusWord = Field(
        description="The same in older words: `pending` (waiting, sending), `deferred` (waiting for a later time), "
        "`sent`, `error` (failed, expired), `cancelled`.",
        examples=["sent"],
    )
    attempts: int = Field(description="Attempts so far.", examples=[1])
    created_ts: Time = Field(description="When it was accepted.")
    deferred_ts: float | None = Field(description="While it waits: not tried before this time.", examples=[None])
    deferred_reason: str | None = Field(description="While it waits: why.", examples=[None])
    sent_ts: float | None = Field(description="When it was sent.", examples=[1785492000.25])
    error_ts: float | None = Field(description="When it failed, expired or was cancelled.", examples=[None])
    error: str | None = Field(description="Why it failed: the last word on it.", examples=[None])
    error_code: str | None = Field(
        description="The SMTP code in that, or `rate_limited`; as it is reported.", examples=[None]
    )
    reported_ts: float | None = Field(description="When its end was reported.", examples=[1785492001.5])
    metadata: dict[str, Any] | None = Field(description="Your own data.", examples=[{"customer": 4711}])
    message: dict[str, Any] = Field(
        description="What was submitted.",
        examples=[{"id": "order-1042-confirmation", "from": "shop@acme.example", "to": ["anna@example.org"]}],
    )
    body_removed_ts: float | None = Field(
        description="When bodies, headers and attachments were removed from `message`; it cannot be sent again.",
        examples=[None],
    )
    recipients: list[RecipientOut] = Field(description="The recipients one by one.")


class MessageAnswer(Answer, MessageOut):
    """One message."""


class MessagesAnswer(Answer):
    """A page of messages, newest first."""

    messages: list[MessageOut] = Field(description="The messages.")
    next_cursor: str | None = Field(
        description="Give it as `cursor` for the next page; there may be one although this one is not full, or empty. "
        "Null: the end.",
        examples=["QdqbHlgP_3sAAAAAAAAD1Q"],
    )


class ObstacleOut(BaseModel):
    """One thing that holds a message."""

    model_config = ConfigDict(extra="forbid")

    reason: Reason = Field(description="A stable word for it.", examples=["account_on_hold"])
    since: float | None = Field(description="Since when, where that is known.", examples=[1785492000.25])
    until: float | None = Field(description="The earliest time at which it may end, if known.", examples=[1785492300.0])
    text: str = Field(description="The same in words.", examples=["its tenant is suspended"])


class ExplanationAnswer(Answer):
    """Why a message has not been sent yet, or how it ended. Times are Unix seconds."""

    id: str = Field(description="Your id.", examples=["order-1042-confirmation"])
    tenant_id: str = Field(description="Its tenant.", examples=["acme"])
    account_id: str = Field(description="The account that sends it.", examples=["main"])
    state: StateWord = Field(description="Where it stands.", examples=["waiting"])
    sentence: str = Field(
        description="All that holds it, in one sentence.",
        examples=[
            "Its batch 'spring' is suspended; besides, it is ready, and 12 messages of its account go before it."
        ],
    )
    holds: list[ObstacleOut] = Field(description="The same one by one, the decisive one first.")
    ahead: int | None = Field(
        description="Ready messages of its account that go before it; null unless it is ready itself.", examples=[12]
    )
    ahead_is_at_least: bool = Field(description="Whether there are more, which were not counted.", examples=[False])
    attempts: int = Field(description="Attempts so far.", examples=[1])
    last_reply: str | None = Field(description="The last word on it.", examples=["450 4.2.0 greylisted"])
    expires_ts: float | None = Field(description="After this it is not sent any more.", examples=[None])
