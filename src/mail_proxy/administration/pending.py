"""How many messages wait: never counted through in a request, and exact all the same where it matters."""

from __future__ import annotations

from collections.abc import Callable

from mail_proxy.domain.backlog import MANY, Survey
from mail_proxy.ports.archive import Archive


class Pending:
    """Answers in a bounded time: exactly below `MANY`, from there on as last counted in the background."""  # G11

    def __init__(self, archive: Archive, surveyed: Callable[[], Survey | None]) -> None:
        """`surveyed` gives what was last counted, None before the first time."""
        self._archive = archive
        self._surveyed = surveyed

    async def of(self, tenant_id: str, batch_code: str | None = None) -> int:
        """Return the number of unfinished messages of a tenant, or of one of its batches."""
        counted = await self._archive.pending(tenant_id, batch_code)
        survey = self._surveyed()
        if counted < MANY or survey is None:
            return counted
        by_batch = None if batch_code is None else survey.by_batch.get((tenant_id, batch_code), MANY)
        return max(MANY, survey.by_tenant.get(tenant_id, MANY) if by_batch is None else by_batch)
