"""The command log."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mail_proxy.api.schemas.answer import Answer, Time


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
