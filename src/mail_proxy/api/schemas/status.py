"""How the instance that answers is doing."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from mail_proxy.api.schemas.answer import Answer, Time


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
