"""Moving the secrets in the database to another encryption key, while everything else goes on."""

from __future__ import annotations

import structlog

from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.ports.clock import Clock
from mail_proxy.ports.secrets import Seals

INTERVAL = 5.0
"""Seconds between looks at whether there is something to do."""
CHUNK = 100

log = structlog.get_logger(__name__)


class KeyRotation:
    """Makes this instance's key the database's once every instance has it, and then seals everything with it.

    Any number of instances may be at it, and each step can be the last one of a process: what is sealed anew stays so,
    and whoever looks next goes on with the rest.
    """  # G16

    def __init__(self, seals: Seals, clock: Clock) -> None:
        self._seals = seals
        self._clock = clock
        self._finished = False
        self._told: object = None
        """What was logged last, so that it is logged once."""

    async def run(self) -> None:
        """Run until cancelled. Raises `WrongKey` when the database goes by a key that this instance does not have."""
        while True:
            try:
                await self.look()
            except StoreUnavailable as error:
                log.debug("the encryption key is looked at later", reason=error.sentence)
            await self._clock.sleep(INTERVAL)

    async def look(self) -> None:
        """Do whatever can be done now; raises `StoreUnavailable` and `WrongKey`."""
        if not await self._seals.may_go_on():
            self._finished = False
            if not await self._seals.adopt():
                await self._tell_who_is_awaited()
                return
            log.info("encryption key adopted", key_id=(await self._seals.standing()).own_key)
        if not self._finished:
            await self._reseal_all()

    async def _reseal_all(self) -> None:
        count, broken = 0, list[str]()
        cursor = None
        while True:
            step = await self._seals.reseal(cursor, CHUNK)
            count += step.count
            broken += step.broken
            cursor = step.next
            if cursor is None:
                break
        standing = await self._seals.standing()
        self._finished = standing.with_old_keys <= len(broken)
        if count or standing.old_keys:
            log.info("secrets sealed anew", secrets=count, secrets_with_old_keys=standing.with_old_keys)
        if broken:
            log.error("secrets cannot be opened", places=broken[:10], secrets=len(broken))

    async def _tell_who_is_awaited(self) -> None:
        standing = await self._seals.standing()
        if standing.awaited != self._told:
            self._told = standing.awaited
            log.info("encryption key not adopted yet", key_id=standing.own_key, awaited=list(standing.awaited))
