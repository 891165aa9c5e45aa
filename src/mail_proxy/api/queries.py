"""Query parameters. One that is not listed is an error, not ignored."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from mail_proxy.administration.fields import BatchCode, Text, UnixTime
from mail_proxy.domain.command_log import EntryFilter, Position
from mail_proxy.domain.message import Priority
from mail_proxy.ports import MessageFilter

MAX_PAGE = 1000


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


class SuspensionQuery(OptionalTenantQuery):
    """What is held or freed."""

    batch_code: BatchCode | None = Field(
        None, description="One campaign of the tenant instead of all of it.", examples=["newsletter-2026-07"]
    )


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
    priority: Literal["0", "1", "2", "3", "immediate", "high", "medium", "low"] | None = Field(
        None, description="By priority.", examples=["high"]
    )
    active_only: bool = Field(False, description="Only messages that are not finished.", examples=[True])
    limit: int = Field(100, ge=1, le=MAX_PAGE, description="Messages a page.", examples=[100])
    cursor: str | None = Field(
        None, pattern=r"^[0-9]{1,18}$", description="`next_cursor` of the page before.", examples=["981"]
    )

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
        )


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
