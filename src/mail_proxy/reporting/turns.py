"""One instance at a time reports to a tenant: a turn is taken, used while it holds, and given back."""  # G9

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random

import anyio
import structlog

from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.domain.sync_lease import SyncLease
from mail_proxy.ports.clock import Clock
from mail_proxy.ports.outbox import SyncLeases
from mail_proxy.reporting.lane import Lane

_TO_GIVE_BACK = 2.0
"""Seconds, also when the service stops; a turn that is not given back is free when this instance has left."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Turn:
    """The lease of a tenant, and the term of this instance's own life that it was taken in."""

    lease: SyncLease
    term: int


class Turns:
    """Takes turns with the other instances."""

    def __init__(
        self,
        leases: SyncLeases,
        standing: Callable[[], int | None],
        clock: Clock,
        rng: Random,
        mark: Callable[[str], str],
    ) -> None:
        """`standing`: the term in which this instance is known to live, None while others may think that it died.

        `mark`: returns what stands for a text, so that what is handed on about an endpoint shows nothing of it.
        """
        self.mark = mark
        self._leases = leases
        self._standing = standing
        self._clock = clock
        self._rng = rng

    @asynccontextmanager
    async def taken(self, lane: Lane) -> AsyncIterator[Turn | None]:
        """Have the tenant's turn for the length of the block; None while another instance has it, or the store none."""
        turn = await self._take(lane)
        if turn is None:
            yield None
            return
        try:
            yield turn
        finally:
            with anyio.move_on_after(_TO_GIVE_BACK, shield=True):
                try:
                    await self._leases.release(turn.lease, lane.memory(self._clock.monotonic(), self._clock.now()))
                except StoreUnavailable as error:  # it stays with this instance, which may take it again
                    log.debug("turn_not_given_back", tenant_id=lane.tenant_id, error=str(error))

    def holds(self, turn: Turn) -> bool:
        """True while the turn cannot have been passed on: this instance was never silent for long since it took it."""
        return self._standing() == turn.term

    async def _take(self, lane: Lane) -> Turn | None:
        term = self._standing()
        try:
            lease = None if term is None else await self._leases.take(lane.tenant_id)
        except StoreUnavailable as error:
            lane.store_away(self._clock.monotonic(), self._rng, also_empty=False)
            log.warning("outbox_unavailable", tenant_id=lane.tenant_id, error=str(error))
            return None
        if term is None or lease is None:
            lane.elsewhere(self._clock.monotonic())
            return None
        if lease.memory is not None:
            lane.adopt(lease.memory, self._clock.monotonic(), self._clock.now())
        return Turn(lease, term)
