"""An instance forgets what it has read of a tenant when that changes, and nothing of the others."""  # G11

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from mail_proxy.domain.account import Account, Hold
from mail_proxy.domain.oauth import OAuth
from mail_proxy.domain.secret import Secret
from mail_proxy.domain.tenant import Suspension, Tenant
from mail_proxy.store import version
from mail_proxy.store.operation import Operation
from mail_proxy.store.store import Store
from tests.support.stores import open_test_store, with_account


@pytest.fixture
async def ours(postgres_url: str) -> AsyncIterator[Store]:
    """The instance on which things are changed."""
    store = await open_test_store(postgres_url)
    yield store
    await store.close()


@pytest.fixture
async def theirs(ours: Store, postgres_url: str) -> AsyncIterator[Store]:
    """The instance that has to hear of it. No hint reaches it: it looks, as before each request."""
    store = await open_test_store(postgres_url)
    yield store
    await store.close()


async def read_all(store: Store, account: Account) -> None:
    """Have an instance know all that submissions of a tenant go by."""
    await store.directory.refresh()
    assert await store.directory.tenant(account.tenant_id) is not None
    assert await store.directory.account(account.pk) is not None
    assert await store.directory.account_named(account.tenant_id, account.id) is not None
    assert await store.directory.accounts_of(account.tenant_id)
    assert await store.directory.tenant_by_key(f"key of {account.tenant_id}") is not None
    await store.directory.instance_settings()


async def reads_of(store: Store, account: Account, monkeypatch: pytest.MonkeyPatch) -> int:
    """Count how often it looks into the database for these things now, but for the version."""
    read, count = store.database.read, 0

    async def counted(function: Callable[[Any], object]) -> object:
        nonlocal count
        count += 1
        return await read(function)

    async def known() -> int:
        return store.directory.version

    await store.directory.refresh()
    with monkeypatch.context() as patch:
        patch.setattr(store.database, "read", counted)
        patch.setattr(store.directory, "refresh", known)
        await read_all(store, account)
    return count


async def two_tenants(store: Store) -> tuple[Account, Account]:
    """Make two tenants, each with a key and an account."""
    for tenant_id in ("acme", "busy"):
        await store.directory.put_tenant(Tenant(tenant_id), f"key of {tenant_id}")
    oauth = OAuth("https://login.example/token", "app", Secret("secret"), Secret("R1"), "g1", "mail.send")
    return await with_account(store), await with_account(store, "busy", oauth=oauth)


Change = Callable[[Store, Account], Awaitable[object]]


def _other_refresh_token(store: Store, busy: Account) -> Awaitable[object]:
    assert busy.oauth is not None
    return store.directory.replace_refresh_token(busy.pk, busy.oauth, Secret("R2"))


CHANGES: dict[str, Change] = {
    "an account is set": lambda store, busy: store.directory.put_account(replace(busy, ttl=7.0)),
    "an account is made": lambda store, _: with_account(store, "busy", "second"),
    "the tenant is set": lambda store, _: store.directory.put_tenant(Tenant("busy", name="B"), None),
    "an account goes on hold": lambda store, busy: store.directory.set_hold(busy.pk, Hold("535", 1.0)),
    "a refresh token is replaced": _other_refresh_token,
    "a batch is held": lambda store, _: store.directory.change_suspension("busy", lambda _held: Suspension(True)),
    "poison is freed": lambda store, _: store.directory.free_poison("busy"),
    "a signing secret is made": lambda store, _: store.directory.change_signing(
        "busy", lambda held: held.renewed(Secret("whsec_MQ=="), 1.0)
    ),
    "the key is set anew": lambda store, _: store.directory.set_api_key("busy", "key of busy", 9e9),
}


