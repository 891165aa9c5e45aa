"""How answers look, for the documentation; the tests hold every answer against these."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mail_proxy.domain.explanation import Reason
from mail_proxy.domain.sync_lease import MANY_EVENTS

Time = Annotated[float, Field(examples=[1785492000.25])]
StateWord = Literal["waiting", "sending", "sent", "failed", "expired", "cancelled"]
StatusWord = Literal["pending", "deferred", "sent", "error", "cancelled"]
StepWord = Literal["token", "connect", "greeting", "tls", "hello", "login"]
SkippedWord = Literal["not_found", "not_failed", "cancelled", "expired", "no_account", "body_removed"]
EventWord = Literal["queued", "sent", "deferred", "failed", "expired", "cancelled", "uncertain"]


class Answer(BaseModel):
    """Every answer is an object that says whether it went well."""

    model_config = ConfigDict(extra="forbid")

    ok: Literal[True] = Field(description="True.", examples=[True])


class ProblemOut(BaseModel):
    """One field that is wrong."""

    model_config = ConfigDict(extra="forbid")

    field: str = Field(description="Which one.", examples=["port"])
    problem: str = Field(description="What is wrong with it.", examples=["must be at most 65535"])


class Failure(BaseModel):
    """What went wrong."""

    model_config = ConfigDict(extra="forbid")

    ok: Literal[False] = Field(description="False.", examples=[False])
    error: str = Field(description="One plain sentence for people.", examples=["There is no such tenant."])
    code: str = Field(description="A stable word for programs.", examples=["not_found"])
    detail: list[ProblemOut] | None = Field(None, description="With 422: every field that is wrong.")
    oldest_cursor: str | None = Field(
        None, description="With 410: the cursor from which on the feed can be read.", examples=["4711"]
    )


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


class Held(Answer):
    """What is held after a suspension or activation."""

    tenant_id: str | None = Field(
        None, description="The tenant; left out when it was about the whole scheduler.", examples=["acme"]
    )
    suspended: bool | None = Field(None, description="Whether the tenant is held as a whole.", examples=[False])
    suspended_batches: list[str] = Field(
        description="The batches of the tenant that are held.", examples=[["newsletter-2026-07"]]
    )
    pending_messages: int | None = Field(
        description="Unfinished messages of the tenant, or of the batch where one was named: exact below 10 000, from "
        "there on as last counted. Of the whole instance, as last counted, when it was about the scheduler.",
        examples=[120],
    )
    scheduler_active: bool | None = Field(
        None, description="Only when it was about the whole scheduler.", examples=[False]
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


class EventOut(BaseModel):
    """One line of a message's history."""

    model_config = ConfigDict(extra="forbid")

    event_id: str | None = Field(description="Grows with time. Null for `queued`, which is derived.", examples=["77"])
    type: EventWord = Field(description="What happened.", examples=["sent"])
    ts: Time = Field(description="When, in Unix seconds.")
    reported_ts: float | None = Field(description="When it was reported.", examples=[1785492001.5])
    report: dict[str, Any] | None = Field(
        description="The entry that the tenant's endpoint gets, without its `event_id`.",
        examples=[{"id": "order-1042-confirmation", "event": "sent", "sent_ts": 1785492000.25}],
    )


class EventsAnswer(Answer):
    """A message's history, oldest first."""

    events: list[EventOut] = Field(description="What happened to it.")


