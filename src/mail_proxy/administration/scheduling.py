"""Holding and freeing: the whole scheduler, one tenant, one batch of a tenant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from mail_proxy.administration.accounts import Notify
from mail_proxy.administration.pending import Pending
from mail_proxy.domain.errors import Conflict, NotFound
from mail_proxy.domain.tenant import Suspension
from mail_proxy.ports.directory import Directory, Registry

MAX_BATCHES = 1000
"""Batches of a tenant that can be held at a time; each claim knows all of them."""


@dataclass(frozen=True, slots=True)
class Held:
    """What of a tenant is held, and how many of its messages (of one batch, if it was asked about one) are waiting."""

    tenant_id: str
    suspension: Suspension
    pending: int


def suspended(held: Suspension, batch_code: str | None) -> Suspension:
    """Add a batch, or the whole tenant, to what is held. They add up; raises `Conflict` when they are too many."""
    if batch_code is None:
        return replace(held, whole_tenant=True)
    batches = held.batches | {batch_code}
    if len(batches) > MAX_BATCHES:
        raise Conflict(f"At most {MAX_BATCHES} batches of a tenant can be suspended.", code="too_many_batches")
    return replace(held, batches=batches)


def activated(held: Suspension, batch_code: str | None) -> Suspension:
    """Take one batch out of what is held, or everything. Raises `Conflict` for a batch of a tenant held as a whole."""
    if batch_code is None:
        return Suspension()
    if held.whole_tenant:
        raise Conflict(
            "The whole tenant is suspended, so that one batch cannot be activated: activate the tenant.",
            code="tenant_suspended",
        )
    return replace(held, batches=held.batches - {batch_code})


class Scheduling:
    """Suspends and activates; kept in the database, so that it holds on every instance."""

    def __init__(self, registry: Registry, directory: Directory, pending: Pending, freed: Notify) -> None:
        """`freed` is told the accounts of a tenant of which something was freed."""
        self._registry = registry
        self._directory = directory
        self._pending = pending
        self._freed = freed

    async def suspend(self, tenant_id: str, batch_code: str | None) -> Held:
        """Hold a tenant or one batch; raises `NotFound`, `Conflict`."""
        after = await self._change(tenant_id, lambda held: suspended(held, batch_code))
        return await self._held(tenant_id, after, batch_code)

    async def activate(self, tenant_id: str, batch_code: str | None) -> Held:
        """Free a tenant with all its batches and its poison, or one batch; raises `NotFound`, `Conflict`."""
        after = await self._change(tenant_id, lambda held: activated(held, batch_code))
        if batch_code is None:
            await self._registry.free_poison(tenant_id)
        self._freed(frozenset(account.pk for account in await self._directory.accounts_of(tenant_id)))
        return await self._held(tenant_id, after, batch_code)

    async def set_active(self, *, active: bool) -> None:
        """Hold or free the whole scheduler."""
        await self._registry.set_scheduler_active(active=active)

    async def active(self) -> bool:
        """True unless the whole scheduler is held."""
        await self._directory.refresh()
        return await self._registry.scheduler_active()

    async def _change(self, tenant_id: str, decide: Callable[[Suspension], Suspension]) -> Suspension:
        after = await self._registry.change_suspension(tenant_id, decide)
        if after is None:
            raise NotFound(f"There is no tenant {tenant_id!r}.")
        return after

    async def _held(self, tenant_id: str, suspension: Suspension, batch_code: str | None) -> Held:
        return Held(tenant_id, suspension, await self._pending.of(tenant_id, batch_code))
