"""Tenants, accounts and suspensions are kept, sealed and shared on every database."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Column, Select, select, update
from structlog.testing import capture_logs

from mail_proxy.administration.accounts import PATIENCE, Accounts
from mail_proxy.administration.large_files import LargeFileRules
from mail_proxy.administration.requests import AccountIn, TenantChanges
from mail_proxy.administration.scheduling import activated, suspended
from mail_proxy.administration.tenants import Tenants
from mail_proxy.domain.account import Account, AuthMethod, Hold, OnUncertain, TlsMode
from mail_proxy.domain.errors import Conflict, Invalid, NotFound
from mail_proxy.domain.large_file import LargeFileConfig, StorageKind, StoragePlace
from mail_proxy.domain.message import MessageState
from mail_proxy.domain.oauth import OAuth
from mail_proxy.domain.report import EventType
from mail_proxy.domain.secret import Secret
from mail_proxy.domain.signing import OVERLAP, EarlierSecret, Signing
from mail_proxy.domain.tenant import ClientAuth, ClientAuthMethod, Suspension, Tenant, TenantSecret
from mail_proxy.ports.queue import Stale
from mail_proxy.store.schema import accounts, contents, events, messages, recipients, suspended_batches, tenants
from mail_proxy.store.store import Store
from tests.conformance.steps import ACCEPTED, NOW, attempt, claim, settle_all
from tests.support.stores import SetClock, a_message, enqueue, open_test_store, with_account

ACCOUNT = Account(
    pk=0,
    tenant_id="acme",
    id="main",
    host="mail.example.com",
    port=465,
    user="robot@example.com",
    password=Secret("pass word ✓"),
    auth=AuthMethod.LOGIN,
    tls=TlsMode.IMPLICIT,
    verify_tls=False,
    ttl=12.5,
    max_connections=7,
    batch_size=20,
    on_uncertain=OnUncertain.FAIL,
    is_default=True,
)

WITH_OAUTH = replace(
    ACCOUNT,
    password=None,
    auth=AuthMethod.XOAUTH2,
    oauth=OAuth("https://login.example/token", "app", Secret("secret"), Secret("R1"), "g1", "mail.send"),
    host_by_tenant=True,
    token_url_by_tenant=True,
)


async def rows(store: Store, statement: Select[Any]) -> list[tuple[object, ...]]:
    """What stands in the tables."""
    return await store.database.read(lambda connection: [tuple(row) for row in connection.execute(statement)])


# -- tenants -------------------------------------------------------------------------------------------------------


async def test_a_tenant_is_created_once_and_then_updated(store: Store, clock: SetClock) -> None:
    tenant = Tenant(
        id="acme",
        name="Acme & Söhne",
        client_base_url="https://acme.example",
        client_sync_path="/sync",
        client_attachment_path="/files",
        client_auth=ClientAuth(ClientAuthMethod.BASIC, None, "proxy", Secret("")),
        active=False,
        on_uncertain=OnUncertain.FAIL,
    )
    assert await store.directory.put_tenant(tenant, None)
    assert await store.directory.tenant("acme") == replace(tenant, created_ts=clock.now())

    created = clock.now()
    clock.time += 60
    bearer = ClientAuth(ClientAuthMethod.BEARER, Secret("t0ken"))
    assert not await store.directory.put_tenant(replace(tenant, active=True, client_auth=bearer), "a new key's hash")
    updated = await store.directory.tenant("acme")
    assert updated == replace(tenant, active=True, client_auth=bearer, created_ts=created)
    assert await store.directory.tenant_by_key("a new key's hash") is None  # a key is given on creation only


async def test_an_update_leaves_key_and_suspension_alone(store: Store) -> None:
    await store.directory.put_tenant(Tenant("acme"), "hash")
    await store.directory.change_suspension("acme", lambda _: Suspension(True, frozenset({"spring"})))
    await store.directory.put_tenant(Tenant("acme", name="other"), None)
    keyed = await store.directory.tenant_by_key("hash")
    assert keyed is not None
    assert keyed.tenant.name == "other"
    assert keyed.tenant.suspension == Suspension(True, frozenset({"spring"}))


async def test_tenants_are_listed_by_id(store: Store) -> None:
    for id_ in ("zeta", "Beta", "alpha"):
        await store.directory.put_tenant(Tenant(id_), None)
    await store.directory.change_suspension("zeta", lambda _: Suspension(batches=frozenset({"spring"})))
    listed = await store.directory.tenants()
    assert [tenant.id for tenant in listed] == ["Beta", "alpha", "zeta"]
    assert [tenant.suspension.batches for tenant in listed] == [frozenset(), frozenset(), {"spring"}]


async def test_the_only_tenant_is_named_while_it_is_the_only_one(store: Store) -> None:
    assert await store.directory.only_tenant() is None
    await store.directory.put_tenant(Tenant("acme"), None)
    assert await store.directory.only_tenant() == "acme"
    await store.directory.put_tenant(Tenant("other"), None)
    assert await store.directory.only_tenant() is None
    await store.directory.delete_tenant("acme", force=False)
    assert await store.directory.only_tenant() == "other"


async def test_what_was_unknown_is_found_once_it_exists(store: Store) -> None:
    assert await store.directory.tenant("acme") is None
    assert await store.directory.account(1) is None
    assert await store.directory.account_owners("main") == ()
    assert await store.directory.accounts_of("acme") == ()
    assert await store.directory.account_named("acme", "main") is None
    account = await with_account(store)
    assert await store.directory.tenant("acme") is not None
    assert await store.directory.account(account.pk) == account
    assert await store.directory.account_owners("main") == ("acme",)
    assert await store.directory.accounts_of("acme") == (account,)
    assert await store.directory.account_named("acme", "main") == account


async def test_an_account_is_named_within_its_tenant(store: Store) -> None:
    account, other = await with_account(store, "acme"), await with_account(store, "other")
    assert account.id == other.id
    assert await store.directory.account_named("acme", account.id) == account
    assert await store.directory.account_named("other", account.id) == other
    assert await store.directory.account_named("third", account.id) is None
    for hostile in ("", "\0", "main\0", "\ud800", "ma\u0131n", "a" * 100_000):
        assert await store.directory.account_named("acme", hostile) is None
    changed = await store.directory.put_account(replace(account, host="elsewhere.example"))
    assert await store.directory.account_named("acme", account.id) == changed
    await store.directory.delete_account("acme", account.id, force=False)
    assert await store.directory.account_named("acme", account.id) is None
    assert await store.directory.account_named("other", account.id) == other


async def test_a_deleted_tenant_leaves_nothing(store: Store) -> None:
    account, other = await with_account(store, "acme"), await with_account(store, "other")
    await store.directory.change_suspension("acme", lambda _: Suspension(batches=frozenset({"spring"})))
    await enqueue(store, a_message("M1", account), a_message("M1", other))
    await attempt(store, account, ACCEPTED)
    told = await store.outbox.pending("acme", 10)
    await store.outbox.acknowledge([event.event_id for event in told], NOW)

    assert await store.directory.delete_tenant("acme", force=False)
    assert not await store.directory.delete_tenant("acme", force=False)
    assert await store.directory.tenant("acme") is None
    assert await store.directory.account(account.pk) is None
    left = {table.name: await rows(store, select(table)) for table in (events, suspended_batches)}
    assert left == {"events": [], "suspended_batches": []}
    for table in (messages, contents, recipients, tenants, accounts):
        assert len(await rows(store, select(table))) == 1, table.name  # the other tenant's
    assert len(await claim(store, other)) == 1


@pytest.mark.parametrize("state", ["unfinished", "unreported"])
async def test_a_tenant_with_messages_to_send_or_to_report_is_not_deleted(store: Store, state: str) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account))
    if state == "unreported":
        await attempt(store, account, ACCEPTED)
    before = store.directory.version
    with pytest.raises(Conflict, match="force=true") as refusal:  # G9
        await store.directory.delete_tenant("acme", force=False)
    assert refusal.value.code == "tenant_in_use"
    tenant = await store.directory.tenant("acme")
    assert tenant is not None
    assert tenant.active
    assert (store.directory.version, await store.directory.refresh()) == (before, before)

    assert await store.directory.delete_tenant("acme", force=True)
    assert await store.archive.message("acme", "M1") is None
    assert await store.outbox.pending("acme", 10) == []


async def test_a_tenant_with_many_messages_is_deleted_in_chunks(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, *(a_message(f"M{n}", account) for n in range(1_200)))
    assert await store.directory.delete_tenant("acme", force=True)
    assert await store.queue.count_pending() == 0
    assert await rows(store, select(recipients.c.n)) == []


async def test_what_others_have_set_of_a_tenant_meanwhile_stays(store: Store) -> None:
    bearer = ClientAuth(ClientAuthMethod.BEARER, Secret("t0ken"))
    await store.directory.put_tenant(Tenant("acme", name="Acme", client_auth=bearer), "hash")
    before = await store.directory.tenant("acme")
    assert before is not None
    other = ClientAuth(ClientAuthMethod.BEARER, Secret("another"))
    await store.directory.put_tenant(replace(before, active=False, client_auth=other), None, before)
    await store.directory.set_api_key("acme", "new hash", NOW + 2)
    await store.directory.put_tenant(replace(before, name="ACME"), None, before)
    after = await store.directory.tenant("acme")
    assert after is not None
    assert (after.name, after.active, after.client_auth, after.api_key_expires_at) == ("ACME", False, other, NOW + 2)


async def test_a_secret_that_is_given_anew_stays_whatever_else_is_changed_meanwhile(store: Store) -> None:
    bearer = ClientAuth(ClientAuthMethod.BEARER, Secret("t0ken"))
    await store.directory.put_tenant(Tenant("acme", client_auth=bearer), None)
    with store.database.engine.begin() as connection:
        connection.execute(update(tenants).values(client_auth="sealed[elsewhere]x"))
    await store.directory.put_tenant(Tenant("acme", unreadable=frozenset({TenantSecret.CLIENT_AUTH})), None)
    before = await store.directory.tenant("acme")
    assert before is not None
    assert before.unreadable == {TenantSecret.CLIENT_AUTH}
    await store.directory.put_tenant(replace(before, client_auth=bearer, unreadable=frozenset()), None, before)
    await store.directory.put_tenant(replace(before, name="ACME"), None, before)
    after = await store.directory.tenant("acme")
    assert after is not None
    assert (after.name, after.client_auth, after.unreadable) == ("ACME", bearer, frozenset())
    # to do without is to give it anew, too
    await store.directory.put_tenant(replace(before, unreadable=frozenset()), None, before)
    after = await store.directory.tenant("acme")
    assert after is not None
    assert (after.client_auth, after.unreadable) == (ClientAuth(), frozenset())


async def test_a_tenant_that_was_removed_is_not_made_anew_by_a_change_of_it(store: Store) -> None:
    await store.directory.put_tenant(Tenant("acme"), "hash")
    before = await store.directory.tenant("acme")
    assert before is not None
    await store.directory.delete_tenant("acme", force=True)
    with pytest.raises(Stale):
        await store.directory.put_tenant(replace(before, name="ACME"), None, before)
    assert await store.directory.tenant("acme") is None


# -- keys ----------------------------------------------------------------------------------------------------------


async def test_a_new_key_ends_the_old_one_at_once(store: Store) -> None:
    await store.directory.put_tenant(Tenant("acme", api_key_expires_at=NOW + 1), "first")
    keyed = await store.directory.tenant_by_key("first")
    assert keyed is not None
    assert (keyed.tenant.id, keyed.tenant.has_api_key, keyed.expires_at) == ("acme", True, NOW + 1)

    assert await store.directory.set_api_key("acme", "second", NOW + 2)
    assert await store.directory.tenant_by_key("first") is None
    keyed = await store.directory.tenant_by_key("second")
    assert keyed is not None
    assert keyed.expires_at == NOW + 2


async def test_a_revoked_key_opens_nothing(store: Store) -> None:
    await store.directory.put_tenant(Tenant("acme"), "hash")
    assert await store.directory.tenant_by_key("hash") is not None
    assert await store.directory.set_api_key("acme", None, None)
    assert await store.directory.tenant_by_key("hash") is None
    tenant = await store.directory.tenant("acme")
    assert tenant is not None
    assert not tenant.has_api_key


async def test_signing_secrets_are_kept_whatever_else_is_changed(store: Store) -> None:
    before = Tenant("acme")
    await store.directory.put_tenant(before, None)
    first, second = Secret("whsec_MQ=="), Secret("whsec_Mg==")
    await store.directory.change_signing("acme", lambda held: held.renewed(first, NOW))
    after = await store.directory.change_signing("acme", lambda held: held.renewed(second, NOW))
    assert after == Signing(second, (EarlierSecret(first, NOW + OVERLAP),))
    await store.directory.put_tenant(replace(before, name="by somebody who knew of no secret"), None)
    tenant = await store.directory.tenant("acme")
    assert tenant is not None
    assert tenant.signing == after
    assert await store.directory.change_signing("acme", lambda _: Signing()) == Signing()
    tenant = await store.directory.tenant("acme")
    assert tenant is not None
    assert tenant.signing == Signing()
    assert await store.directory.change_signing("nobody", lambda held: held) is None


async def test_unknown_keys_and_tenants_are_said_to_be_unknown(store: Store) -> None:
    assert await store.directory.tenant_by_key("nobody's") is None
    assert not await store.directory.set_api_key("nobody", "hash", None)
    assert not await store.directory.delete_tenant("nobody", force=True)
    assert not await store.directory.delete_account("nobody", "main", force=True)


async def test_the_key_of_a_deleted_tenant_opens_nothing(store: Store) -> None:
    await store.directory.put_tenant(Tenant("acme"), "hash")
    await store.directory.delete_tenant("acme", force=True)
    assert await store.directory.tenant_by_key("hash") is None


# -- accounts ------------------------------------------------------------------------------------------------------


async def test_an_account_keeps_all_its_settings(store: Store) -> None:
    await store.directory.put_tenant(Tenant("acme"), None)
    created = await store.directory.put_account(ACCOUNT)
    assert created == replace(ACCOUNT, pk=created.pk)
    assert created.pk > 0
    assert await store.directory.account(created.pk) == created

    changed = replace(ACCOUNT, host="other.example.com", password=None, user=None, batch_size=None)
    assert await store.directory.put_account(changed) == replace(changed, pk=created.pk)
    assert await store.directory.account(created.pk) == replace(changed, pk=created.pk)
    assert await store.directory.put_account(WITH_OAUTH) == replace(WITH_OAUTH, pk=created.pk)
    assert await store.directory.account(created.pk) == replace(WITH_OAUTH, pk=created.pk)


async def test_accounts_are_listed_oldest_first_and_tenants_do_not_see_each_others(store: Store) -> None:
    for tenant_id, account_id in (("acme", "z"), ("other", "z"), ("acme", "a")):
        await with_account(store, tenant_id, account_id)
    assert [account.id for account in await store.directory.accounts_of("acme")] == ["z", "a"]
    assert [account.id for account in await store.directory.accounts_of("other")] == ["z"]
    assert sorted(await store.directory.account_owners("z")) == ["acme", "other"]
    assert await store.directory.account_owners("a") == ("acme",)


async def test_a_change_that_was_made_from_what_is_no_more_is_made_anew(store: Store) -> None:
    account = await with_account(store)
    await store.directory.set_hold(account.pk, Hold("535", NOW))  # is no change of the account
    changed = await store.directory.put_account(replace(account, ttl=5.0), account)
    with pytest.raises(Stale):
        await store.directory.put_account(replace(account, host="evil.example"), account)
    with pytest.raises(Stale):
        await store.directory.put_account(account, replace(account, id="gone"))
    assert await store.directory.account(account.pk) == changed


async def test_of_many_that_become_the_default_at_once_one_is(store: Store) -> None:
    await store.directory.put_tenant(Tenant("acme"), None)
    accounts_of = Accounts(store.directory, store.directory, lambda _: None, lambda _: None, SetClock())
    for n in range(6):
        await accounts_of.put("acme", AccountIn(id=f"a{n}", host="smtp.example.com", port=25), by_tenant=True)
    wishes = [AccountIn(id=f"a{n}", is_default=True) for n in range(6)]
    # Changes of something else do not bring back what the account was when they began.
    others = [AccountIn(id=f"a{n}", ttl=float(n + 1)) for n in range(6)]
    await asyncio.gather(
        *(accounts_of.put("acme", each, by_tenant=n % 2 == 0) for n, each in enumerate(wishes + others))
    )
    found = await store.directory.accounts_of("acme")
    assert len([each for each in found if each.is_default]) == 1
    assert [each.ttl for each in found] == [n + 1 for n in range(6)]


async def test_a_refresh_token_is_replaced_only_where_it_is_the_one_that_was_used(store: Store) -> None:
    await store.directory.put_tenant(Tenant("acme"), None)
    account = await store.directory.put_account(WITH_OAUTH)
    oauth = account.oauth
    assert oauth is not None
    assert await store.directory.replace_refresh_token(account.pk, oauth, Secret("R2"))
    assert not await store.directory.replace_refresh_token(account.pk, oauth, Secret("R3"))
    assert not await store.directory.replace_refresh_token(account.pk + 99, oauth, Secret("R3"))

    async def kept() -> str:
        stands = await store.directory.account(account.pk)
        assert stands is not None
        assert stands.oauth is not None
        return stands.oauth.refresh_token.reveal()

    assert await kept() == "R2"
    await store.directory.put_account(replace(account, oauth=replace(oauth, scope=None)))  # from before
    assert await kept() == "R2"
    await store.directory.put_account(replace(account, oauth=replace(oauth, grant="g2")))
    assert await kept() == "R1"
    assert not await store.directory.replace_refresh_token(account.pk, oauth, Secret("R2"))
    await store.directory.put_account(replace(account, oauth=None))
    assert not await store.directory.replace_refresh_token(account.pk, oauth, Secret("R2"))


async def test_there_is_one_default_account_and_it_moves(store: Store) -> None:
    await with_account(store, "acme", "first", is_default=True)
    await with_account(store, "other", "theirs", is_default=True)
    await with_account(store, "acme", "second", is_default=True)
    assert [a.id for a in await store.directory.accounts_of("acme") if a.is_default] == ["second"]
    assert [a.id for a in await store.directory.accounts_of("other") if a.is_default] == ["theirs"]
    await with_account(store, "acme", "second", is_default=False)
    assert not any(a.is_default for a in await store.directory.accounts_of("acme"))


async def test_a_hold_lasts_until_it_is_ended_or_the_account_is_changed(store: Store) -> None:
    account = await with_account(store)
    hold = Hold("535 5.7.8 wrong password", NOW)
    await store.directory.set_hold(account.pk, hold)
    assert await store.directory.account(account.pk) == replace(account, hold=hold)  # G8
    await store.directory.set_hold(account.pk, None)
    assert await store.directory.account(account.pk) == account
    await store.directory.set_hold(account.pk, hold)
    assert await store.directory.put_account(replace(account, hold=hold)) == account
    assert await store.directory.account(account.pk) == account


async def test_an_account_that_messages_wait_for_is_not_deleted(store: Store) -> None:
    account, other = await with_account(store), await with_account(store, account_id="other")
    await enqueue(store, a_message("M1", account), a_message("M2", other))
    with pytest.raises(Conflict, match="messages wait for account 'main'") as refusal:
        await store.directory.delete_account("acme", "main", force=False)
    assert refusal.value.code == "account_in_use"
    await attempt(store, account, ACCEPTED)
    assert await store.directory.delete_account("acme", "main", force=False)
    assert not await store.directory.delete_account("acme", "main", force=False)
    assert await store.directory.account(account.pk) is None
    details = await store.archive.message("acme", "M1")
    assert details is not None
    assert details.account_id == "main"  # told also when it is gone


async def test_force_cancels_what_waits_and_reports_it(store: Store) -> None:
    account, other = await with_account(store), await with_account(store, account_id="other")
    ready = [a_message(f"M{n}", account) for n in range(600)]
    later = a_message("later", account, due=NOW + 100)
    held = a_message("held", account, batch_code="spring")
    await enqueue(store, *ready, later, held, a_message("spared", other))
    await store.directory.change_suspension("acme", lambda _: Suspension(batches=frozenset({"spring"})))
    taken = await claim(store, account, 700)
    assert len(taken) == 600  # the one of the suspended batch was set aside
    await store.queue.release(taken)

    assert await store.directory.delete_account("acme", "main", force=True)
    for id_ in ("M0", "M599", "later", "held"):
        details = await store.archive.message("acme", id_)
        assert details is not None
        assert (details.state, details.reply) == (MessageState.CANCELLED, "the account was deleted")
    told = await store.outbox.pending("acme", 1_000)
    assert [event.event.type for event in told] == [EventType.CANCELLED] * 602  # G9
    assert await store.archive.pending("acme") == 1


async def test_what_is_being_sent_is_waited_for_before_an_account_goes_by_force_but_not_for_ever(
    store: Store,
) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account))
    claimed = await claim(store, account, 1)
    clock = SetClock()
    changes = Accounts(store.directory, store.directory, lambda _: None, lambda _: None, clock)
    with pytest.raises(Conflict, match="being sent at this moment"):
        await changes.delete("acme", "main", force=True)
    assert PATIENCE - 1 <= sum(clock.slept) <= PATIENCE
    before = store.directory.version
    with pytest.raises(Conflict):
        await changes.delete("acme", "main", force=True)
    assert store.directory.version == before  # others do not read everything anew each time

    class Settling(SetClock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            if len(self.slept) == 1:
                await store.queue.release(claimed)

    changes = Accounts(store.directory, store.directory, lambda _: None, lambda _: None, Settling())
    await changes.delete("acme", "main", force=True)
    assert await store.directory.account(account.pk) is None
    details = await store.archive.message("acme", "M1")
    assert details is not None
    assert details.state is MessageState.CANCELLED


async def test_an_account_made_anew_stays_while_the_one_before_it_is_being_removed_twice(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account))
    claimed = await claim(store, account, 1)

    class RemovedByAnother(SetClock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            if len(self.slept) == 1:
                await settle_all(store, claimed, ACCEPTED)
                assert await store.directory.delete_account("acme", "main", force=True)
                await with_account(store)

    clock = RemovedByAnother()
    changes = Accounts(store.directory, store.directory, lambda _: None, lambda _: None, clock)
    await changes.delete("acme", "main", force=True)
    assert len(clock.slept) == 1
    anew = await store.directory.account_named("acme", "main")
    assert anew is not None
    assert anew.pk != account.pk
    await changes.delete("acme", "main", force=True)
    with pytest.raises(NotFound):
        await changes.delete("acme", "main", force=True)


async def test_an_account_in_the_middle_of_a_delivery_is_not_deleted_even_by_force(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, a_message("M1", account), a_message("M2", account))
    claimed = await claim(store, account, 1)
    with pytest.raises(Conflict, match="being sent at this moment") as refusal:
        await store.directory.delete_account("acme", "main", force=True)
    assert refusal.value.code == "account_in_use"
    assert await claim(store, account, token="t2") == []  # nothing more is taken up meanwhile
    await settle_all(store, claimed, ACCEPTED)
    assert await store.directory.delete_account("acme", "main", force=True)


# -- secrets -------------------------------------------------------------------------------------------------------


async def test_secrets_stand_sealed_in_the_database_each_bound_to_its_place(store: Store) -> None:
    bearer = ClientAuth(ClientAuthMethod.BEARER, Secret("t0ken"))
    await store.directory.put_tenant(Tenant("acme", client_auth=bearer), None)
    await store.directory.put_account(ACCOUNT)
    ((password,),) = await rows(store, select(accounts.c.password))
    assert password == "sealed[accounts.password/acme/main]pass word ✓"  # G16
    await store.directory.put_account(WITH_OAUTH)
    ((oauth,),) = await rows(store, select(accounts.c.oauth))
    assert str(oauth).startswith("sealed[accounts.oauth/acme/main]")
    ((client_auth,),) = await rows(store, select(tenants.c.client_auth))
    assert str(client_auth).startswith("sealed[tenants.client_auth/acme]")
    assert '"t0ken"' in str(client_auth)


async def test_a_secret_moved_to_another_place_is_not_opened(store: Store) -> None:
    await store.directory.put_tenant(Tenant("acme"), None)
    account = await store.directory.put_account(ACCOUNT)
    await store.directory.put_tenant(Tenant("other"), None)
    await store.directory.put_account(replace(ACCOUNT, tenant_id="other", password=Secret("theirs")))
    stolen = select(accounts.c.password).where(accounts.c.tenant_id == "other").scalar_subquery()
    with store.database.engine.begin() as connection:
        connection.execute(update(accounts).where(accounts.c.pk == account.pk).values(password=stolen))
    found = await store.directory.account(account.pk)
    assert found == replace(account, password=None, unreadable=True)


@pytest.mark.parametrize("before", [ACCOUNT, WITH_OAUTH], ids=["password", "oauth"])
async def test_a_secret_that_no_key_opens_is_replaced_by_a_new_one_and_by_nothing_less(
    store: Store, before: Account
) -> None:
    await store.directory.put_tenant(Tenant("acme"), None)
    account = await store.directory.put_account(before)
    with store.database.engine.begin() as connection:
        for column in (accounts.c.password, accounts.c.oauth):
            connection.execute(update(accounts).where(column.is_not(None)).values({column: "sealed[elsewhere]x"}))
    changes = Accounts(store.directory, store.directory, lambda _: None, lambda _: None, SetClock())
    assert (await changes.of("acme"))[0].unreadable
    for less in ({"ttl": 5}, {"host": "evil.example"}, {"oauth": {"scope": "x"}} if before.oauth else {"user": "x"}):
        with pytest.raises(Invalid, match="must be given again, because"):
            await changes.put("acme", AccountIn.model_validate({"id": "main", **less}), by_tenant=False)
    oauth = {"token_url": "https://login.example/token", "client_id": "app", "client_secret": "s", "refresh_token": "r"}
    new = {"password": "new"} if before.oauth is None else {"oauth": oauth}
    assert not await changes.put("acme", AccountIn.model_validate({"id": "main", **new}), by_tenant=False)
    found = await store.directory.account(account.pk)
    assert found is not None
    assert not found.unreadable
    assert found.password == (Secret("new") if before.oauth is None else None)
    assert (found.oauth is None) == (before.oauth is None)
    assert (found.user, found.ttl) == (account.user, account.ttl)


WITH_SECRETS = Tenant(
    "acme",
    client_auth=ClientAuth(ClientAuthMethod.BEARER, token=Secret("t0ken")),
    large_files=LargeFileConfig(storage=StoragePlace(StorageKind.S3, "s3://files/x", {"region": Secret("r")})),
)


async def lose(store: Store, *columns: Column[Any]) -> None:
    """Have these texts stand as if they were sealed for another place."""
    with store.database.engine.begin() as connection:
        connection.execute(update(tenants).values(dict.fromkeys(columns, "sealed[elsewhere]x")))


def administration(store: Store) -> Tenants:
    return Tenants(
        store.directory,
        store.directory,
        SetClock(),
        lambda: "token",
        lambda token: token,
        lambda: Secret("whsec_bmV3"),
        LargeFileRules(lambda _: None, has_public_url=True),
    )


async def test_secrets_of_a_tenant_that_no_key_opens_are_named_and_kept_until_they_are_given_anew(
    store: Store,
) -> None:
    await store.directory.put_tenant(WITH_SECRETS, None)
    await store.directory.put_tenant(Tenant("other"), None)
    changes = administration(store)
    await changes.new_signing_secret("acme")
    await lose(store, tenants.c.client_auth, tenants.c.signing, tenants.c.large_files)
    await store.directory.put_account(ACCOUNT)  # so that it is read anew
    everybody = {tenant.id: tenant for tenant in await store.directory.tenants()}
    assert everybody["acme"].unreadable == frozenset(TenantSecret)
    assert (everybody["acme"].client_auth, everybody["acme"].signing) == (ClientAuth(), Signing())

    await changes.update("acme", TenantChanges(name="ACME"))
    stays = select(tenants.c.name, tenants.c.client_auth, tenants.c.signing, tenants.c.large_files)
    assert ("ACME", *["sealed[elsewhere]x"] * 3) in await rows(store, stays)
    with pytest.raises(Invalid, match="must be given again, or null, because"):
        await changes.update(
            "acme", TenantChanges.model_validate({"large_file_config": {"storage_url": "s3://files/y"}})
        )

    auth = {"method": "bearer", "token": "new"}
    await changes.update("acme", TenantChanges.model_validate({"client_auth": auth}))
    assert (await changes.get("acme")).unreadable == {TenantSecret.SIGNING, TenantSecret.LARGE_FILES}
    assert (await changes.get("acme")).client_auth == ClientAuth(ClientAuthMethod.BEARER, token=Secret("new"))
    assert await changes.new_signing_secret("acme") == ("whsec_bmV3", None)
    assert (await changes.get("acme")).unreadable == {TenantSecret.LARGE_FILES}
    config = {"storage_url": "s3://files/y", "credentials": None}
    await changes.update("acme", TenantChanges.model_validate({"large_file_config": config}))
    assert (await changes.get("acme")).unreadable == frozenset()
    await lose(store, tenants.c.signing)
    await changes.stop_signing("acme")
    assert (await changes.get("acme")).signing == Signing()


async def test_lost_secrets_of_a_tenant_are_logged_once_and_not_each_time_they_are_read(store: Store) -> None:
    await store.directory.put_tenant(WITH_SECRETS, None)
    await lose(store, tenants.c.client_auth)
    with capture_logs() as logs:
        for _ in range(5):
            await store.directory.tenants()
        assert [line["places"] for line in logs] == [["client_auth of tenant acme"]]
        await lose(store, tenants.c.client_auth, tenants.c.large_files)
        await store.directory.tenants()
    assert logs[-1]["places"] == ["client_auth of tenant acme", "large_file_config of tenant acme"]


async def test_a_refresh_token_that_no_key_opens_is_not_replaced(store: Store) -> None:
    await store.directory.put_tenant(Tenant("acme"), None)
    account = await store.directory.put_account(WITH_OAUTH)
    assert account.oauth is not None
    with store.database.engine.begin() as connection:
        connection.execute(update(accounts).values(oauth="sealed[elsewhere]x"))
    assert not await store.directory.replace_refresh_token(account.pk, account.oauth, Secret("R2"))


# -- suspensions and the scheduler -----------------------------------------------------------------------------------


async def change_to(store: Store, suspension: Suspension) -> Suspension | None:
    return await store.directory.change_suspension("acme", lambda _: suspension)


async def test_suspensions_are_read_as_they_were_set(store: Store) -> None:
    await store.directory.put_tenant(Tenant("acme"), None)
    await store.directory.put_tenant(Tenant("other"), None)
    for suspension in (
        Suspension(batches=frozenset({"spring", "autumn"})),
        Suspension(whole_tenant=True, batches=frozenset({"spring", "autumn"})),
        Suspension(batches=frozenset({"autumn"})),
        Suspension(batches=frozenset({"autumn", "spring"})),
        Suspension(),
    ):
        assert await change_to(store, suspension) == suspension
        tenant, other = await store.directory.tenant("acme"), await store.directory.tenant("other")
        assert tenant is not None
        assert other is not None
        assert (tenant.suspension, other.suspension) == (suspension, Suspension())


async def test_what_is_held_is_decided_on_what_is_held_by_then(store: Store) -> None:
    await store.directory.put_tenant(Tenant("acme"), None)
    changes = [store.directory.change_suspension("acme", partial(suspended, batch_code=f"b{n}")) for n in range(20)]
    answered = await asyncio.gather(*changes)
    assert sorted(len(held.batches) for held in answered if held is not None) == list(range(1, 21))
    await store.directory.change_suspension("acme", partial(activated, batch_code="b7"))
    tenant = await store.directory.tenant("acme")
    assert tenant is not None
    assert tenant.suspension.batches == {f"b{n}" for n in range(20)} - {"b7"}


async def test_a_change_of_suspensions_that_is_refused_changes_nothing_and_spoils_no_other(store: Store) -> None:
    await store.directory.put_tenant(Tenant("acme"), None)
    await store.directory.put_tenant(Tenant("other"), None)
    await change_to(store, Suspension(True, frozenset({"spring"})))
    refused, unknown, taken = await asyncio.gather(
        store.directory.change_suspension("acme", partial(activated, batch_code="spring")),
        store.directory.change_suspension("nobody", partial(suspended, batch_code=None)),
        store.directory.change_suspension("other", partial(suspended, batch_code="spring")),
        return_exceptions=True,
    )
    assert isinstance(refused, Conflict)
    assert (unknown, taken) == (None, Suspension(batches=frozenset({"spring"})))
    tenant = await store.directory.tenant("acme")
    assert tenant is not None
    assert tenant.suspension == Suspension(True, frozenset({"spring"}))


async def test_a_batch_suspended_again_while_it_is_being_freed_stays_where_it_is(store: Store) -> None:
    account = await with_account(store)
    await enqueue(store, *(a_message(f"M{n}", account, batch_code="spring") for n in range(4)))
    spring = Suspension(batches=frozenset({"spring"}))
    await store.directory.change_suspension("acme", lambda _: spring)
    assert await claim(store, account) == []
    await store.directory.change_suspension("acme", lambda _: Suspension())
    assert (await store.queue.unhold(2)).account_pks == {account.pk}

    await store.directory.change_suspension("acme", lambda _: spring)
    assert (await store.queue.unhold(2)).account_pks == frozenset()
    assert await claim(store, account) == []
    await store.directory.change_suspension("acme", lambda _: Suspension())
    while (await store.queue.unhold(2)).more:
        pass
    assert len(await claim(store, account)) == 4
    assert await rows(store, select(suspended_batches)) == []


async def test_the_scheduler_runs_until_it_is_stopped_also_over_a_restart(store_url: str) -> None:
    store = await open_test_store(store_url)
    assert await store.directory.scheduler_active()
    await store.directory.set_scheduler_active(active=False)
    assert not await store.directory.scheduler_active()
    await store.close()
    store = await open_test_store(store_url)
    assert not await store.directory.scheduler_active()
    await store.directory.set_scheduler_active(active=True)
    assert await store.directory.scheduler_active()
    await store.close()


# -- the version ---------------------------------------------------------------------------------------------------


async def test_every_change_raises_the_version_and_nothing_else_does(store: Store) -> None:
    directory = store.directory
    seen = [directory.version]
    account = await with_account(store)  # a tenant and an account: two changes
    seen.append(directory.version)
    for change in (
        directory.set_api_key("acme", "hash", None),
        directory.change_signing("acme", lambda held: held.renewed(Secret("whsec_MQ=="), NOW)),
        directory.set_hold(account.pk, Hold("535", 1.0)),
        directory.change_suspension("acme", lambda _: Suspension(True)),
        directory.set_scheduler_active(active=False),
        directory.delete_account("acme", "main", force=False),
    ):
        await change
        seen.append(directory.version)
    assert seen[1] == seen[0] + 2
    assert seen == sorted(set(seen))
    await directory.tenants()
    await directory.tenant_by_key("hash")
    await enqueue(store, a_message("M1", account))
    assert await directory.refresh() == directory.version == seen[-1]


async def test_changes_handed_over_together_are_all_made(store: Store) -> None:
    await store.directory.put_tenant(Tenant("acme"), None)
    before = store.directory.version
    await asyncio.gather(*(store.directory.put_account(replace(ACCOUNT, id=f"a{n}")) for n in range(20)))
    listed = await store.directory.accounts_of("acme")
    assert {account.id for account in listed} == {f"a{n}" for n in range(20)}
    assert [account.is_default for account in listed].count(True) == 1
    assert store.directory.version > before


async def test_a_change_whose_caller_is_gone_is_seen_by_all_who_look_and_so_is_the_next_one(store: Store) -> None:
    account = await with_account(store)

    async def set_and_leave(ttl: float) -> None:
        change = asyncio.create_task(store.directory.put_account(replace(account, ttl=ttl)))
        await asyncio.sleep(0)  # it is handed over
        change.cancel()
        await enqueue(store, a_message(f"M{ttl}", account))  # and committed before this, or with it

    for ttl in (7.0, 8.0, 9.0):
        await set_and_leave(ttl)
        await asyncio.gather(store.directory.refresh(), store.directory.refresh())
        found = await store.directory.account(account.pk)
        assert found is not None
        assert found.ttl == ttl


async def test_accounts_on_hold_are_found_over_all_tenants(store: Store) -> None:
    held = [await with_account(store, tenant_id) for tenant_id in ("acme", "other")]
    await with_account(store, "acme", "free")
    for account in held:
        await store.directory.set_hold(account.pk, Hold("535", 1.0))
    found = await store.directory.accounts_on_hold()
    assert [(each.tenant_id, each.id, each.hold) for each in found] == [
        ("acme", "main", Hold("535", 1.0)),
        ("other", "main", Hold("535", 1.0)),
    ]
    await store.directory.set_hold(held[0].pk, None)
    assert [each.tenant_id for each in await store.directory.accounts_on_hold()] == ["other"]


async def test_tenants_and_accounts_are_read_by_the_page(store: Store) -> None:
    made = [await with_account(store, "acme", id_) for id_ in ("c", "a", "b")]
    await with_account(store, "other")
    await with_account(store, "third")
    directory = store.directory
    assert await directory.accounts_after("acme", 0, 2) == made[:2]
    assert await directory.accounts_after("acme", made[1].pk, 2) == made[2:]
    assert await directory.accounts_after("nobody", 0, 2) == []
    assert [each.id for each in await directory.tenants_after(None, 2)] == ["acme", "other"]
    assert [each.id for each in await directory.tenants_after("acme", 5)] == ["other", "third"]
    assert await directory.tenants_after("third", 5) == []
