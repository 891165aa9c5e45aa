"""What happened to messages: the history of one, and the feed."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mail_proxy.api.schemas.answer import Answer, Time

EventWord = Literal["queued", "sent", "deferred", "failed", "expired", "cancelled", "uncertain"]


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
