"""Whose message it is, and which of the tenant's accounts sends it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mail_proxy.domain.account import Account
from mail_proxy.domain.address import shown
from mail_proxy.domain.errors import Forbidden
from mail_proxy.domain.message import FoundBy
from mail_proxy.ports.directory import Directory


@dataclass(frozen=True, slots=True)
class Route:
    """The tenant and the account of a message."""

    tenant_id: str
    account_pk: int
    account_id: str
    found_by: FoundBy


@dataclass(frozen=True, slots=True)
class Unresolved:
    """Why no tenant or no account could be found."""

    field: str
    reason: str
    code: str


def refuse_other_tenants(caller_tenant: str | None, items: Sequence[object]) -> None:
    """Raise `Forbidden` if a tenant's token comes with another tenant's id in any item: the whole batch is refused."""
    if caller_tenant is None:
        return
    for item in items:
        named = item.get("tenant_id") if isinstance(item, dict) else None
        if isinstance(named, str) and named != caller_tenant:
            raise Forbidden("the token belongs to another tenant than a message names", code="wrong_tenant")


class Resolver:
    """Finds routes by one state of the directory, looking up each combination once."""

    def __init__(self, directory: Directory, caller_tenant: str | None) -> None:
        self._directory = directory
        self._caller_tenant = caller_tenant
        self._found: dict[tuple[str | None, str | None], Route | Unresolved] = {}

    async def route(self, tenant_id: str | None, account_id: str | None) -> Route | Unresolved:
        """Return where a message with these two fields goes; None stands for a field that was not given."""
        key = (tenant_id, account_id)
        if key not in self._found:
            self._found[key] = await self._look_up(tenant_id, account_id)
        return self._found[key]

    async def _look_up(self, tenant_id: str | None, account_id: str | None) -> Route | Unresolved:
        meant = await self._tenant_meant(tenant_id, account_id)
        if isinstance(meant, Unresolved):
            return meant
        tenant = await self._directory.tenant(meant)
        if tenant is None:
            return Unresolved("tenant_id", f"there is no tenant {shown(meant)}", "unknown_tenant")
        if not tenant.active:
            return Unresolved("tenant_id", f"the tenant {shown(meant)} is not active", "tenant_inactive")
        account = await self._account_meant(meant, account_id)
        if isinstance(account, Unresolved):
            return account
        found_by = FoundBy.DEFAULT if account_id is None else FoundBy.NAME
        if tenant_id is None and self._caller_tenant is None:
            found_by = FoundBy.ELIMINATION
        return Route(meant, account.pk, account.id, found_by)

    async def _tenant_meant(self, tenant_id: str | None, account_id: str | None) -> str | Unresolved:
        named = tenant_id if self._caller_tenant is None else self._caller_tenant
        if named is None:
            named = await self._directory.only_tenant()
        if named is not None:
            return named
        if account_id is None:
            return Unresolved("tenant_id", "is required, unless there is exactly one tenant", "tenant_required")
        owners = await self._directory.account_owners(account_id)
        if len(owners) == 1:
            return owners[0]
        if not owners:
            return Unresolved("account_id", f"no tenant has an account {shown(account_id)}", "unknown_account")
        reason = f"is required, because more than one tenant has an account {shown(account_id)}"
        return Unresolved("tenant_id", reason, "tenant_required")

    async def _account_meant(self, tenant_id: str, account_id: str | None) -> Account | Unresolved:
        if account_id is not None:
            named = await self._directory.account_named(tenant_id, account_id)
            reason = f"the tenant has no account {shown(account_id)}"
            return named or Unresolved("account_id", reason, "unknown_account")
        accounts = await self._directory.accounts_of(tenant_id)
        default = next((account for account in accounts if account.is_default), None)
        if default is not None:
            return default
        if len(accounts) == 1:
            return accounts[0]
        several = "is required: the tenant has several accounts, none of them the default"
        return Unresolved("account_id", several if accounts else "the tenant has no account", "no_default_account")
