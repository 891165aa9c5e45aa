"""What is done with messages by command: deleting, sending again, cleaning up."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mail_proxy.administration.accounts import Notify
from mail_proxy.domain.errors import TooLarge
from mail_proxy.domain.requeue import Skipped
from mail_proxy.domain.tenant import Tenant
from mail_proxy.ports.clock import Clock
from mail_proxy.ports.directory import Directory
from mail_proxy.ports.message_changes import Deletion, Found, MessageChanges, RetryFilter

CHUNK = 100
"""Messages that are changed in one transaction; as long as that took, nothing is changed before the next one."""  # G11
MOST = 10_000
"""Messages from which one call begins no further look for more."""
MOST_LOOKS = 100
"""Looks for messages that one call makes, however few it finds."""

Told = Callable[[Iterable[str]], None]
"""Told that events of tenants were written, one mention for each event."""


@dataclass(frozen=True, slots=True)
class Deleted:
    """What became of the ids that were to be deleted."""

    removed: int
    """Cancelled, or finished and gone."""
    not_found: Sequence[str]
    in_progress: Sequence[str]


@dataclass(slots=True)
class Retried:
    """How many messages were put back, how many were not and why, and where to go on."""

    queued: int = 0
    skipped: Counter[Skipped] = field(default_factory=Counter)
    next_after: int | None = None


@dataclass(frozen=True, slots=True)
class Cleaned:
    """How many messages went, and where to go on."""

    removed: int
    next_after: int | None


class MessageCommands:
    """Changes messages of a tenant, a chunk at a time: what was done stays done if the rest fails."""

    def __init__(
        self,
        changes: MessageChanges,
        directory: Directory,
        clock: Clock,
        has_endpoint: Callable[[Tenant], bool],
        notify: Notify,
        told: Told,
        max_batch: int = 1000,
    ) -> None:
        """`notify` is told which accounts have messages to send, `told` whose events were written."""
        self._changes = changes
        self._directory = directory
        self._clock = clock
        self._has_endpoint = has_endpoint
        self._notify = notify
        self._told = told
        self._max_batch = max_batch

    async def delete(self, tenant_id: str, ids: Sequence[str]) -> Deleted:
        """Cancel what waits and remove what is finished, all in one transaction; each id counts once.

        Raises `TooLarge`.
        """
        known = await self._find(tenant_id, ids)
        silent = await self._silent(tenant_id)
        became = await self._changes.delete(sorted(known.values()), self._clock.now(), silent=silent)
        outcomes = Counter(became.values())
        self._told([tenant_id] * outcomes[Deletion.CANCELLED])
        return Deleted(
            removed=outcomes[Deletion.REMOVED] + outcomes[Deletion.CANCELLED],
            not_found=[id_ for id_ in dict.fromkeys(ids) if known.get(id_) not in became],
            in_progress=[id_ for id_, pk in known.items() if became.get(pk) is Deletion.IN_PROGRESS],
        )

    async def retry(self, tenant_id: str, ids: Sequence[str]) -> Retried:
        """Send these once more to those whom they failed to reach; each id counts once. Raises `TooLarge`."""
        known = await self._find(tenant_id, ids)
        retried = Retried(skipped=Counter({Skipped.NOT_FOUND: len(set(ids)) - len(known)}))
        await self._requeue(sorted(known.values()), retried)
        return retried

    async def retry_matching(self, tenant_id: str, wanted: RetryFilter, after: int) -> Retried:
        """Send failed and expired messages once more, oldest first, and say where to go on if there may be more."""
        retried, looks = Retried(next_after=after), 0
        while retried.next_after is not None and looks < MOST_LOOKS and retried.queued < MOST:
            found = await self._changes.failed(tenant_id, wanted, retried.next_after)
            await self._requeue(found.pks, retried)
            retried.next_after = found.next_after
            looks += 1
        return retried

    async def clean(self, tenant_id: str, older_than: float | None, after: int) -> Cleaned:
        """Remove what is finished and has nothing left to report, oldest first; `older_than` in seconds. G9.

        Of a tenant that has no endpoint there is nobody to report to, as in retention.
        """
        silent = await self._silent(tenant_id)
        before = math.inf if older_than is None else self._clock.now() - older_than
        place: int | None = after
        removed = looks = 0
        while place is not None and looks < MOST_LOOKS and removed < MOST:
            found: Found = await self._changes.told(tenant_id, before, place, silent=silent)
            async for chunk in self._chunks(found.pks):
                removed += await self._changes.clean(chunk, before, silent=silent)
            place = found.next_after
            looks += 1
        return Cleaned(removed, place)

    async def _find(self, tenant_id: str, ids: Sequence[str]) -> Mapping[str, int]:
        if len(ids) > self._max_batch:
            raise TooLarge(f"ids has at most {self._max_batch} ids, this one has {len(ids)}")
        # no message is called otherwise, and a database takes some other texts for one another
        possible = [id_ for id_ in dict.fromkeys(ids) if id_.isprintable()]
        return await self._changes.find(tenant_id, possible)

    async def _requeue(self, pks: Sequence[int], retried: Retried) -> None:
        async for chunk in self._chunks(pks):
            done = await self._changes.requeue(chunk, self._clock.now())
            self._notify(done.account_pks)
            retried.queued += done.queued
            retried.skipped.update(done.skipped)

    async def _silent(self, tenant_id: str) -> bool:
        await self._directory.refresh()
        tenant = await self._directory.tenant(tenant_id)
        return tenant is None or not self._has_endpoint(tenant)

    async def _chunks(self, pks: Sequence[int]) -> AsyncIterator[Sequence[int]]:
        """Give so many at a time, and others a turn that is as long, so that what they write hardly waits."""
        for start in range(0, len(pks), CHUNK):
            began = self._clock.monotonic()
            yield pks[start : start + CHUNK]
            if start + CHUNK < len(pks):
                await self._clock.sleep(self._clock.monotonic() - began)