class FeedAnswer(Answer):
    """A page of the feed, oldest first."""

    events: list[dict[str, Any]] = Field(
        description="The entries, as a report has them.",
        examples=[[{"event_id": "77", "id": "order-1042-confirmation", "event": "sent", "sent_ts": 1785492000.25}]],
    )
    next_cursor: str = Field(
        description="Give it as `after` to go on; never null, the feed has no end.", examples=["77"]
    )
    more: bool = Field(
        description="Whether more was there at once; with false, `wait` for what comes.", examples=[False]
    )
    too_many_wait: bool | None = Field(
        None,
        description="True: answered without the `wait`, as 16 calls of the tenant wait already. Else left out.",
        examples=[None],
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


class ClientAuthOut(BaseModel):
    """How the service logs in at the tenant's endpoints, secrets left out."""

    model_config = ConfigDict(extra="forbid")

    method: Literal["none", "bearer", "basic"] = Field(description="How to log in.", examples=["bearer"])
    has_token: bool = Field(description="Whether there is a token.", examples=[True])
    user: str | None = Field(description="The user for `basic`.", examples=[None])
    has_password: bool = Field(description="Whether there is a password.", examples=[False])


class RateLimitsOut(BaseModel):
    """How much a tenant may send over all its accounts."""

    model_config = ConfigDict(extra="forbid")

    hourly: int | None = Field(description="SMTP transactions in any hour; null: no limit.", examples=[1000])
    daily: int | None = Field(description="SMTP transactions in any day; null: no limit.", examples=[10000])


class LargeFileConfigOut(BaseModel):
    """What is done with large attachments, secrets left out."""

    model_config = ConfigDict(extra="forbid")

    enabled: bool = Field(description="Whether anything is.", examples=[True])
    max_size_mb: float = Field(description="Megabytes beyond which an attachment is large.", examples=[10])
    action: Literal["warn", "reject", "rewrite"] = Field(description="What is done.", examples=["rewrite"])
    storage_url: str | None = Field(description="Where large files are kept.", examples=["s3://acme-files/mail"])
    has_credentials: bool = Field(description="Whether it has credentials of its own.", examples=[True])
    public_base_url: str | None = Field(description="What links begin with.", examples=["https://mail.acme.example"])
    file_ttl_days: float = Field(description="Days that a link holds.", examples=[30])
    lifespan_after_download_days: float | None = Field(
        description="Days that it holds after it was first used; null: that changes nothing.", examples=[None]
    )


class TenantOut(BaseModel):
    """A tenant, secrets left out."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(description="Its id.", examples=["acme"])
    name: str = Field(description="A name for people.", examples=["ACME Corp"])
    client_base_url: str | None = Field(
        description="Where the tenant's own service is.", examples=["https://acme.example"]
    )
    client_sync_path: str = Field(description="Where reports go, below it.", examples=["/mail-proxy/sync"])
    client_attachment_path: str = Field(
        description="Where attachments are fetched, below it.", examples=["/mail-proxy/attachments"]
    )
    client_auth: ClientAuthOut = Field(description="How the service logs in there.")
    active: bool = Field(description="Whether its messages are taken and sent.", examples=[True])
    on_uncertain: Literal["resend", "fail"] = Field(
        description="What follows when it is not known whether a message was delivered.", examples=["resend"]
    )
    rate_limits: RateLimitsOut = Field(description="Limits over all its accounts together.")
    large_file_config: LargeFileConfigOut | None = Field(
        description="What is done with large attachments; null: they are sent like others."
    )
    has_api_key: bool = Field(description="Whether it has a token of its own.", examples=[True])
    api_key_expires_at: float | None = Field(description="When that ends.", examples=[None])
    signs_reports: bool = Field(description="Whether its reports are signed.", examples=[True])
    earlier_secrets_until: float | None = Field(
        description="Until when signing secrets before this one sign along, or did; null: there were none.",
        examples=[None],
    )
    suspended: bool = Field(description="Whether the tenant is held as a whole.", examples=[False])
    suspended_batches: list[str] = Field(description="The batches that are held.", examples=[[]])
    created_ts: Time = Field(description="When it was made.")


class TenantAnswer(Answer, TenantOut):
    """One tenant."""


class TenantsAnswer(Answer):
    """Tenants: all, or a page."""

    tenants: list[TenantOut] = Field(description="The tenants, by id.")
    next_cursor: str | None = Field(
        description="Give it as `cursor` for the next page. Null: the end, and where no page was asked for.",
        examples=["acme"],
    )


class SyncStatusOut(BaseModel):
    """How reporting to a tenant goes. Times are Unix seconds."""

    model_config = ConfigDict(extra="forbid")

    tenant_id: str = Field(description="The tenant.", examples=["acme"])
    last_sync_ts: float | None = Field(
        description="When a report was last acknowledged, an empty one included; null: not since this is known.",
        examples=[1785492000.25],
    )
    next_sync_due: float | None = Field(
        description="When the next one is due; null: none is, as there is no endpoint, or it said that it is gone.",
        examples=[1785492300.0],
    )
    in_dnd: bool = Field(description="Whether the tenant wants no empty reports for now.", examples=[False])
    pending_events: int = Field(
        description=f"Events that are not acknowledged, counted up to {MANY_EVENTS}.", examples=[3]
    )
    pending_events_is_at_least: bool = Field(
        description="Whether there may be more, which were not counted.", examples=[False]
    )
    consecutive_failures: int = Field(description="How many reports failed since one did not.", examples=[0])
    last_error: str | None = Field(description="Why the last one failed, if it did.", examples=["HTTP 503"])


class SyncStatusAnswer(Answer):
    """A page of tenants, by id."""

    tenants: list[SyncStatusOut] = Field(description="The tenants.")
    next_cursor: str | None = Field(
        description="Give it as `cursor` for the next page. Null: the end.", examples=["acme"]
    )


class Put(Answer):
    """Something was made or changed."""

    created: bool = Field(description="True: it was made. False: it was there, and was changed.", examples=[True])


class TenantPut(Put):
    """A tenant was made or changed."""

    api_key: str | None = Field(
        None,
        description="The token of a new tenant. Shown this once; left out when a tenant was changed.",
        examples=["t5Y0bG3mZ6pVxq2LwKcR8nJdHfSaUeQi1oT7yXzA4vM"],
    )


class ApiKeyAnswer(Answer):
    """A new key."""

    api_key: str = Field(
        description="The token. Shown this once.", examples=["t5Y0bG3mZ6pVxq2LwKcR8nJdHfSaUeQi1oT7yXzA4vM"]
    )


class SigningSecretAnswer(Answer):
    """A new signing secret."""

    signing_secret: str = Field(
        description="The secret, as libraries for Standard Webhooks take it. Shown this once.",
        examples=["whsec_dGhpcyBpcyBubyBzZWNyZXQsIGl0J3MgYW4gZXhhbXA="],
    )
    earlier_secrets_until: float | None = Field(
        description="Until when the secrets before it sign along; null: there were none.", examples=[1785578400.5]
    )


class HoldOut(BaseModel):
    """Why an account is not used for now."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(description="Why.", examples=["535 5.7.8 authentication failed"])
    since: Time = Field(description="Since when, in Unix seconds.")


class ServerOut(BaseModel):
    """Why the instance that answers leaves a server alone for now."""

    model_config = ConfigDict(extra="forbid")

    state: Literal["left_alone"] = Field(description="What is done about it.", examples=["left_alone"])
    reason: str = Field(description="Why.", examples=["connecting: Connection refused"])
    since: Time = Field(description="Since when, in Unix seconds.")
    next_probe_ts: Time = Field(description="When it is tried again, with no message at stake.")


class OAuthOut(BaseModel):
    """How access tokens are obtained, secrets left out."""

    model_config = ConfigDict(extra="forbid")

    token_url: str = Field(description="The token server's URL.", examples=["https://login.acme.example/token"])
    token_url_set_by: Literal["operator", "tenant"] = Field(
        description="Whose token has set it; as `host_set_by`.", examples=["operator"]
    )
    client_id: str = Field(description="The application's id there.", examples=["my-application"])
    scope: str | None = Field(description="What is asked for.", examples=[None])


class AccountOut(BaseModel):
    """An SMTP account, secrets left out."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(description="Its id.", examples=["main"])
    tenant_id: str = Field(description="Whose it is.", examples=["acme"])
    host: str = Field(description="The SMTP server.", examples=["smtp.acme.example"])
    port: int = Field(description="Its port.", examples=[587])
    user: str | None = Field(description="User for the login.", examples=["mailer@acme.example"])
    has_password: bool = Field(description="Whether there is a password.", examples=[True])
    has_oauth: bool = Field(description="Whether there are secrets for `xoauth2`.", examples=[False])
    oauth: OAuthOut | None = Field(description="How access tokens are obtained, secrets left out.", examples=[None])
    host_set_by: Literal["operator", "tenant"] = Field(
        description="Whose token has set host and port. Of a tenant's, no address inside the network is connected to.",
        examples=["operator"],
    )
    auth: Literal["auto", "plain", "login", "cram-md5", "xoauth2"] = Field(
        description="How to log in.", examples=["auto"]
    )
    tls: Literal["auto", "starttls", "implicit", "none"] = Field(
        description="How the connection is protected.", examples=["starttls"]
    )
    verify_tls: bool = Field(description="Whether the certificate must be valid.", examples=[True])
    ttl: float = Field(description="Seconds that an idle session is kept.", examples=[300])
    max_connections: int = Field(description="Sessions at a time, for each instance.", examples=[4])
    batch_size: int | None = Field(
        description="Messages taken up at a time, at the most; null: the instance's.", examples=[None]
    )
    on_uncertain: Literal["resend", "fail"] | None = Field(description="Null: the tenant's choice.", examples=[None])
    is_default: bool = Field(description="Whether messages that name no account go by it.", examples=[True])
    limit_per_minute: int | None = Field(description="SMTP transactions in any minute; null: no limit.", examples=[60])
    limit_per_hour: int | None = Field(description="SMTP transactions in any hour; null: no limit.", examples=[1000])
    limit_per_day: int | None = Field(description="SMTP transactions in any day; null: no limit.", examples=[10000])
    limit_behavior: Literal["defer", "reject"] = Field(
        description="What becomes of a message that meets a limit.", examples=["defer"]
    )
    fallback_account_id: str | None = Field(
        description="The account that its messages go by while it cannot be used.", examples=["spare"]
    )
    hold: HoldOut | None = Field(description="Why it is not used for now, if so.")
    server: ServerOut | None = Field(
        description="Why the instance that answers leaves its server alone for now, if so. Each instance knows its own."
    )


class AccountAnswer(Answer, AccountOut):
    """One account."""


class AccountsAnswer(Answer):
    """A tenant's accounts: all, or a page."""

    accounts: list[AccountOut] = Field(description="The accounts, oldest first.")
    next_cursor: str | None = Field(
        description="Give it as `cursor` for the next page. Null: the end, and where no page was asked for.",
        examples=["AAAAAAAAAAAAAAAAAAAD1Q"],
    )


class TestAnswer(BaseModel):
    """How far a login without a message came."""

    __test__ = False
    model_config = ConfigDict(extra="forbid")

    ok: bool = Field(description="Whether it got through.", examples=[True])
    steps: list[StepWord] | None = Field(
        None, description="With `ok`: what was gone through.", examples=[["connect", "greeting", "hello", "tls"]]
    )
    tls_version: str | None = Field(
        None, description="With `ok`: how it was encrypted; null: in clear.", examples=["TLSv1.3"]
    )
    step: StepWord | None = Field(
        None, description="Without `ok`: the step that failed; null: time was up.", examples=["login"]
    )
    error: str | None = Field(
        None, description="Without `ok`: why, in one sentence.", examples=["logging in: the server said 535 5.7.8 no"]
    )
    reply: str | None = Field(None, description="Without `ok`: the server's reply.", examples=["535 5.7.8 no"])
    code: Literal["account_refused", "server_unreachable"] | None = Field(
        None,
        description="Without `ok`: `account_refused` for what puts an account on hold, `server_unreachable` for a "
        "server that is left alone.",
        examples=["account_refused"],
    )


class HeldAccountOut(BaseModel):
    """An account that is not used for now."""

    model_config = ConfigDict(extra="forbid")

    tenant_id: str = Field(description="Whose it is.", examples=["acme"])
    id: str = Field(description="Its id.", examples=["main"])
    reason: str = Field(description="Why.", examples=["535 5.7.8 authentication failed"])
    since: Time = Field(description="Since when, in Unix seconds.")


class LeftAloneOut(BaseModel):
    """An account whose server the instance leaves alone."""

    model_config = ConfigDict(extra="forbid")

    tenant_id: str = Field(description="Whose it is.", examples=["acme"])
    id: str = Field(description="Its id.", examples=["main"])
    reason: str = Field(description="Why.", examples=["connecting: Connection refused"])
    since: Time = Field(description="Since when, in Unix seconds.")
    next_probe_ts: Time = Field(description="When it is tried again, with no message at stake.")


class StatusAnswer(Answer):
    """The state of the instance. What is marked so is told to the admin token only."""

    version: str = Field(description="The version of the software.", examples=["0.1.0"])
    instance: str = Field(description="The instance's name.", examples=["mail-proxy"])
    scheduler_active: bool = Field(description="False while the whole scheduler is suspended.", examples=[True])
    pending_messages: int | None = Field(
        description="Unfinished messages: of one tenant exact below 10 000, from there on as last "
        "counted; of all tenants as last counted, null where they were not counted yet.",
        examples=[12],
    )
    uptime_seconds: float = Field(description="Since the instance started.", examples=[86400.5])
    database: Literal["sqlite", "postgresql"] = Field(description="The kind of database.", examples=["sqlite"])
    workers: int = Field(description="Processes that answer on this address.", examples=[1])
    loops: dict[str, str] | None = Field(
        None, description="Admin only: the state of each loop.", examples=[{"dispatcher": "running"}]
    )
    accounts_on_hold: list[HeldAccountOut] | None = Field(
        None, description="Admin only: accounts that are not used for now."
    )
    servers_left_alone: list[LeftAloneOut] | None = Field(
        None, description="Admin only: accounts whose server this instance leaves alone, as it could not be talked to."
    )
    oldest_waiting_ts: float | None = Field(
        None,
        description="Admin only: when the oldest ready message was accepted; null: none, or not looked for yet.",
        examples=[1785491000.0],
    )


class CommandOut(BaseModel):
    """A call that may have changed something. Secrets are masked, and nothing of a message is shown but its id."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(description="The service's own number for it.", examples=["4711"])
    ts: Time = Field(description="When it was answered, in Unix seconds.")
    caller: Literal["admin", "tenant"] = Field(
        description="By the admin token, or by the token of the tenant.", examples=["admin"]
    )
    tenant_id: str | None = Field(
        description="The tenant that it was about; null: the whole instance, or none that could be meant.",
        examples=["acme"],
    )
    method: str = Field(description="The method.", examples=["DELETE"])
    route: str = Field(description="The route, written as in this documentation.", examples=["/account/{account_id}"])
    path: dict[str, Any] = Field(description="The ids in the path.", examples=[{"account_id": "main"}])
    query: dict[str, Any] = Field(
        description="The parameters, as far as they are known.", examples=[{"tenant_id": "acme"}]
    )
    payload: dict[str, Any] | None = Field(
        description="What the body gave, once it was found valid: of lists the number and the first few, asterisks in "
        "the place of what is not shown. Of a submission the number of messages and the first few ids.",
        examples=[{"id": "main", "host": "smtp.acme.example", "password": "********"}],
    )
    result: dict[str, Any] = Field(description="Numbers of the answer.", examples=[{"queued": 2, "rejected": 0}])
    status: int | None = Field(
        description="The HTTP status; null: it was cut off before there was an answer.", examples=[409]
    )
    code: str | None = Field(description="The stable word of the answer, if it has one.", examples=["account_in_use"])
    address: str | None = Field(
        description="The other end of the connection: the client, or the proxy before the service.",
        examples=["192.0.2.7"],
    )


class CommandLogAnswer(Answer):
    """A page of the command log."""

    entries: list[CommandOut] = Field(description="The entries, newest first.")
    next_cursor: str | None = Field(
        description="To go on with: give it as `cursor`. Null at the end.", examples=["1785492000.25-4711"]
    )


class PurgedAnswer(Answer):
    """What was removed from the command log."""

    removed: int = Field(description="How many entries are gone.", examples=[20000])
    more: bool = Field(description="Whether there may be more: repeat the request.", examples=[False])


class SettingOut(BaseModel):
    """One setting."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="Its name: in the environment in capitals, behind `GMP_`.", examples=["port"])
    value: bool | int | float | str | list[str | float] | None = Field(
        description="What holds now; null where nothing is set, and always for a secret.", examples=[8000]
    )
    secret: bool = Field(description="True: its value is never shown.", examples=[False])
    is_set: bool = Field(description="Whether there is a value.", examples=[True])
    source: str = Field(
        description="Where the value comes from: `environment`, `command line`, `config.toml`, `default`, `database` "
        "(changed while running), or the name of a file that holds nothing else.",
        examples=["environment"],
    )


class EncryptionOut(BaseModel):
    """The keys that the secrets in the database are sealed with. Their ids tell nothing about them."""

    model_config = ConfigDict(extra="forbid")

    key_id: str = Field(description="The key that this instance was given as its own.", examples=["9f2c61d0"])
    key_in_use: str = Field(
        description="The key that secrets are sealed with now: this instance's, once all instances have it.",
        examples=["9f2c61d0"],
    )
    old_keys: list[str] = Field(description="Keys of `GMP_ENCRYPTION_KEYS_OLD`.", examples=[["41b7e0aa"]])
    secrets_with_old_keys: int = Field(
        description="What this instance needs those for: 0 when they can be left out. The database itself counts as "
        "one.",
        examples=[0],
    )
    waits_for: list[str] = Field(
        description="Instances that have another key as their own: the change to this one waits for them.",
        examples=[[]],
    )


class InstanceAnswer(Answer):
    """The instance that answers, and its settings."""

    version: str = Field(description="The version of the software.", examples=["0.1.0"])
    instance_name: str = Field(description="The instance's name.", examples=["mail-proxy"])
    scheduler_active: bool = Field(description="False while the whole scheduler is suspended.", examples=[True])
    database: Literal["sqlite", "postgresql"] = Field(description="The kind of database.", examples=["sqlite"])
    workers: int = Field(description="Processes that answer on this address.", examples=[1])
    started_ts: Time = Field(description="When it started, in Unix seconds.")
    encryption: EncryptionOut = Field(description="How far a change of the encryption key has come.")
    settings: list[SettingOut] = Field(description="Every setting.")


class ApiTokenAnswer(Answer):
    """A new admin token."""

    api_token: str = Field(
        description="The token. Shown this once.", examples=["t5Y0bG3mZ6pVxq2LwKcR8nJdHfSaUeQi1oT7yXzA4vM"]
    )
