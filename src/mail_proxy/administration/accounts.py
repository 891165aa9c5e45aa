"""SMTP accounts: made, changed, removed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mail_proxy.administration.account_rules import DEFAULT_CONNECTIONS, changed_account
from mail_proxy.administration.requests import AccountIn
from mail_proxy.domain.account import Account
from mail_proxy.domain.errors import Invalid, NotFound, Problem
from mail_proxy.ports import Directory, Registry

HostRefusal = Callable[[str], "str | None"]
"""Says why a tenant may not have mail sent to a host, or None. A name is also checked by what it resolves to, later."""
Notify = Callable[[frozenset[int]], None]
"""Told which accounts may have messages that can go now."""


class Accounts:
    """Changes accounts. `host_refusal` is asked only about hosts that a tenant's own token sets.

    `max_connections` is for new accounts that give none.
    """

    def __init__(
        self,
        registry: Registry,
        directory: Directory,
        host_refusal: HostRefusal,
        notify: Notify,
        max_connections: int = DEFAULT_CONNECTIONS,
    ) -> None:
        self._registry = registry
        self._directory = directory
        self._host_refusal = host_refusal
        self._notify = notify
        self._max_connections = max_connections

    async def of(self, tenant_id: str) -> Sequence[Account]:
        """Return a tenant's accounts, oldest first."""
        await self._directory.refresh()
        return await self._directory.accounts_of(tenant_id)

    async def get(self, tenant_id: str, account_id: str) -> Account:
        """Return one account; raises `NotFound`."""
        account = await self._find(tenant_id, account_id)
        if account is None:
            raise _unknown(account_id)
        return account

    async def put(self, tenant_id: str, wanted: AccountIn, *, by_tenant: bool) -> bool:
        """Create an account (True) or change it (False), end its hold, and let its messages go on.

        Raises `Invalid`, and `NotFound` where the tenant is gone.
        """
        if await self._directory.tenant(tenant_id) is None:
            raise NotFound("There is no such tenant.")
        existing = await self._find(tenant_id, wanted.id)
        if by_tenant:
            self._refuse_host(existing, wanted)
        account = changed_account(existing, tenant_id, wanted, self._max_connections)
        if wanted.fallback_account_id is not None and not await self._find(tenant_id, wanted.fallback_account_id):
            raise Invalid(Problem("fallback_account_id", f"there is no account {wanted.fallback_account_id!r}"))
        account = await self._registry.put_account(account)
        self._notify(frozenset({account.pk}))
        return existing is None

    async def delete(self, tenant_id: str, account_id: str, *, force: bool) -> None:
        """Remove an account; raises `NotFound`, and `Conflict` while messages wait for it, unless `force`."""
        await self._directory.refresh()
        if not await self._registry.delete_account(tenant_id, account_id, force=force):
            raise _unknown(account_id)

    async def on_hold(self) -> Sequence[Account]:
        """Return the accounts of all tenants that are not used for now."""
        return await self._registry.accounts_on_hold()

    def _refuse_host(self, existing: Account | None, wanted: AccountIn) -> None:
        """Raise `Invalid` where a tenant may not have mail sent there; nor to another port of such a host."""
        moved = existing is not None and wanted.port is not None and wanted.port != existing.port
        host = wanted.host if wanted.host is not None else existing.host if existing is not None and moved else None
        refusal = None if host is None else self._host_refusal(host)
        if refusal is not None:
            raise Invalid(Problem("host" if wanted.host is not None else "port", refusal))

    async def _find(self, tenant_id: str, account_id: str) -> Account | None:
        return next((account for account in await self.of(tenant_id) if account.id == account_id), None)


def _unknown(account_id: str) -> NotFound:
    return NotFound(f"There is no account {account_id!r}.")
