"""What is asked for: tenants, accounts and messages as they are written, in the words of the API.

A field that is left out keeps its value, or gets its default where the thing is new; null means the default.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from mail_proxy.administration.fields import (
    BatchCode,
    BearerToken,
    ClientId,
    Cursor,
    Host,
    HttpUrl,
    Id,
    Ids,
    InstanceName,
    Limit,
    OAuthSecret,
    Scope,
    SecretText,
    StorageSecret,
    Text,
    TokenUrl,
    UnixTime,
    UrlPath,
)
from mail_proxy.domain.large_file import DEFAULT_MAX_SIZE_MB, DEFAULT_TTL_DAYS, LEAST_MAX_SIZE_MB, MOST_DAYS
from mail_proxy.domain.tenant import DEFAULT_ATTACHMENT_PATH, DEFAULT_SYNC_PATH


class Request(BaseModel):
    """A body that is taken literally: no unknown field, no value that has to be converted."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class ClientAuthIn(Request):
    """How the service logs in at the tenant's endpoints. Given as a whole: it replaces what was there."""

    method: Literal["none", "bearer", "basic"] = Field(description="How to log in.", examples=["bearer"])
    token: BearerToken | None = Field(
        None, description="For `bearer`. Never read back.", examples=["the-token-of-my-endpoint"]
    )
    user: Text | None = Field(None, description="For `basic`.", examples=["mail-proxy"])
    password: SecretText | None = Field(None, description="For `basic`. Never read back.", examples=["its-password"])


class RateLimitsIn(Request):
    """How much a tenant may send over all its accounts. Given as a whole: it replaces what was there."""

    hourly: Limit | None = Field(
        None, description="SMTP transactions in any hour. 0 or null: no limit.", examples=[1000]
    )
    daily: Limit | None = Field(
        None, description="SMTP transactions in any day. 0 or null: no limit.", examples=[10000]
    )


class LargeFileCredentialsIn(Request):
    """How a storage is reached. Never read back. Left out, the environment's usual ones count."""

    access_key_id: StorageSecret | None = Field(None, description="For `s3://`.", examples=["AKIAEXAMPLE"])
    secret_access_key: StorageSecret | None = Field(None, description="For `s3://`.", examples=["its-secret"])
    session_token: StorageSecret | None = Field(
        None, description="For `s3://` with temporary keys.", examples=["its-token"]
    )
    region: StorageSecret | None = Field(None, description="For `s3://`.", examples=["eu-central-1"])
    service_account: StorageSecret | None = Field(
        None, description="For `gs://`: the JSON of a service account's key, as one text.", examples=['{"type": "…"}']
    )
    account_name: StorageSecret | None = Field(None, description="For `az://`.", examples=["acmefiles"])
    account_key: StorageSecret | None = Field(None, description="For `az://`.", examples=["its-key"])
    connection_string: StorageSecret | None = Field(
        None, description="For `az://`, instead of the two.", examples=["AccountName=acmefiles;AccountKey=…"]
    )
    endpoint_url: HttpUrl | None = Field(
        None, description="Where the storage is, if it is not the cloud's own.", examples=["https://s3.acme.example"]
    )


class LargeFileConfigIn(Request):
    """What is done with large attachments. Given as a whole: it replaces what was there."""

    enabled: bool = Field(True, description="False: attachments of any size are sent.", examples=[True])
    max_size_mb: float = Field(
        DEFAULT_MAX_SIZE_MB,
        ge=LEAST_MAX_SIZE_MB,
        le=10_000,
        description="Megabytes of an attachment; a larger one is large.",
        examples=[10],
    )
    action: Literal["warn", "reject", "rewrite"] = Field(
        "warn",
        description="`warn`: it is sent, and the log says so. `reject`: its message fails. `rewrite`: it goes to "
        "`storage_url`, and the message carries a link instead.",
        examples=["rewrite"],
    )
    storage_url: Text | None = Field(
        None,
        max_length=2000,
        description="Where large files are kept: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, "
        "or `file:///folder` below one of `GMP_STORAGE_ROOTS`. Needed for `rewrite`.",
        examples=["s3://acme-files/mail"],
    )
    credentials: LargeFileCredentialsIn | None = Field(
        None,
        description="How the storage is reached. Left out, those that were given before for the same `storage_url` "
        "stay; null removes them.",
    )
    public_base_url: HttpUrl | None = Field(
        None,
        description="What receivers see before `/files/…`, where this service answers. Default: `GMP_PUBLIC_URL`; "
        "without both, links lead to the storage itself, for 7 days at the most.",
        examples=["https://mail.acme.example"],
    )
    file_ttl_days: float = Field(
        DEFAULT_TTL_DAYS, ge=1, le=MOST_DAYS, description="Days that a link holds.", examples=[30]
    )
    lifespan_after_download_days: float | None = Field(
        None,
        gt=0,
        le=MOST_DAYS,
        description="Days that it holds after it was first used. Null: that changes nothing.",
        examples=[7],
    )


