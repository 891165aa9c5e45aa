"""Query parameters. One that is not listed is an error, not ignored."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mail_proxy.administration.fields import BatchCode, Id, Text, UnixTime
from mail_proxy.api.cursors import CURSOR, place_at
from mail_proxy.domain.command_log import EntryFilter, Position
from mail_proxy.domain.message import Priority
from mail_proxy.domain.search import TextFilter
from mail_proxy.ports.archive import MessageFilter, Place
from mail_proxy.reporting.feed import LONGEST_WAIT, Start

MAX_PAGE = 1000
PAGE = 100
_METADATA = "metadata."


def _cursor(text: str) -> str:
    if not place_at(text).created_ts:
        raise ValueError("is a cursor of other lists")
    return text


def _cursor_of_accounts(text: str) -> str:
    if place_at(text).created_ts:
        raise ValueError("is a cursor of other lists")
    return text


def _named_values(value: object) -> object:
    if not isinstance(value, dict):
        raise ValueError("is written metadata.KEY=VALUE")  # noqa: TRY004 - pydantic takes this one for an answer
    return value


def _after(text: str) -> str:
    if text != Start.LATEST.value and not re.fullmatch(r"[0-9]{1,18}", text, re.ASCII):
        raise ValueError("must be an event_id, next_cursor of the page before, or latest")
    return text


Part = Annotated[str, Field(max_length=255)]
"""Part of a text. Nothing in it has a meaning of its own."""


class NoQuery(BaseModel):
    """For routes without parameters."""

    model_config = ConfigDict(extra="forbid")


class TenantQuery(NoQuery):
    """Which tenant is meant."""

    tenant_id: str | None = Field(
        None,
        description="The tenant. Implied by a tenant token, and where there is exactly one tenant.",
        examples=["acme"],
    )


class OptionalTenantQuery(NoQuery):
    """Which tenant is meant, if it is about one."""

    tenant_id: str | None = Field(
        None,
        description="The tenant. Implied by a tenant token; with the admin token, left out: all of them.",
        examples=["acme"],
    )


class TenantsQuery(NoQuery):
    """Which tenants are listed."""

    limit: int | None = Field(
        None,
        ge=1,
        le=MAX_PAGE,
        description="Tenants a page, at most. Left out: 100 with a `cursor`, and all of them without.",
        examples=[100],
    )
    cursor: Id | None = Field(None, description="`next_cursor` of the page before.", examples=["acme"])

    @property
    def page_size(self) -> int | None:
        """How many are listed; None: all."""
        return PAGE if self.limit is None and self.cursor is not None else self.limit


class AccountsQuery(TenantQuery):
    """Which accounts are listed."""

    limit: int | None = Field(
        None,
        ge=1,
        le=MAX_PAGE,
        description="Accounts a page, at most. Left out: 100 with a `cursor`, and all of them without.",
        examples=[100],
    )
    cursor: Annotated[str, Field(pattern=CURSOR), AfterValidator(_cursor_of_accounts)] | None = Field(
        None, description="`next_cursor` of the page before.", examples=["AAAAAAAAAAAAAAAAAAAD1Q"]
    )

    @property
    def page_size(self) -> int | None:
        """How many are listed; None: all."""
        return PAGE if self.limit is None and self.cursor is not None else self.limit

    @property
    def after(self) -> int:
        """The number of the account that the page follows on."""
        return 0 if self.cursor is None else place_at(self.cursor).pk


class SuspensionQuery(OptionalTenantQuery):
    """What is held or freed."""

    batch_code: BatchCode | None = Field(
        None, description="One campaign of the tenant instead of all of it.", examples=["newsletter-2026-07"]
    )


class SyncStatusQuery(NoQuery):
    """Which tenants are told of."""

    limit: int = Field(100, ge=1, le=MAX_PAGE, description="Tenants a page, at most.", examples=[100])
    cursor: Id | None = Field(None, description="`next_cursor` of the page before.", examples=["acme"])


class ForceQuery(NoQuery):
    """Whether to go on regardless."""

    force: bool = Field(False, description="Remove also what is unfinished or unreported.", examples=[False])


class ForceTenantQuery(TenantQuery, ForceQuery):
    """Whose it is, and whether to go on regardless."""


class MessagesQuery(TenantQuery):
    """Which messages are listed."""

    status: Literal["pending", "deferred", "sent", "error", "cancelled"] | None = Field(
        None, description="By the older words for where a message stands.", examples=["pending"]
    )
    state: Literal["waiting", "sending", "sent", "failed", "expired", "cancelled"] | None = Field(
        None, description="By where a message stands.", examples=["waiting"]
    )
    account_id: Text | None = Field(None, description="By account.", examples=["main"])
    batch_code: BatchCode | None = Field(None, description="By campaign.", examples=["newsletter-2026-07"])
    recipient: Part | None = Field(
        None,
        description="By part of a recipient's address, without regard to case.",
        examples=["@example.net"],
    )
    sender: Part | None = Field(
        None,
        alias="from",
        description="By part of what was submitted as `from`, without regard to case.",
        examples=["shop@"],
    )
    subject: Part | None = Field(
        None, description="By part of the subject, without regard to case.", examples=["on its way"]
    )
    priority: Literal["0", "1", "2", "3", "immediate", "high", "medium", "low"] | None = Field(
        None, description="By priority.", examples=["high"]
    )
    created_from: UnixTime | None = Field(
        None, description="Accepted at this time (Unix seconds) or later.", examples=[1785492000]
    )
    created_to: UnixTime | None = Field(
        None, description="Accepted before this time (Unix seconds).", examples=[1785578400]
    )
    metadata: Annotated[dict[str, str], BeforeValidator(_named_values)] = Field(
        {},
        description="By values in your metadata, each as a parameter `metadata.KEY=VALUE`: the whole value of a key on "
        "the first level. Numbers, `true`, `false` and `null` are written as in JSON; lists and objects are not found.",
        examples=[{"metadata.customer": "4711"}],
        json_schema_extra={"patternProperties": {r"^metadata\.": {"type": "string"}}, "additionalProperties": False},
    )
    active_only: bool = Field(False, description="Only messages that are not finished.", examples=[True])
    limit: int = Field(100, ge=1, le=MAX_PAGE, description="Messages a page, at most.", examples=[100])
    cursor: Annotated[str, Field(pattern=CURSOR), AfterValidator(_cursor)] | None = Field(
        None, description="`next_cursor` of the page before.", examples=["QdqbHlgP_3sAAAAAAAAD1Q"]
    )

    @model_validator(mode="before")
    @classmethod
    def _gather_metadata(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Take the parameters that begin with `metadata.` together."""
        named = {name.removeprefix(_METADATA): value for name, value in given.items() if name.startswith(_METADATA)}
        others = {name: value for name, value in given.items() if not name.startswith(_METADATA)}
        return {"metadata": named, **others}

    @property
    def below(self) -> Place | None:
        """Where the page begins; None: at the top."""
        return None if self.cursor is None else place_at(self.cursor)

    def filter(self) -> MessageFilter:
        """Return what the archive is asked for."""
        word = self.priority
        priority = None if word is None else int(word) if word.isdigit() else Priority[word.upper()].value
        return MessageFilter(
            status=self.status,
            state=self.state,
            account_id=self.account_id,
            batch_code=self.batch_code,
            priority=priority,
            active_only=self.active_only,
            created_from=self.created_from,
            created_to=self.created_to,
            texts=TextFilter(self.recipient, self.sender, self.subject, tuple(self.metadata.items())),
        )


