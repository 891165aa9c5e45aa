"""Tenants, accounts and suspensions as they are read: through a cache that a version number keeps true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from sqlalchemy import ColumnElement, Connection, select

from mail_proxy.domain.account import Account
from mail_proxy.domain.instance import InstanceSettings
from mail_proxy.domain.tenant import Tenant
from mail_proxy.ports.clock import Clock
from mail_proxy.ports.directory import KeyedTenant
from mail_proxy.ports.secrets import Cipher
from mail_proxy.store.database import Database
from mail_proxy.store.directory_known import Known
from mail_proxy.store.directory_rows import DirectoryRows
from mail_proxy.store.instance_settings import read_instance_settings
from mail_proxy.store.lost_secrets import LostSecrets
from mail_proxy.store.schema import accounts, tenants
from mail_proxy.store.suspensions import suspended_batches_of
from mail_proxy.store.version import changes_since

CHUNK = 500


class DirectoryReading:
    """Keeps the `Directory` port, and what `Registry` reads.

    On SQLite this process is the only writer and knows each change itself, but for one whose answer reached nobody; on
    PostgreSQL `refresh` asks for the version.
    """

    def __init__(self, database: Database, cipher: Cipher, clock: Clock) -> None:
        self._database = database
        self._rows = DirectoryRows(cipher)
        self._known = Known()
        self._lost_secrets = LostSecrets(clock)
        self._unheard = 0
        self._looked_after = 0
        """How many of the changes that were not heard of a look has come after."""

    @property
    def version(self) -> int:
        """See `Directory.version`."""
        return self._known.version

    async def open(self) -> None:
        """Read the version that holds at start."""
        await self._look()

    async def refresh(self) -> int:
        """See `Directory.refresh`."""
        unheard = self._unheard
        if self._database.dialect != "sqlite" or unheard > self._looked_after:
            await self._look()
            self._looked_after = max(self._looked_after, unheard)
        return self._known.version

    async def _look(self) -> None:
        known = self._known.version
        self._known.see(await self._database.read(lambda c: changes_since(c, known)))

    def _lost_sight(self, _change: object) -> None:
        """Take note that something may have been changed without an answer."""
        self._unheard += 1

    async def tenant(self, tenant_id: str) -> Tenant | None:
        """See `Directory.tenant`."""
        known = self._known.tenant(tenant_id)
        if known is not None:
            return known
        with self._known.reading() as reading:
            found = await self._database.read(lambda c: self._load_tenants(c, tenants.c.id == tenant_id))
            for tenant in found:
                self._known.keep_tenant(reading, tenant)
        return found[0] if found else None

    async def account(self, account_pk: int) -> Account | None:
        """See `Directory.account`."""
        known = self._known.account(account_pk)
        if known is not None:
            return known
        found = await self._find_accounts(accounts.c.pk == account_pk)
        return found[0] if found else None

    async def owners_of(self, account_pks: Sequence[int]) -> Mapping[int, str]:
        """See `Directory.owners_of`."""
        owners: dict[int, str] = {}
        unknown: list[int] = []
        for pk in account_pks:
            known = self._known.account(pk)
            if known is None:
                unknown.append(pk)
            else:
                owners[pk] = known.tenant_id
        for start in range(0, len(unknown), CHUNK):
            found = await self._find_accounts(accounts.c.pk.in_(unknown[start : start + CHUNK]))
            owners.update((account.pk, account.tenant_id) for account in found)
        return owners

    async def accounts_of(self, tenant_id: str) -> Sequence[Account]:
        """See `Directory.accounts_of`."""
        known = self._known.accounts_of(tenant_id)
        if known is not None:
            return known
        with self._known.reading() as reading:
            mine = accounts.c.tenant_id == tenant_id
            found = tuple(await self._database.read(lambda c: self._load_accounts(c, mine)))
            if found:
                self._known.keep_accounts_of(reading, tenant_id, found)
        return found

    async def account_named(self, tenant_id: str, account_id: str) -> Account | None:
        """See `Directory.account_named`."""
        if not account_id.isascii() or "\0" in account_id:  # no account's, and not for every database to look for
            return None
        known = self._known.named(tenant_id, account_id)
        if known is not None:
            return known
        found = await self._find_accounts((accounts.c.tenant_id == tenant_id) & (accounts.c.id == account_id))
        return found[0] if found else None

    async def account_owners(self, account_id: str) -> Sequence[str]:
        """See `Directory.account_owners`."""
        known = self._known.owners.get(account_id)
        if known is not None:
            return known
        statement = select(accounts.c.tenant_id).where(accounts.c.id == account_id).limit(2)
        with self._known.reading() as reading:
            found = tuple(await self._database.read(lambda c: c.execute(statement).scalars().all()))
            if found and not reading.any_changed:
                self._known.owners[account_id] = found
        return found

    async def only_tenant(self) -> str | None:
        """See `Directory.only_tenant`."""
        known = self._known.only_tenant
        if known is not None:
            return known[0]
        with self._known.reading() as reading:
            ids = await self._database.read(lambda c: c.execute(select(tenants.c.id).limit(2)).scalars().all())
            only = ids[0] if len(ids) == 1 else None
            if not reading.any_changed:
                self._known.only_tenant = (only,)
        return only

    async def tenants(self) -> Sequence[Tenant]:
        """See `Registry.tenants`."""
        return await self._database.read(lambda c: self._load_tenants(c, tenants.c.id.is_not(None)))

    async def tenants_after(self, tenant_id: str | None, limit: int) -> Sequence[Tenant]:
        """See `Registry.tenants_after`."""
        following = tenants.c.id > (tenant_id or "")  # no id is empty
        return await self._database.read(lambda c: self._load_tenants(c, following, limit))

    async def accounts_after(self, tenant_id: str, account_pk: int, limit: int) -> Sequence[Account]:
        """See `Registry.accounts_after`."""
        following = (accounts.c.tenant_id == tenant_id) & (accounts.c.pk > account_pk)
        return await self._database.read(lambda c: self._load_accounts(c, following, limit))

    async def tenant_by_key(self, api_key_hash: str) -> KeyedTenant | None:
        """See `Registry.tenant_by_key`."""
        await self.refresh()
        known = self._known.keyed(api_key_hash)
        if known is not None:
            return known
        with self._known.reading() as reading:
            found = await self._database.read(lambda c: self._load_tenants(c, tenants.c.api_key_hash == api_key_hash))
            if not found:
                return None
            keyed = KeyedTenant(found[0], found[0].api_key_expires_at)
            self._known.keep_key(reading, api_key_hash, keyed)
        return keyed

    async def accounts_on_hold(self) -> Sequence[Account]:
        """See `Registry.accounts_on_hold`."""
        return await self._database.read(lambda c: self._load_accounts(c, accounts.c.hold_since.is_not(None)))

    async def instance_settings(self) -> InstanceSettings:
        """See `Registry.instance_settings`."""
        known = self._known.instance
        if known is not None:
            return known
        with self._known.reading() as reading:
            found = await self._database.read(read_instance_settings)
            if not reading.all_changed:
                self._known.instance = found
        return found

    async def scheduler_active(self) -> bool:
        """See `Registry.scheduler_active`."""
        return (await self.instance_settings()).scheduler_active

    async def _find_accounts(self, condition: ColumnElement[bool]) -> list[Account]:
        """Look for accounts, and keep those that are found."""
        with self._known.reading() as reading:
            found = await self._database.read(partial(self._load_accounts, condition=condition))
            for account in found:
                self._known.keep_account(reading, account)
        return found

    def _load_tenants(
        self, connection: Connection, condition: ColumnElement[bool], limit: int | None = None
    ) -> list[Tenant]:
        rows = connection.execute(select(tenants).where(condition).order_by(tenants.c.id).limit(limit)).all()
        held = suspended_batches_of(connection, [row.id for row in rows])
        found = [self._rows.tenant(row, held.get(row.id, frozenset())) for row in rows]
        for tenant in found:
            self._lost_secrets.look_at(tenant)
        return found

    def _load_accounts(
        self, connection: Connection, condition: ColumnElement[bool], limit: int | None = None
    ) -> list[Account]:
        rows = connection.execute(select(accounts).where(condition).order_by(accounts.c.pk).limit(limit)).all()
        return [self._rows.account(row) for row in rows]
