"""SMTP accounts, and how far a login came."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from mail_proxy.api.schemas.answer import Answer, Time

StepWord = Literal["token", "connect", "greeting", "tls", "hello", "login"]


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