class FeedQuery(TenantQuery):
    """Which events are meant, and for how long to wait for them."""

    after: Annotated[str, AfterValidator(_after)] | None = Field(
        None,
        description="The last `event_id` that you have handled, or `next_cursor` of the page before: what follows is "
        "answered. Left out: from where the feed begins. `latest`: what comes from now on.",
        examples=["latest"],
    )
    limit: int = Field(
        100, ge=1, le=MAX_PAGE, description="Events a page, at most; a page also ends at 1 MB.", examples=[100]
    )
    wait: float = Field(
        0,
        ge=0,
        le=LONGEST_WAIT,
        allow_inf_nan=False,
        description="Seconds to wait for an event where there is none.",
        examples=[25],
    )

    @property
    def place(self) -> int | Start:
        """Where to begin."""
        if self.after is None:
            return Start.OLDEST
        return Start.LATEST if self.after == Start.LATEST.value else int(self.after)


class CommandLogQuery(NoQuery):
    """Which entries of the command log are meant."""

    tenant_id: Text | None = Field(
        None, description="By the tenant that it was about, also one that is gone.", examples=["acme"]
    )
    since: UnixTime | None = Field(None, description="From this time on, in Unix seconds.", examples=[1785492000])
    until: UnixTime | None = Field(None, description="Before this time, in Unix seconds.", examples=[1785578400])
    method: Literal["POST", "PUT", "DELETE", "PATCH"] | None = Field(
        None, description="By method.", examples=["DELETE"]
    )
    route: Text | None = Field(
        None,
        description="By route, written as in this documentation.",
        examples=["/tenant/{tenant_id}/api-key"],
    )

    def filter(self) -> EntryFilter:
        """Return what the log is asked for."""
        return EntryFilter(self.tenant_id, self.since, self.until, self.method, self.route)


class CommandLogPurgeQuery(NoQuery):
    """Which entries of the command log are removed."""

    until: UnixTime = Field(description="Those from before this time, in Unix seconds.", examples=[1785492000])


class CommandLogPageQuery(CommandLogQuery):
    """Which entries of the command log are listed."""

    limit: int = Field(100, ge=1, le=MAX_PAGE, description="Entries a page.", examples=[100])
    cursor: str | None = Field(
        None,
        pattern=r"^[0-9]{1,12}\.[0-9]{1,3}-[0-9]{1,18}$",
        description="`next_cursor` of the page before.",
        examples=["1785492000.25-4711"],
    )

    def position(self) -> Position | None:
        """Return where the page before has ended."""
        if self.cursor is None:
            return None
        ts, _, pk = self.cursor.partition("-")
        return Position(float(ts), int(pk))