class TenantChanges(Request):
    """Settings of a tenant."""

    name: Text | None = Field(None, description="A name for people.", examples=["ACME Corp"])
    client_base_url: HttpUrl | None = Field(
        None,
        description="Where the tenant's own service is. Null: reports go to the instance's `GMP_CLIENT_SYNC_URL`.",
        examples=["https://acme.example"],
    )
    client_sync_path: UrlPath | None = Field(
        None,
        description=f"Where reports go, below `client_base_url`. Default `{DEFAULT_SYNC_PATH}`.",
        examples=[DEFAULT_SYNC_PATH],
    )
    client_attachment_path: UrlPath | None = Field(
        None,
        description=f"Where attachments are fetched, below `client_base_url`. Default `{DEFAULT_ATTACHMENT_PATH}`.",
        examples=[DEFAULT_ATTACHMENT_PATH],
    )
    client_auth: ClientAuthIn | None = Field(None, description="How to log in there. Null: without credentials.")
    active: bool | None = Field(
        None,
        description="False: submissions are rejected and waiting messages wait. Default true.",
        examples=[True],
    )
    on_uncertain: Literal["resend", "fail"] | None = Field(
        None,
        description="What follows when the connection died between the final dot and its answer, so that the message "
        "may have been delivered: send again (the default) or fail.",
        examples=["resend"],
    )
    rate_limits: RateLimitsIn | None = Field(
        None, description="Limits over all its accounts together; each account can have its own besides. Null: none."
    )
    large_file_config: LargeFileConfigIn | None = Field(
        None, description="What is done with large attachments. Null: they are sent like others."
    )
    api_key_expires_at: UnixTime | None = Field(
        None, description="When the tenant's token ends, in Unix seconds. Null: never.", examples=[1900000000]
    )


class TenantIn(TenantChanges):
    """A tenant to create, or to change where it exists."""

    id: Id = Field(
        description="1 to 64 of letters, digits, `.`, `_`, `-`, `@`; not a word of the command line.",
        examples=["acme"],
    )


class InstanceChanges(Request):
    """What can be changed while an instance runs."""

    instance_name: InstanceName | None = Field(
        None,
        description="The name that `/status` and the logs give to each instance on the database that was not started "
        "with one of its own. Null: the default.",
        examples=["mail-eu"],
    )
    scheduler_active: bool | None = Field(
        None, description="Whether anything is sent. False: everything waits.", examples=[True]
    )


class ApiKeyIn(Request):
    """A wish for a new key."""

    api_key_expires_at: UnixTime | None = Field(
        None, description="When the new key ends, in Unix seconds. Default: never.", examples=[1900000000]
    )


class OAuthIn(Request):
    """How access tokens are obtained (RFC 6749 section 6). A field that is left out keeps its value."""

    token_url: TokenUrl | None = Field(
        None,
        description="The token server's URL, `https` unless it is on this machine. Required at first. When it changes, "
        "both secrets have to be given anew.",
        examples=["https://login.acme.example/oauth2/v2.0/token"],
    )
    client_id: ClientId | None = Field(
        None, description="The application's id there. Required at first.", examples=["my-application"]
    )
    client_secret: OAuthSecret | None = Field(
        None, description="The application's secret. Required at first. Never read back.", examples=["its-secret"]
    )
    refresh_token: OAuthSecret | None = Field(
        None,
        description="What the user's consent gave. Required at first. Never read back; where the token server replaces "
        "it, the new one is kept.",
        examples=["the-refresh-token"],
    )
    scope: Scope | None = Field(
        None,
        description="What is asked for, where the token server wants to be told.",
        examples=["https://outlook.office.com/SMTP.Send offline_access"],
    )


