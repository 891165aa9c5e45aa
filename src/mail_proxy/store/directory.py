"""Tenants, accounts and suspensions: each change is a transaction, which raises the version that readers go by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from sqlalchemy import Connection, delete, func, insert, select, update

from mail_proxy.domain.account import Account, Hold
from mail_proxy.domain.instance import InstanceSettings
from mail_proxy.domain.oauth import OAuth
from mail_proxy.domain.secret import Secret
from mail_proxy.domain.signing import Signing
from mail_proxy.domain.tenant import Suspension, Tenant, with_changes
from mail_proxy.ports.clock import Clock
from mail_proxy.ports.queue import Stale
from mail_proxy.ports.secrets import Cipher
from mail_proxy.store.database import Database
from mail_proxy.store.directory_reading import DirectoryReading
from mail_proxy.store.files import forget_links
from mail_proxy.store.hints import Hint
from mail_proxy.store.in_use import refuse_while_in_use, refuse_while_untold
from mail_proxy.store.instance_settings import read_instance_settings, write_instance_settings
from mail_proxy.store.operation import Operation, Transaction
from mail_proxy.store.prepared import once
from mail_proxy.store.prune import Prune
from mail_proxy.store.removal import CHUNK as CANCELLED_AT_A_TIME
from mail_proxy.store.removal import CancelWaiting
from mail_proxy.store.schema import accounts, feed_horizons, sync_leases, tenants
from mail_proxy.store.sealed import key_of_the_database, sealed_as_the_database_is
from mail_proxy.store.suspensions import free_poison, read_suspension, write_suspension
from mail_proxy.store.usage import account_scope, forget_usage, tenant_scope
from mail_proxy.store.version import Changes, changes_since, raise_version, write_change

ResultT = TypeVar("ResultT")
CHUNK = 500
BEING_DELETED = "being deleted"


@dataclass(frozen=True, slots=True)
class _Change:
    """What is to be done, the version that its caller knows, and whom it concerns: see `StoreDirectory._change`."""

    run: Callable[[Transaction], Any]
    known: int
    tenant_id: str | None
    account_pk: int | None


class StoreDirectory(DirectoryReading):
    """Keeps the `Directory` and `Registry` ports on SQLite and PostgreSQL."""

    def __init__(self, database: Database, cipher: Cipher, clock: Clock) -> None:
        super().__init__(database, cipher, clock)
        self._cipher = cipher
        self._clock = clock
        self._change_op = Operation("directory", _run_changes, unanswered=self._lost_sight, rank=0)
        self._untold_keys: dict[str, set[str]] = {}
        prune, self._cancel = once(Prune, database.dialect), once(CancelWaiting, database.dialect)
        self._remove_tenant_op = Operation("remove_tenant", prune.remove_tenant)
        self._cancel_op = Operation("cancel", self._cancel.run)

    async def _change(
        self,
        change: Callable[[Transaction], ResultT],
        *,
        tenant_id: str | None = None,
        account_pk: int | None = None,
    ) -> ResultT:
        """Run a change in a transaction that also raises the version.

        It concerns the tenant, or the one of the account; without either, everybody.
        """
        asked = _Change(change, self._known.version, tenant_id, account_pk)
        outcome: tuple[ResultT, Changes] = await self._database.write(self._change_op, asked)
        result, changes = outcome
        self._known.see(changes)
        return result

    async def put_tenant(self, tenant: Tenant, api_key_hash: str | None, based_on: Tenant | None = None) -> bool:
        """See `Registry.put_tenant`.

        A tenant that was made by an earlier call which failed all the same counts as new: nobody was told its key.
        """
        untold = frozenset(self._untold_keys.get(tenant.id, ()))
        first = {
            "id": tenant.id,
            "suspended": False,
            "created_ts": self._clock.now(),
            "api_key_hash": api_key_hash,
        }

        def change(transaction: Transaction) -> bool:
            connection, mine = transaction.connection, tenants.c.id == tenant.id
            key_of_the_database(connection, self._cipher)
            put = tenant
            if based_on is not None:
                stored = self._load_tenants(connection, mine)
                if not stored:
                    raise Stale
                put = with_changes(stored[0], based_on, tenant)
            values = sealed_as_the_database_is(
                connection, self._cipher, tenants, self._rows.tenant_values(put), tenant.id
            )
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
            is_new = await self._change(change, tenant_id=tenant.id)
        except Stale:  # then nothing was written
            raise
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
                refuse_while_untold(transaction, tenant_id)
            stopped = update(tenants).where(tenants.c.id == tenant_id).values(active=False, api_key_hash=None)
            return transaction.connection.execute(stopped).rowcount > 0

        if not await self._change(deactivate, tenant_id=tenant_id):
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

        await self._change(remove, tenant_id=tenant_id)
        return True

    async def set_api_key(self, tenant_id: str, api_key_hash: str | None, expires_at: float | None) -> bool:
        """See `Registry.set_api_key`."""
        statement = (
            update(tenants)
            .where(tenants.c.id == tenant_id)
            .values(api_key_hash=api_key_hash, api_key_expires_at=expires_at)
        )
        return await self._change(lambda t: t.connection.execute(statement).rowcount > 0, tenant_id=tenant_id)

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

        return await self._change(change, tenant_id=tenant_id)

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

        return await self._change(change, tenant_id=account.tenant_id)

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

        return await self._change(change, account_pk=account_pk)

    async def delete_account(self, tenant_id: str, account_id: str, *, force: bool, pk: int | None = None) -> bool:
        """See `Registry.delete_account`."""
        await self.refresh()
        account = await self.account_named(tenant_id, account_id)
        if account is None or pk not in (None, account.pk):
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
            refuse_while_in_use(transaction.connection, account)
            forget_usage(transaction.connection, account_scope(account.pk))
            transaction.connection.execute(delete(accounts).where(accounts.c.pk == account.pk))

        await self._change(change, tenant_id=tenant_id)
        return True

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
        await self._change(lambda t: t.connection.execute(statement).rowcount, account_pk=account_pk)

    async def change_suspension(self, tenant_id: str, decide: Callable[[Suspension], Suspension]) -> Suspension | None:
        """See `Registry.change_suspension`."""

        def change(transaction: Transaction) -> Suspension | None:
            held = read_suspension(transaction.connection, tenant_id)
            if held is None:
                return None
            after = decide(held)
            write_suspension(transaction, tenant_id, held, after)
            return after

        return await self._change(change, tenant_id=tenant_id)

    async def free_poison(self, tenant_id: str) -> None:
        """See `Registry.free_poison`."""
        await self._change(lambda t: free_poison(t, tenant_id), tenant_id=tenant_id)

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


def _run_changes(transaction: Transaction, changes: Sequence[_Change]) -> Sequence[tuple[Any, Changes]]:
    connection = transaction.connection
    version = raise_version(connection)  # first: its lock puts changes by several instances in an order
    transaction.hints.add(Hint.DIRECTORY.value)
    whose = _whose(connection, changes)
    results = [change.run(transaction) for change in changes]
    write_change(connection, version, whose)
    known = min(change.known for change in changes)
    made = Changes(version, whose) if version == known + 1 else changes_since(connection, known)
    return [(result, made) for result in results]


def _whose(connection: Connection, changes: Sequence[_Change]) -> frozenset[str] | None:
    """Return the tenants that changes concern; None: all."""
    if any(change.tenant_id is None and change.account_pk is None for change in changes):
        return None
    pks = {change.account_pk for change in changes if change.account_pk is not None}
    owners = connection.execute(select(accounts.c.tenant_id).where(accounts.c.pk.in_(pks))).scalars() if pks else ()
    return frozenset({change.tenant_id for change in changes if change.tenant_id is not None} | set(owners))


def _with_current_refresh_token(account: Account, stored: Account) -> Account:
    """Keep the refresh token that the token server gave last, where nobody gives another one."""
    if account.oauth is None or stored.oauth is None or account.oauth.grant != stored.oauth.grant:
        return account
    return replace(account, oauth=replace(account.oauth, refresh_token=stored.oauth.refresh_token))
