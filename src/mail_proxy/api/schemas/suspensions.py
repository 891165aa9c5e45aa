"""What is held: tenants, batches, or all sending."""

from __future__ import annotations

from pydantic import Field

from mail_proxy.api.schemas.answer import Answer


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
