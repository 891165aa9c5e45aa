"""Tenants and accounts: as the flows read them, and as operators change them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mail_proxy.domain.account import Account, Hold
from mail_proxy.domain.instance import InstanceSettings
from mail_proxy.domain.oauth import OAuth
from mail_proxy.domain.secret import Secret
from mail_proxy.domain.signing import Signing
from mail_proxy.domain.tenant import Suspension, Tenant


class Directory(Protocol):
    """Tenants and accounts as the flows read them. Values are snapshots; `version` grows with every change."""

    @property
    def version(self) -> int:
        """The version that the last answers came from."""
        ...

    async def refresh(self) -> int:
        """Look whether another instance changed something; return the version that holds now."""
        ...

    async def tenant(self, tenant_id: str) -> Tenant | None:
        """One tenant, or None."""
        ...

    async def account(self, account_pk: int) -> Account | None:
        """One account by the store's number, its password opened (`unreadable` where no key does), or None."""
        ...

    async def owners_of(self, account_pks: Sequence[int]) -> Mapping[int, str]:
        """The tenants of accounts, by the store's numbers; those that are gone are left out. Reads many at a time."""
        ...

    async def accounts_of(self, tenant_id: str) -> Sequence[Account]:
        """A tenant's accounts, oldest first."""
        ...

    async def account_named(self, tenant_id: str, account_id: str) -> Account | None:
        """A tenant's account of this id (any text), or None. The cost does not grow with the number of accounts."""
        ...

    async def account_owners(self, account_id: str) -> Sequence[str]:
        """The tenants that have an account of this id."""
        ...

    async def only_tenant(self) -> str | None:
        """The id of the tenant, where there is exactly one."""
        ...


@dataclass(frozen=True, slots=True)
class KeyedTenant:
    """A tenant found by the SHA-256 of its token."""

    tenant: Tenant
    expires_at: float | None


class Registry(Protocol):
    """Changes to tenants, accounts and suspensions. Each call is one transaction and raises `version`."""

    async def put_tenant(self, tenant: Tenant, api_key_hash: str | None, based_on: Tenant | None = None) -> bool:
        """Create (True) or update (False) a tenant; `api_key_hash` is stored only on creation.

        `based_on` is what the caller made it from: only what differs from that is set, so that what others have set
        meanwhile stays. Raises `Stale` where it was removed meanwhile. Without it everything is set.
        """
        ...

    async def tenants(self) -> Sequence[Tenant]:
        """All tenants, by id."""
        ...

    async def tenants_after(self, tenant_id: str | None, limit: int) -> Sequence[Tenant]:
        """So many tenants, by id, from the one that follows on this id; None: from the first."""
        ...

    async def accounts_after(self, tenant_id: str, account_pk: int, limit: int) -> Sequence[Account]:
        """So many of a tenant's accounts, oldest first, from the one that follows on this number of the store."""
        ...

    async def delete_tenant(self, tenant_id: str, *, force: bool) -> bool:
        """Remove a tenant and all its data; False if unknown.

        Raises `Conflict` while it has unfinished or unreported messages, unless `force`. G9.
        """
        ...

    async def set_api_key(self, tenant_id: str, api_key_hash: str | None, expires_at: float | None) -> bool:
        """Replace the tenant's key, or revoke it with None; the old one ends at once. False if unknown."""
        ...

    async def change_signing(self, tenant_id: str, decide: Callable[[Signing], Signing]) -> Signing | None:
        """Give a tenant other secrets to sign its reports with, and answer them; None if it is unknown.

        `decide` is told those that it has. It can be asked again, with what came of an answer that was lost.
        """
        ...

    async def tenant_by_key(self, api_key_hash: str) -> KeyedTenant | None:
        """The tenant that has this key now, on whichever instance it was given."""
        ...

    async def put_account(self, account: Account, based_on: Account | None = None) -> Account:
        """Create (pk 0) or update an account by (tenant, id) and end its hold; answers it with its pk.

        `based_on` is what the caller made it from: raises `Stale` where it has been set anew meanwhile. A refresh token
        that the token server has replaced meanwhile is kept.
        """
        ...

    async def replace_refresh_token(self, account_pk: int, used: OAuth, fresh: Secret) -> bool:
        """Keep the refresh token that a token server gave in place of the one that was used.

        False, and nothing is changed, where the account has another one by now, or none.
        """
        ...

    async def delete_account(self, tenant_id: str, account_id: str, *, force: bool, pk: int | None = None) -> bool:
        """Remove an account; False if unknown. Raises `Conflict` while messages wait for it, unless `force`.

        With `force` its waiting messages are cancelled and reported. With `pk` another one that has come into its place
        is left alone, as if unknown.
        """
        ...

    async def accounts_on_hold(self) -> Sequence[Account]:
        """The accounts of all tenants that are on hold, oldest first."""
        ...

    async def set_hold(self, account_pk: int, hold: Hold | None) -> None:
        """Put an account on hold, or end the hold. One that is on hold stays so since it began. G8."""
        ...

    async def change_suspension(self, tenant_id: str, decide: Callable[[Suspension], Suspension]) -> Suspension | None:
        """Hold or free a tenant or its batches; answers what is held now, None if the tenant is unknown.

        `decide` is given what is held when nobody else can change it any more, and may raise `Conflict`. It may be
        called again, and must then decide the same. Costs the same however many messages are concerned.
        """
        ...

    async def free_poison(self, tenant_id: str) -> None:
        """Have what is held of a tenant because instances ended over it put back in chunks, as if it were new. G13."""
        ...

    async def instance_settings(self) -> InstanceSettings:
        """What is kept in the database for all instances."""
        ...

    async def change_instance_settings(
        self, decide: Callable[[InstanceSettings], InstanceSettings]
    ) -> InstanceSettings:
        """Change that, on every instance, and answer what holds now. `decide` as in `change_suspension`."""
        ...

    async def scheduler_active(self) -> bool:
        """Whether anything is sent at all."""
        ...

    async def set_scheduler_active(self, *, active: bool) -> None:
        """Hold or free the whole scheduler, on every instance."""
        ...