@pytest.mark.parametrize("what", CHANGES)
async def test_a_tenant_s_change_makes_nobody_forget_another_tenant(
    ours: Store, theirs: Store, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme, busy = await two_tenants(ours)
    for store in (ours, theirs):
        await read_all(store, acme)
        await read_all(store, busy)
    before = ours.directory.version
    await CHANGES[what](ours, busy)
    assert ours.directory.version == before + 1
    for store in (ours, theirs):
        assert await reads_of(store, acme, monkeypatch) == 0
        assert await reads_of(store, busy, monkeypatch) == 4


async def test_an_account_deleted_and_its_tenant_deleted_and_made_anew_are_seen(ours: Store, theirs: Store) -> None:
    acme, busy = await two_tenants(ours)
    await read_all(theirs, acme)
    await read_all(theirs, busy)
    await ours.directory.delete_tenant("busy", force=True)
    await theirs.directory.refresh()
    assert await theirs.directory.tenant("busy") is None
    assert await theirs.directory.account(busy.pk) is None
    assert await theirs.directory.account_named("busy", "main") is None
    assert await theirs.directory.tenant_by_key("key of busy") is None
    await ours.directory.put_tenant(Tenant("busy", name="new"), "another key")
    anew = await with_account(ours, "busy")
    await theirs.directory.refresh()
    assert await theirs.directory.account_named("busy", "main") == anew != busy
    keyed = await theirs.directory.tenant_by_key("another key")
    assert keyed is not None
    assert keyed.tenant.name == "new"
    assert await theirs.directory.account(busy.pk) is None


async def test_a_tenant_deleted_and_made_anew_between_two_looks_is_read_anew(ours: Store, theirs: Store) -> None:
    acme, busy = await two_tenants(ours)
    await read_all(theirs, acme)
    await read_all(theirs, busy)
    await ours.directory.delete_tenant("busy", force=True)
    await ours.directory.put_tenant(Tenant("busy"), "key of busy")
    anew = await with_account(ours, "busy")
    await theirs.directory.refresh()
    assert await theirs.directory.accounts_of("busy") == (anew,)
    assert await theirs.directory.account(busy.pk) is None


READS: dict[str, Callable[[Store, Account], Awaitable[Any]]] = {
    "tenant": lambda store, _: store.directory.tenant("busy"),
    "account": lambda store, busy: store.directory.account(busy.pk),
    "account_named": lambda store, _: store.directory.account_named("busy", "main"),
    "accounts_of": lambda store, _: store.directory.accounts_of("busy"),
    "tenant_by_key": lambda store, _: store.directory.tenant_by_key("key of busy"),
    "owners": lambda store, _: store.directory.account_owners("main"),
    "only_tenant": lambda store, _: store.directory.only_tenant(),
}


@pytest.mark.parametrize("what", READS)
async def test_what_changes_while_it_is_being_read_is_not_kept_as_it_was(
    ours: Store, theirs: Store, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _acme, busy = await two_tenants(ours)
    await theirs.directory.refresh()
    read = theirs.database.read
    late = False

    async def answered_late(function: Callable[[Any], object]) -> object:
        nonlocal late
        found = await read(function)
        if not late and found and not _is_version(found):
            late = True
            await ours.directory.delete_tenant("busy", force=True)
            await ours.directory.put_tenant(Tenant("busy", name="new"), "key of busy")
            await with_account(ours, "busy")
            if what == "only_tenant":
                await ours.directory.delete_tenant("acme", force=True)
            if what == "owners":
                await ours.directory.delete_account("busy", "main", force=True)
            await theirs.directory.refresh()
        return found

    monkeypatch.setattr(theirs.database, "read", answered_late)
    before = await READS[what](theirs, busy)
    assert late
    assert await READS[what](theirs, busy) == await READS[what](ours, busy) != before


def _is_version(found: object) -> bool:
    return isinstance(found, version.Changes)


async def test_who_is_behind_by_more_than_is_kept_forgets_everything(
    ours: Store, theirs: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(version, "RING", 2)
    acme, busy = await two_tenants(ours)
    await read_all(theirs, acme)
    for _ in range(2):
        await ours.directory.put_account(busy)
    assert await reads_of(theirs, acme, monkeypatch) == 0
    await ours.directory.put_account(replace(acme, ttl=7.0))
    for _ in range(2):
        await ours.directory.put_account(busy)
    await theirs.directory.refresh()
    seen = await theirs.directory.account(acme.pk)
    assert seen is not None
    assert seen.ttl == 7.0


async def test_a_change_of_an_earlier_release_that_does_not_say_whose_it_is_makes_all_forget(
    ours: Store, theirs: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme, busy = await two_tenants(ours)
    await read_all(theirs, acme)

    def as_before(transaction: Any, asked: Any) -> list[None]:
        version.raise_version(transaction.connection)
        return [None for _ in asked]

    await ours.database.write(Operation("as_before", as_before), None)
    await ours.directory.put_account(busy)
    assert await reads_of(theirs, acme, monkeypatch) == 5


async def test_a_change_for_all_makes_all_forget(ours: Store, theirs: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    acme, _busy = await two_tenants(ours)
    await read_all(theirs, acme)
    await ours.directory.set_scheduler_active(active=False)
    assert await reads_of(theirs, acme, monkeypatch) == 5
    assert not await theirs.directory.scheduler_active()


async def test_one_s_own_change_shows_what_others_changed_before_it(ours: Store, theirs: Store) -> None:
    acme, busy = await two_tenants(ours)
    await read_all(theirs, acme)
    await ours.directory.put_account(replace(acme, ttl=7.0))
    await theirs.directory.put_account(replace(busy, ttl=8.0))  # without a look before
    assert theirs.directory.version == ours.directory.version + 1
    seen = await theirs.directory.account(acme.pk)
    assert seen is not None
    assert seen.ttl == 7.0
