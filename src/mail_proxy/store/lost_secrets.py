"""Telling the operator of tenants' secrets that no key opens."""

from __future__ import annotations

import math

import structlog

from mail_proxy.domain.tenant import Tenant, TenantSecret
from mail_proxy.ports.clock import Clock

TELL_AGAIN = 3600.0
"""Seconds between two lines about the same secrets of one tenant."""

log = structlog.get_logger(__name__)


class LostSecrets:
    """Logs them when they are others than before, and once in a while. Called in threads that read."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told: dict[str, tuple[frozenset[TenantSecret], float]] = {}

    def look_at(self, tenant: Tenant) -> None:
        """Tell of a tenant's secrets that cannot be opened, unless that was told a while ago."""
        if not tenant.unreadable:
            self._told.pop(tenant.id, None)
            return
        now = self._clock.monotonic()
        lost, told_at = self._told.get(tenant.id, (frozenset(), -math.inf))
        if lost != tenant.unreadable or now - told_at >= TELL_AGAIN:
            self._told[tenant.id] = (tenant.unreadable, now)
            places = sorted(f"{each.value} of tenant {tenant.id}" for each in tenant.unreadable)
            log.error("secrets cannot be opened", places=places, secrets=len(places))
