"""Tenants, accounts and suspensions as they are read: through a cache that a version number keeps true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy import ColumnElement, Connection, select

from mail_proxy.domain.account import Account
from mail_proxy.domain.instance import InstanceSettings
from mail_proxy.domain.tenant import Tenant
from mail_proxy.ports.directory import KeyedTenant
from mail_proxy.ports.secrets import Cipher
from mail_proxy.store.database import Database
from mail_proxy.store.directory_rows import DirectoryRows
from mail_proxy.store.instance_settings import read_instance_settings
from mail_proxy.store.schema import accounts, tenants
from mail_proxy.store.suspensions import suspended_batches_of
from mail_proxy.store.version import read_version

CHUNK = 500


@dataclass(slots=True)
class _Known:
    """What was read at one version; thrown away as a whole when the version changes.

    What was not found is not remembered: anybody can ask for any number of things that do not exist. G11.
    """

    version: int
    tenants: dict[str, Tenant] = field(default_factory=dict)
    accounts: dict[int, Account] = field(default_factory=dict)
    accounts_of: dict[str, tuple[Account, ...]] = field(default_factory=dict)
    named: dict[tuple[str, str], Account] = field(default_factory=dict)
    keys: dict[str, KeyedTenant] = field(default_factory=dict)
    owners: dict[str, tuple[str, ...]] = field(default_factory=dict)
    only_tenant: tuple[str | None] | None = None
    instance: InstanceSettings | None = None


class DirectoryReading:
    """Keeps the `Directory` port, and what `Registry` reads.

    On SQLite this process is the only writer and knows each change itself, but for one whose answer reached nobody; on
    PostgreSQL `refresh` asks for the version.
    """

    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._database = database
        self._rows = DirectoryRows(cipher)
        self._known = _Known(version=0)
        self._unheard = 0

    @property
    def version(self) -> int:
        """See `Directory.version`."""
        return self._known.version

    async def open(self) -> None:
        """Read the version that holds at start."""
        self._see(await self._database.read(read_version))

    async def refresh(self) -> int:
        """See `Directory.refresh`."""
        unheard = self._unheard
        if self._database.dialect != "sqlite" or unheard:
            self._see(await self._database.read(read_version))
            self._unheard -= unheard
        return self._known.version

    def _lost_sight(self, _change: object) -> None:
        """Take note that something may have been changed without an answer."""
        self._unheard += 1

    def _see(self, version: int) -> None:
        if version > self._known.version:
            self._known = _Known(version)

    async def tenant(self, tenant_id: str) -> Tenant | None:
        """See `Directory.tenant`."""
        known = self._known
        if tenant_id not in known.tenants:
            found = await self._database.read(lambda c: self._load_tenants(c, tenants.c.id == tenant_id))
            if not found:
                return None
            known.tenants[tenant_id] = found[0]
        return known.tenants[tenant_id]

    async def account(self, account_pk: int) -> Account | None:
        """See `Directory.account`."""
        known = self._known
        if account_pk not in known.accounts:
            found = await self._database.read(lambda c: self._load_accounts(c, accounts.c.pk == account_pk))
            if not found:
                return None
            known.accounts[account_pk] = found[0]
        return known.accounts[account_pk]

    async def owners_of(self, account_pks: Sequence[int]) -> Mapping[int, str]:
        """See `Directory.owners_of`."""
        known = self._known
        unknown = [pk for pk in account_pks if pk not in known.accounts]
        for start in range(0, len(unknown), CHUNK):
            some = accounts.c.pk.in_(unknown[start : start + CHUNK])
            found = await self._database.read(partial(self._load_accounts, condition=some))
            known.accounts.update({account.pk: account for account in found})
        return {pk: known.accounts[pk].tenant_id for pk in account_pks if pk in known.accounts}

    async def accounts_of(self, tenant_id: str) -> Sequence[Account]:
        """See `Directory.accounts_of`."""
        known = self._known
        if tenant_id not in known.accounts_of:
            found = await self._database.read(lambda c: self._load_accounts(c, accounts.c.tenant_id == tenant_id))
            if not found:
                return ()
            known.accounts_of[tenant_id] = tuple(found)
            known.accounts.update((account.pk, account) for account in found)
        return known.accounts_of[tenant_id]

    async def account_named(self, tenant_id: str, account_id: str) -> Account | None:
        """See `Directory.account_named`."""
        if not account_id.isascii() or "\0" in account_id:  # no account's, and not for every database to look for
            return None
        known, key = self._known, (tenant_id, account_id)
        if key not in known.named:
            mine = (accounts.c.tenant_id == tenant_id) & (accounts.c.id == account_id)
            found = await self._database.read(lambda c: self._load_accounts(c, mine))
            if not found:
                return None
            known.named[key] = known.accounts[found[0].pk] = found[0]
        return known.named[key]

    async def account_owners(self, account_id: str) -> Sequence[str]:
        """See `Directory.account_owners`."""
        known = self._known
        if account_id not in known.owners:
            statement = select(accounts.c.tenant_id).where(accounts.c.id == account_id).limit(2)
            found = tuple(await self._database.read(lambda c: c.execute(statement).scalars().all()))
            if not found:
                return ()
            known.owners[account_id] = found
        return known.owners[account_id]

    async def only_tenant(self) -> str | None:
        """See `Directory.only_tenant`."""
        known = self._known
        if known.only_tenant is None:
            ids = await self._database.read(lambda c: c.execute(select(tenants.c.id).limit(2)).scalars().all())
            known.only_tenant = (ids[0] if len(ids) == 1 else None,)
        return known.only_tenant[0]

    async def tenants(self) -> Sequence[Tenant]:
        """See `Registry.tenants`."""
        return await self._database.read(lambda c: self._load_tenants(c, tenants.c.id.is_not(None)))

    async def tenant_by_key(self, api_key_hash: str) -> KeyedTenant | None:
        """See `Registry.tenant_by_key`."""
        await self.refresh()
        known = self._known
        if api_key_hash not in known.keys:
            found = await self._database.read(lambda c: self._load_tenants(c, tenants.c.api_key_hash == api_key_hash))
            if not found:
                return None
            known.keys[api_key_hash] = KeyedTenant(found[0], found[0].api_key_expires_at)
        return known.keys[api_key_hash]

    async def accounts_on_hold(self) -> Sequence[Account]:
        """See `Registry.accounts_on_hold`."""
        return await self._database.read(lambda c: self._load_accounts(c, accounts.c.hold_since.is_not(None)))

    async def instance_settings(self) -> InstanceSettings:
        """See `Registry.instance_settings`."""
        known = self._known
        if known.instance is None:
            known.instance = await self._database.read(read_instance_settings)
        return known.instance

    async def scheduler_active(self) -> bool:
        """See `Registry.scheduler_active`."""
        return (await self.instance_settings()).scheduler_active

    def _load_tenants(self, connection: Connection, condition: ColumnElement[bool]) -> list[Tenant]:
        rows = connection.execute(select(tenants).where(condition).order_by(tenants.c.id)).all()
        held = suspended_batches_of(connection, [row.id for row in rows])
        return [self._rows.tenant(row, held.get(row.id, frozenset())) for row in rows]

    def _load_accounts(self, connection: Connection, condition: ColumnElement[bool]) -> list[Account]:
        rows = connection.execute(select(accounts).where(condition).order_by(accounts.c.pk)).all()
        return [self._rows.account(row) for row in rows]
