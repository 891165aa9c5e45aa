"""Tenants, accounts and suspensions: read through a cache that a version number keeps true."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import structlog
from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update

from mail_proxy.domain.account import Account, Hold
from mail_proxy.domain.backlog import MANY
from mail_proxy.domain.errors import Conflict
from mail_proxy.domain.instance import InstanceSettings
from mail_proxy.domain.message import MessageState
from mail_proxy.domain.oauth import OAuth
from mail_proxy.domain.secret import Secret
from mail_proxy.domain.signing import Signing
from mail_proxy.domain.tenant import Suspension, Tenant, TenantSecret
from mail_proxy.ports.clock import Clock
from mail_proxy.ports.directory import KeyedTenant
from mail_proxy.ports.queue import Stale
from mail_proxy.ports.secrets import Cipher
from mail_proxy.store.database import Database
from mail_proxy.store.directory_rows import DirectoryRows
from mail_proxy.store.files import forget_links
from mail_proxy.store.hints import Hint
from mail_proxy.store.instance_settings import read_instance_settings, write_instance_settings
from mail_proxy.store.operation import Operation, Transaction
from mail_proxy.store.prepared import once
from mail_proxy.store.prune import Prune
from mail_proxy.store.removal import CHUNK as CANCELLED_AT_A_TIME
from mail_proxy.store.removal import CancelWaiting
from mail_proxy.store.schema import accounts, events, feed_horizons, messages, sync_leases, tenants
from mail_proxy.store.sealed import key_of_the_database, sealed_as_the_database_is
from mail_proxy.store.survey import count_unfinished
from mail_proxy.store.suspensions import free_poison, read_suspension, suspended_batches_of, write_suspension
from mail_proxy.store.usage import account_scope, forget_usage, tenant_scope
from mail_proxy.store.version import raise_version, read_version

ResultT = TypeVar("ResultT")
CHUNK = 500
BEING_DELETED = "being deleted"
TELL_AGAIN = 3600.0
"""Seconds between two lines about secrets of one tenant that no key opens."""

log = structlog.get_logger(__name__)


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


class StoreDirectory:
    """Keeps the `Directory` and `Registry` ports on SQLite and PostgreSQL.

    On SQLite this process is the only writer and knows each change itself, but for one whose answer reached nobody; on
    PostgreSQL `refresh` asks for the version.
    """

    def __init__(self, database: Database, cipher: Cipher, clock: Clock) -> None:
        self._database = database
        self._cipher = cipher
        self._rows = DirectoryRows(cipher)
        self._clock = clock
        self._known = _Known(version=0)
        self._change_op = Operation("directory", _run_changes, unanswered=self._lost_sight, rank=0)
        self._unheard = 0
        self._untold_keys: dict[str, set[str]] = {}
        self._told_of: dict[str, tuple[frozenset[TenantSecret], float]] = {}
        prune, self._cancel = once(Prune, database.dialect), once(CancelWaiting, database.dialect)
        self._remove_tenant_op = Operation("remove_tenant", prune.remove_tenant)
        self._cancel_op = Operation("cancel", self._cancel.run)

    # -- reading -----------------------------------------------------------------------------------------------------

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
        found = [self._rows.tenant(row, held.get(row.id, frozenset())) for row in rows]
        for tenant in found:
            self._tell_of_lost_secrets(tenant)
        return found

    def _tell_of_lost_secrets(self, tenant: Tenant) -> None:
        """Say which secrets of a tenant no key opens: when they are others than before, and now and then."""
        if not tenant.unreadable:
            self._told_of.pop(tenant.id, None)
            return
        now = self._clock.monotonic()
        lost, at = self._told_of.get(tenant.id, (frozenset(), -math.inf))
        if lost != tenant.unreadable or now - at >= TELL_AGAIN:
            self._told_of[tenant.id] = (tenant.unreadable, now)
            places = sorted(f"{each.value} of tenant {tenant.id}" for each in tenant.unreadable)
            log.error("secrets cannot be opened", places=places, secrets=len(places))

    def _load_accounts(self, connection: Connection, condition: ColumnElement[bool]) -> list[Account]:
        rows = connection.execute(select(accounts).where(condition).order_by(accounts.c.pk)).all()
        return [self._rows.account(row) for row in rows]

    # -- changing ----------------------------------------------------------------------------------------------------

    async def _change(self, change: Callable[[Transaction], ResultT]) -> ResultT:
        """Run a change in a transaction that also raises the version."""
        outcome: tuple[ResultT, int] = await self._database.write(self._change_op, change)
        result, version = outcome
        self._see(version)
        return result

    async def put_tenant(self, tenant: Tenant, api_key_hash: str | None) -> bool:
        """See `Registry.put_tenant`.

        A tenant that was made by an earlier call which failed all the same counts as new: nobody was told its key.
        """
        sealed = self._rows.tenant_values(tenant)
        untold = frozenset(self._untold_keys.get(tenant.id, ()))
        first = {
            "id": tenant.id,
            "suspended": False,
            "created_ts": self._clock.now(),
            "api_key_hash": api_key_hash,
        }

        def change(transaction: Transaction) -> bool:
            connection = transaction.connection
            values = sealed_as_the_database_is(connection, self._cipher, tenants, sealed, tenant.id)
            mine = tenants.c.id == tenant.id
            # what a limit has said is looked at anew
            looked_at = update(accounts).where(accounts.c.tenant_id == tenant.id, accounts.c.limited_until.is_not(None))
            connection.execute(looked_at.values(limited_until=None, limited_reason=None))
            if connection.execute(update(tenants).where(mine).values(values)).rowcount:
                key, created_ts = connection.execute(
                    select(tenants.c.api_key_hash, tenants.c.created_ts).where(mine)
                ).one()
                if key is not None and key in untold:
                    connection.execute(update(tenants).where(mine).values(api_key_hash=api_key_hash))
                    return True
                return transaction.again and created_ts == first["created_ts"]  # by the commit that this one repeats
            connection.execute(insert(tenants).values(values | first))
            return True

        try:
            is_new = await self._change(change)
        except BaseException:
            if api_key_hash is not None:
                self._untold_keys.setdefault(tenant.id, set()).add(api_key_hash)
            raise
        self._untold_keys.pop(tenant.id, None)
        return is_new

    async def delete_tenant(self, tenant_id: str, *, force: bool) -> bool:
        """See `Registry.delete_tenant`."""

        def deactivate(transaction: Transaction) -> bool:
            if not force:
                _refuse_while_untold(transaction, tenant_id)
            stopped = update(tenants).where(tenants.c.id == tenant_id).values(active=False, api_key_hash=None)
            return transaction.connection.execute(stopped).rowcount > 0

        if not await self._change(deactivate):
            return False
        while await self._database.write(self._remove_tenant_op, (tenant_id, CHUNK)):
            pass

        def remove(transaction: Transaction) -> None:
            connection = transaction.connection
            owned = connection.execute(select(accounts.c.pk).where(accounts.c.tenant_id == tenant_id)).scalars()
            forget_usage(connection, tenant_scope(tenant_id), *(account_scope(pk) for pk in owned))
            connection.execute(delete(sync_leases).where(sync_leases.c.tenant_id == tenant_id))
            connection.execute(delete(feed_horizons).where(feed_horizons.c.tenant_id == tenant_id))
            forget_links(connection, tenant_id)
            connection.execute(delete(tenants).where(tenants.c.id == tenant_id))

        await self._change(remove)
        return True

    async def set_api_key(self, tenant_id: str, api_key_hash: str | None, expires_at: float | None) -> bool:
        """See `Registry.set_api_key`."""
        statement = (
            update(tenants)
            .where(tenants.c.id == tenant_id)
            .values(api_key_hash=api_key_hash, api_key_expires_at=expires_at)
        )
        return await self._change(lambda t: t.connection.execute(statement).rowcount > 0)

    async def change_signing(self, tenant_id: str, decide: Callable[[Signing], Signing]) -> Signing | None:
        """See `Registry.change_signing`."""

        def change(transaction: Transaction) -> Signing | None:
            connection, mine = transaction.connection, tenants.c.id == tenant_id
            key_of_the_database(connection, self._cipher)
            row = connection.execute(select(tenants.c.signing).where(mine)).first()
            if row is None:
                return None
            after = decide(self._rows.signing(tenant_id, row.signing))
            sealed = {"signing": self._rows.seal_signing(tenant_id, after)}
            values = sealed_as_the_database_is(connection, self._cipher, tenants, sealed, tenant_id)
            connection.execute(update(tenants).where(mine).values(values))
            return after

        return await self._change(change)

    async def put_account(self, account: Account, based_on: Account | None = None) -> Account:
        """See `Registry.put_account`."""

        def change(transaction: Transaction) -> Account:
            connection = transaction.connection
            mine = (accounts.c.tenant_id == account.tenant_id) & (accounts.c.id == account.id)
            key_of_the_database(connection, self._cipher)
            stored = self._load_accounts(connection, mine)
            if based_on is not None and not (stored and replace(stored[0], hold=based_on.hold) == based_on):
                raise Stale
            put = _with_current_refresh_token(account, stored[0]) if stored else account
            if put.is_default:
                connection.execute(
                    update(accounts).where(accounts.c.tenant_id == put.tenant_id).values(is_default=False)
                )
            values = sealed_as_the_database_is(
                connection, self._cipher, accounts, self._rows.account_values(put), put.tenant_id, put.id
            )
            if stored:
                connection.execute(update(accounts).where(mine).values(values))
            else:
                first = {"tenant_id": put.tenant_id, "id": put.id, "created_ts": self._clock.now()}
                connection.execute(insert(accounts).values(values | first))
            pk: int = connection.execute(select(accounts.c.pk).where(mine)).scalar_one()
            return replace(put, pk=pk, hold=None)

        return await self._change(change)

    async def replace_refresh_token(self, account_pk: int, used: OAuth, fresh: Secret) -> bool:
        """See `Registry.replace_refresh_token`."""

        def change(transaction: Transaction) -> bool:
            connection, mine = transaction.connection, accounts.c.pk == account_pk
            key_of_the_database(connection, self._cipher)
            row = connection.execute(select(accounts).where(mine)).first()
            stored = None if row is None else self._rows.account(row).oauth
            if row is None or stored is None or stored.grant != used.grant:
                return False
            if stored.refresh_token != used.refresh_token:
                return transaction.again and stored.refresh_token == fresh  # by the commit that this one repeats
            sealed = {"oauth": self._rows.seal_oauth(row.tenant_id, row.id, replace(stored, refresh_token=fresh))}
            values = sealed_as_the_database_is(connection, self._cipher, accounts, sealed, row.tenant_id, row.id)
            connection.execute(update(accounts).where(mine).values(values))
            return True

        return await self._change(change)

    async def delete_account(self, tenant_id: str, account_id: str, *, force: bool) -> bool:
        """See `Registry.delete_account`."""
        await self.refresh()
        account = await self.account_named(tenant_id, account_id)
        if account is None:
            return False
        now = self._clock.now()
        if force:
            if account.hold is None or account.hold.reason != BEING_DELETED:
                await self.set_hold(account.pk, Hold(BEING_DELETED, now))
            while await self._database.write(self._cancel_op, (account.pk, now)) == CANCELLED_AT_A_TIME:
                pass

        def change(transaction: Transaction) -> None:
            if force:  # what came meanwhile; from here to the end of the transaction nothing more comes
                self._cancel.run(transaction, [(account.pk, now)])
            _refuse_while_in_use(transaction.connection, account)
            forget_usage(transaction.connection, account_scope(account.pk))
            transaction.connection.execute(delete(accounts).where(accounts.c.pk == account.pk))

        await self._change(change)
        return True

    async def accounts_on_hold(self) -> Sequence[Account]:
        """See `Registry.accounts_on_hold`."""
        return await self._database.read(lambda c: self._load_accounts(c, accounts.c.hold_since.is_not(None)))

    async def set_hold(self, account_pk: int, hold: Hold | None) -> None:
        """See `Registry.set_hold`."""
        statement = (
            update(accounts)
            .where(accounts.c.pk == account_pk)
            .values(
                hold_reason=hold and hold.reason,
                hold_since=None if hold is None else func.coalesce(accounts.c.hold_since, hold.since),
            )
        )
        await self._change(lambda t: t.connection.execute(statement).rowcount)

    async def change_suspension(self, tenant_id: str, decide: Callable[[Suspension], Suspension]) -> Suspension | None:
        """See `Registry.change_suspension`."""

        def change(transaction: Transaction) -> Suspension | None:
            held = read_suspension(transaction.connection, tenant_id)
            if held is None:
                return None
            after = decide(held)
            write_suspension(transaction, tenant_id, held, after)
            return after

        return await self._change(change)

    async def free_poison(self, tenant_id: str) -> None:
        """See `Registry.free_poison`."""
        await self._change(lambda t: free_poison(t, tenant_id))

    async def change_instance_settings(
        self, decide: Callable[[InstanceSettings], InstanceSettings]
    ) -> InstanceSettings:
        """See `Registry.change_instance_settings`."""

        def change(transaction: Transaction) -> InstanceSettings:
            after = decide(read_instance_settings(transaction.connection))
            write_instance_settings(transaction, after)
            return after

        return await self._change(change)

    async def set_scheduler_active(self, *, active: bool) -> None:
        """See `Registry.set_scheduler_active`."""
        await self.change_instance_settings(lambda held: replace(held, scheduler_active=active))


def _run_changes(
    transaction: Transaction, changes: Sequence[Callable[[Transaction], Any]]
) -> Sequence[tuple[Any, int]]:
    connection = transaction.connection
    version = raise_version(connection)  # first: its lock puts changes by several instances in an order
    transaction.hints.add(Hint.DIRECTORY.value)
    results = [change(transaction) for change in changes]
    return [(result, version) for result in results]


def _with_current_refresh_token(account: Account, stored: Account) -> Account:
    """Keep the refresh token that the token server gave last, where nobody gives another one."""
    if account.oauth is None or stored.oauth is None or account.oauth.grant != stored.oauth.grant:
        return account
    return replace(account, oauth=replace(account.oauth, refresh_token=stored.oauth.refresh_token))


def _refuse_while_untold(transaction: Transaction, tenant_id: str) -> None:
    connection = transaction.connection
    unfinished = connection.execute(count_unfinished(transaction.dialect, tenant_id)).scalar_one()
    untold = select(events.c.event_id).where(events.c.tenant_id == tenant_id, events.c.reported_ts.is_(None))
    unreported = connection.execute(
        select(func.count()).select_from(untold.limit(MANY).subquery("untold"))
    ).scalar_one()
    if unfinished or unreported:
        raise Conflict(
            f"Tenant '{tenant_id}' has {_up_to_many(unfinished)} messages that are not finished, and "
            f"{_up_to_many(unreported)} events that were not reported: wait for them (where there is nobody to report "
            "to, cleanup-messages removes them), or delete it with force=true.",
            code="tenant_in_use",
        )


def _up_to_many(count: int) -> str:
    return f"{MANY} or more" if count >= MANY else str(count)


def _refuse_while_in_use(connection: Connection, account: Account) -> None:
    unfinished = select(messages.c.state).where(messages.c.account_pk == account.pk, messages.c.finished_ts.is_(None))
    sending = messages.c.state == MessageState.SENDING.value
    if connection.execute(unfinished.where(~sending).limit(1)).first() is not None:
        raise Conflict(
            f"messages wait for account '{account.id}'; let them go out, or delete it with force=true",
            code="account_in_use",
        )
    if connection.execute(unfinished.limit(1)).first() is not None:
        raise Conflict(
            f"a message of account '{account.id}' is being sent at this moment; try again shortly",
            code="account_in_use",
        )
