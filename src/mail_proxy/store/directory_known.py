"""What an instance has read of the directory and keeps, until it hears that it has changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mail_proxy.domain.account import Account
from mail_proxy.domain.instance import InstanceSettings
from mail_proxy.domain.tenant import Tenant
from mail_proxy.ports.directory import KeyedTenant
from mail_proxy.store.version import Changes


@dataclass(slots=True)
class _OfTenant:
    """What is known of one tenant; thrown away as a whole when it changes."""

    tenant: Tenant | None = None
    accounts: tuple[Account, ...] | None = None
    named: dict[str, Account] = field(default_factory=dict)
    pks: set[int] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class Reading:
    """A look into the database that is under way, and what has changed since it began: what it finds may be older."""

    _changed: set[str] = field(default_factory=set)
    all_changed: bool = False
    any_changed: bool = False

    def holds_for(self, tenant_id: str) -> bool:
        """Say whether what it finds of this tenant may be kept."""
        return not self.all_changed and tenant_id not in self._changed

    def see(self, changes: Changes) -> None:
        """Take note of changes."""
        self.any_changed = True
        if changes.tenants is None:
            self.all_changed = True
        else:
            self._changed |= changes.tenants


class Known:
    """What was read. Of each tenant it holds until that changes; what depends on all of them, until anything does.

    What was not found is not remembered: anybody can ask for any number of things that do not exist. G11.
    """

    def __init__(self) -> None:
        self.version = 0
        self.instance: InstanceSettings | None = None
        self.owners: dict[str, tuple[str, ...]] = {}
        """The tenants that have an account of an id."""
        self.only_tenant: tuple[str | None] | None = None
        self._of: dict[str, _OfTenant] = {}
        self._accounts: dict[int, Account] = {}
        self._keys: dict[str, KeyedTenant] = {}
        self._readings: set[Reading] = set()

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        """Look into the database; what changes before this ends is not kept as it was found."""
        reading = Reading()
        self._readings.add(reading)
        try:
            yield reading
        finally:
            self._readings.discard(reading)

    def see(self, changes: Changes) -> None:
        """Forget what has changed, unless that is known already."""
        if changes.version <= self.version:
            return
        for reading in self._readings:
            reading.see(changes)
        self.version = changes.version
        self.owners.clear()
        self.only_tenant = None
        if changes.tenants is None:
            self.instance = None
            self._of.clear()
            self._accounts.clear()
            self._keys.clear()
            return
        for tenant_id in changes.tenants:
            self._forget(tenant_id)

    def _forget(self, tenant_id: str) -> None:
        of = self._of.pop(tenant_id, None)
        if of is not None:
            for pk in of.pks:
                del self._accounts[pk]
            for key in of.keys:
                del self._keys[key]

    def tenant(self, tenant_id: str) -> Tenant | None:
        """Return a tenant, where it is known."""
        of = self._of.get(tenant_id)
        return None if of is None else of.tenant

    def account(self, pk: int) -> Account | None:
        """Return an account by its number, where it is known."""
        return self._accounts.get(pk)

    def accounts_of(self, tenant_id: str) -> tuple[Account, ...] | None:
        """Return all accounts of a tenant, where they are known."""
        of = self._of.get(tenant_id)
        return None if of is None else of.accounts

    def named(self, tenant_id: str, account_id: str) -> Account | None:
        """Return a tenant's account by its id, where it is known."""
        of = self._of.get(tenant_id)
        return None if of is None else of.named.get(account_id)

    def keyed(self, api_key_hash: str) -> KeyedTenant | None:
        """Return the tenant of a key, where it is known."""
        return self._keys.get(api_key_hash)

    def keep_tenant(self, reading: Reading, tenant: Tenant) -> None:
        """Remember a tenant that was found."""
        if reading.holds_for(tenant.id):
            self._of_tenant(tenant.id).tenant = tenant

    def keep_key(self, reading: Reading, api_key_hash: str, keyed: KeyedTenant) -> None:
        """Remember whose a key is."""
        if reading.holds_for(keyed.tenant.id):
            self._of_tenant(keyed.tenant.id).keys.add(api_key_hash)
            self._keys[api_key_hash] = keyed

    def keep_account(self, reading: Reading, account: Account) -> None:
        """Remember an account that was found."""
        if reading.holds_for(account.tenant_id):
            of = self._of_tenant(account.tenant_id)
            of.pks.add(account.pk)
            self._accounts[account.pk] = of.named[account.id] = account

    def keep_accounts_of(self, reading: Reading, tenant_id: str, accounts: tuple[Account, ...]) -> None:
        """Remember all accounts of a tenant."""
        if reading.holds_for(tenant_id):
            self._of_tenant(tenant_id).accounts = accounts
            for account in accounts:
                self.keep_account(reading, account)

    def _of_tenant(self, tenant_id: str) -> _OfTenant:
        return self._of.setdefault(tenant_id, _OfTenant())
