"""Telling tenants what became of their messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from mail_proxy.domain.tenant import Tenant


@dataclass(frozen=True, slots=True)
class SinkAnswer:
    """What came back for a report. `status` None: no answer at all, and `error` says why."""

    status: int | None
    body: bytes
    retry_after: float | None = None
    error: str | None = None


class ReportSink(Protocol):
    """Carries a report to a tenant's endpoint. Never raises for what the endpoint does wrong."""

    async def deliver(self, tenant: Tenant, payload: bytes, report_id: str) -> SinkAnswer:
        """POST the payload and return what came back, bounded in time and size.

        The same report has the same id each time that it is sent.
        """
        ...

    def has_endpoint(self, tenant: Tenant) -> bool:
        """True when there is somewhere to report to."""
        ...

    def place(self, tenant: Tenant) -> str:  # noqa: ARG002 - for those who have more than one
        """A text that is another one when the tenant's reports go elsewhere; may hold secrets, and is never kept."""
        return ""
