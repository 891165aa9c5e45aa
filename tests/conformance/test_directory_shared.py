"""Instances on one PostgreSQL database see each other's changes, and act on none that is out of date."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

import pytest

from mail_proxy.administration.scheduling import activated, suspended
from mail_proxy.domain.account import Account, Hold
from mail_proxy.domain.secret import Secret
from mail_proxy.domain.tenant import Suspension, Tenant
from mail_proxy.ports.queue import Stale
from mail_proxy.store.store import Store
from tests.conformance.steps import NOW
from tests.support.stores import a_message, enqueue, open_test_store, with_account

ACCOUNT = Account(0, "acme", "main", "mail.example.com", 25, is_default=True)


async def test_an_instance_sees_what_another_changed_once_it_has_looked(postgres_url: str) -> None:
    ours, theirs = await open_test_store(postgres_url), await open_test_store(postgres_url)
    account = await with_account(ours)
    await theirs.directory.refresh()
    assert await theirs.directory.account(account.pk) == account
    assert await theirs.directory.scheduler_active()

    hold = Hold("535", NOW)
    await ours.directory.set_hold(account.pk, hold)
    await ours.directory.change_suspension("acme", lambda _: Suspension(batches=frozenset({"spring"})))
    await ours.directory.set_scheduler_active(active=False)
    await with_account(ours, "acme", "second")
    assert theirs.directory.version < ours.directory.version
    assert await theirs.directory.refresh() == ours.directory.version

    assert await theirs.directory.account(account.pk) == replace(account, hold=hold)
    tenant = await theirs.directory.tenant("acme")
    assert tenant is not None
    assert tenant.suspension.batches == {"spring"}
    assert not await theirs.directory.scheduler_active()
    assert [a.id for a in await theirs.directory.accounts_of("acme")] == ["main", "second"]
    await theirs.close()
    await ours.close()


async def test_no_message_is_stored_on_settings_that_another_instance_has_changed(postgres_url: str) -> None:
    ours, theirs = await open_test_store(postgres_url), await open_test_store(postgres_url)
    account = await with_account(ours)
    await theirs.directory.refresh()
    await ours.directory.put_tenant(Tenant("acme", active=False), None)
    with pytest.raises(Stale):
        await enqueue(theirs, a_message("M1", account))
    assert await ours.archive.message("acme", "M1") is None
    await theirs.directory.refresh()
    assert await enqueue(theirs, a_message("M1", account)) == ["queued"]
    await theirs.close()
    await ours.close()


async def test_a_key_revoked_or_given_on_one_instance_counts_on_the_other_at_once(postgres_url: str) -> None:
    ours, theirs = await open_test_store(postgres_url), await open_test_store(postgres_url)
    await ours.directory.put_tenant(Tenant("acme"), "first")
    assert await theirs.directory.tenant_by_key("first") is not None
    await ours.directory.set_api_key("acme", "second", None)
    assert await theirs.directory.tenant_by_key("first") is None
    assert await theirs.directory.tenant_by_key("second") is not None
    await theirs.directory.set_api_key("acme", None, None)
    assert await ours.directory.tenant_by_key("second") is None
    await theirs.close()
    await ours.close()


async def test_a_signing_secret_made_on_one_instance_signs_on_the_other_from_then_on(postgres_url: str) -> None:
    ours, theirs = await open_test_store(postgres_url), await open_test_store(postgres_url)
    await ours.directory.put_tenant(Tenant("acme"), None)
    assert await theirs.directory.tenant("acme") is not None
    made = await ours.directory.change_signing("acme", lambda held: held.renewed(Secret("whsec_MQ=="), 1.0))
    await theirs.directory.refresh()
    tenant = await theirs.directory.tenant("acme")
    assert tenant is not None
    assert tenant.signing == made
    await theirs.close()
    await ours.close()


async def test_instances_that_change_the_directory_at_the_same_time_lose_nothing(postgres_url: str) -> None:
    ours, theirs = await open_test_store(postgres_url), await open_test_store(postgres_url)
    await ours.directory.put_tenant(Tenant("acme"), None)
    changes = [
        store.directory.put_account(replace(ACCOUNT, id=f"a{n}"))
        for n in range(10)
        for store in (ours, theirs)  # both create the same one
    ]
    answered = await asyncio.gather(*changes)
    assert len({account.pk for account in answered}) == 10
    await ours.directory.refresh()
    listed = await ours.directory.accounts_of("acme")
    assert {account.id for account in listed} == {f"a{n}" for n in range(10)}
    assert [account.is_default for account in listed].count(True) == 1
    await theirs.close()
    await ours.close()


async def test_instances_that_suspend_and_activate_at_the_same_time_undo_nothing_of_each_other(
    postgres_url: str,
) -> None:
    ours, theirs = await open_test_store(postgres_url), await open_test_store(postgres_url)
    await ours.directory.put_tenant(Tenant("acme"), None)
    await ours.directory.change_suspension("acme", lambda _: Suspension(batches=frozenset({"b0", "b1"})))
    freed = [theirs.directory.change_suspension("acme", partial(activated, batch_code=f"b{n}")) for n in range(2)]
    held = [
        store.directory.change_suspension("acme", partial(suspended, batch_code=f"b{2 * n + which}"))
        for n in range(1, 11)
        for which, store in enumerate((ours, theirs))
    ]
    await asyncio.gather(*held, *freed)
    await ours.directory.refresh()
    tenant = await ours.directory.tenant("acme")
    assert tenant is not None
    assert tenant.suspension.batches == {f"b{n}" for n in range(2, 22)}
    await theirs.close()
    await ours.close()


async def test_a_change_waits_its_turn_behind_a_stream_of_submissions_and_not_longer(postgres_url: str) -> None:
    ours, theirs = await open_test_store(postgres_url), await open_test_store(postgres_url)
    account = await with_account(ours)
    await theirs.directory.refresh()
    stop = asyncio.Event()

    async def submit(store: Store, client: int) -> int:
        stored = 0
        while not stop.is_set():
            try:
                stored += len(await enqueue(store, a_message(f"{client}-{stored}", account)))
            except Stale:
                await store.directory.refresh()
        return stored

    clients = [asyncio.create_task(submit((ours, theirs)[n % 2], n)) for n in range(8)]
    for n in range(10):
        await asyncio.wait_for((ours, theirs)[n % 2].directory.set_hold(account.pk, None), timeout=3)
    stop.set()
    assert sum(await asyncio.gather(*clients)) == await ours.queue.count_pending()
    await theirs.close()
    await ours.close()