class AccountIn(Request):
    """An SMTP account to create, or to change where it exists."""

    id: Id = Field(
        description="1 to 64 of letters, digits, `.`, `_`, `-`, `@`; unique for the tenant; not a word of the "
        "command line.",
        examples=["main"],
    )
    tenant_id: str | None = Field(
        None,
        description="Whose account it is. Implied by a tenant token, and where there is exactly one tenant.",
        examples=["acme"],
    )
    host: Host | None = Field(
        None,
        description="Name or address of the SMTP server. Required for a new account.",
        examples=["smtp.acme.example"],
    )
    port: int | None = Field(None, ge=1, le=65535, description="Its port. Required for a new account.", examples=[587])
    user: Text | None = Field(None, description="User for the login. Null: no login.", examples=["mailer@acme.example"])
    password: SecretText | None = Field(
        None,
        description="Password for the login, needed with `user`. Never read back. When `host` or `port` change it has "
        "to be given anew, so that a stored password cannot be sent elsewhere; also when a tenant's token says `tls: "
        "none` or `verify_tls: false` where that was not so.",
        examples=["its-password"],
    )
    auth: Literal["auto", "plain", "login", "cram-md5", "xoauth2"] | None = Field(
        None,
        description="How to log in; `auto` (the default) takes the best with a password that the server offers. "
        "`xoauth2` needs `user` and `oauth`.",
        examples=["auto"],
    )
    oauth: OAuthIn | None = Field(
        None,
        description="With `auth: xoauth2`, in place of `password`. When `host` or `port` change, its secrets have to "
        "be given anew, as a password has.",
    )
    tls: Literal["auto", "starttls", "implicit", "none"] | None = Field(
        None,
        description="`auto` (the default): implicit on port 465, else STARTTLS where it is offered, and always where "
        "there are credentials and the host is not loopback. `none`: in clear, because you say so.",
        examples=["starttls"],
    )
    use_tls: bool | None = Field(
        None,
        description="Older form of `tls`: true is `implicit` on port 465, else `starttls`; false is `auto`.",
        examples=[True],
        json_schema_extra={"deprecated": True},
    )
    verify_tls: bool | None = Field(
        None, description="Whether the server's certificate must be valid. Default true.", examples=[True]
    )
    ttl: float | None = Field(
        None,
        ge=0,
        le=86400,
        description="Seconds that an idle session is kept. Default 300.",
        examples=[300],
    )
    max_connections: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Sessions at a time, for each instance. Default: the instance's `GMP_MAX_CONNECTIONS_PER_ACCOUNT`.",
        examples=[4],
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Messages taken up at a time, at the most. Null: the instance's `GMP_BATCH_SIZE_PER_ACCOUNT`.",
        examples=[100],
    )
    limit_per_minute: Limit | None = Field(
        None, description="SMTP transactions in any minute, over all instances. 0 or null: no limit.", examples=[60]
    )
    limit_per_hour: Limit | None = Field(
        None, description="SMTP transactions in any hour. 0 or null: no limit.", examples=[1000]
    )
    limit_per_day: Limit | None = Field(
        None, description="SMTP transactions in any day. 0 or null: no limit.", examples=[10000]
    )
    limit_behavior: Literal["defer", "reject"] | None = Field(
        None,
        description="What becomes of a message that meets a limit: `defer` (the default) keeps it in the queue until "
        "the window lets it through, `reject` fails it with the code `rate_limited`.",
        examples=["defer"],
    )
    fallback_account_id: Id | None = Field(
        None,
        description="Another account of the tenant. While this one is on hold, or its server has not answered for "
        "five minutes, its waiting messages go by that one.",
        examples=["spare"],
    )
    on_uncertain: Literal["resend", "fail"] | None = Field(
        None, description="As for the tenant, whose choice holds where this is null.", examples=["resend"]
    )
    is_default: bool | None = Field(
        None,
        description="True: messages that name no account go by this one. A tenant has at most one.",
        examples=[True],
    )


class OfTenant(Request):
    """About one tenant, which may also be named in the query."""

    tenant_id: str | None = Field(
        None,
        description="The tenant. Implied by a tenant token, and where there is exactly one tenant.",
        examples=["acme"],
    )


class DeleteIn(OfTenant):
    """Messages to delete."""

    ids: Ids = Field(
        description="Your ids of the messages, at most `GMP_MAX_BATCH`; one that is named twice counts once.",
        examples=[["order-1042-confirmation"]],
    )


class RetryIn(OfTenant):
    """Messages to send once more: `ids`, or at least one of the others, which have to be true of them all together."""

    ids: Ids | None = Field(
        None,
        description="Your ids of the messages, at most `GMP_MAX_BATCH`; one that is named twice counts once.",
        examples=[["order-1042-confirmation"]],
    )
    state: Literal["failed", "expired"] | None = Field(
        None, description="Those in that state. Default: both.", examples=["failed"]
    )
    status: Literal["error"] | None = Field(
        None, description="The older word for failed and expired.", examples=["error"]
    )
    account_id: Text | None = Field(None, description="Those of that account.", examples=["main"])
    batch_code: BatchCode | None = Field(None, description="Those of that campaign.", examples=["newsletter-2026-07"])
    created_from: UnixTime | None = Field(
        None, description="Those that were accepted then or later.", examples=[1785400000]
    )
    created_to: UnixTime | None = Field(None, description="Those that were accepted before.", examples=[1785500000])
    cursor: Cursor | None = Field(
        None, description="`next_cursor` of the answer before, to go on with the same filter.", examples=["981"]
    )


class CleanupIn(OfTenant):
    """Which of the finished and reported messages are removed."""

    older_than_seconds: float | None = Field(
        None, ge=0, description="Those that ended so long ago. Default: all of them.", examples=[86400]
    )
    cursor: Cursor | None = Field(None, description="`next_cursor` of the answer before, to go on.", examples=["981"])
