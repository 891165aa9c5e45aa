"""Tenants, what keys they get, and how reporting to them goes."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from mail_proxy.api.schemas.answer import Answer, Put, Time
from mail_proxy.domain.sync_lease import MANY_EVENTS


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
    unreadable_secrets: list[Literal["client_auth", "large_file_config", "signing_secret"]] = Field(
        description="Stored, but no key opens them: what needs one of them waits until it is given anew.", examples=[[]]
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
