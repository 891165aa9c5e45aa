"""What administration decides, and that what it changes at once adds up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mail_proxy.administration.account_rules import changed_account
from mail_proxy.administration.accounts import Accounts
from mail_proxy.administration.large_files import LargeFileRules
from mail_proxy.administration.requests import AccountIn, TenantChanges, TenantIn
from mail_proxy.administration.scheduling import activated, suspended
from mail_proxy.administration.tenants import Tenants, changed_tenant
from mail_proxy.administration.views import account_view, tenant_view
from mail_proxy.domain.account import Account, OnUncertain, TlsMode
from mail_proxy.domain.errors import Conflict, Invalid, NotFound
from mail_proxy.domain.secret import Secret
from mail_proxy.domain.tenant import ClientAuth, ClientAuthMethod, Suspension, Tenant
from mail_proxy.runtime.clock import SystemClock
from mail_proxy.secrets import tokens
from tests.support.api import Instance, running_instance

STORED = Account(
    pk=7,
    tenant_id="acme",
    id="main",
    host="smtp.example.com",
    port=587,
    user="u",
    password=Secret("stored"),
    tls=TlsMode.STARTTLS,
    ttl=10.0,
    max_connections=2,
    batch_size=5,
    on_uncertain=OnUncertain.FAIL,
    is_default=True,
)


def wanted(**fields: Any) -> AccountIn:
    return AccountIn.model_validate({"id": "main", **fields})


# -- accounts ----------------------------------------------------------------------------------------------------------


def test_a_change_of_nothing_changes_nothing() -> None:
    assert changed_account(STORED, "acme", wanted()) == STORED


@given(
    host=st.sampled_from([None, "smtp.example.com", "SMTP.EXAMPLE.COM", "evil.example", "smtp.example.com."]),
    port=st.sampled_from([None, 587, 25, 465]),
    others=st.fixed_dictionaries(
        {},
        optional={
            "user": st.sampled_from(["u", "v", None, ""]),
            "password": st.sampled_from(["new", None, ""]),
            "tls": st.sampled_from(["none", "auto", None]),
            "use_tls": st.sampled_from([True, False, None]),
            "verify_tls": st.booleans(),
            "ttl": st.sampled_from([0, 5.5, None]),
        },
    ),
)
def test_a_stored_password_goes_nowhere_else(host: str | None, port: int | None, others: dict[str, Any]) -> None:
    fields = others | ({} if host is None else {"host": host}) | ({} if port is None else {"port": port})
    try:
        account = changed_account(STORED, "acme", wanted(**fields))
    except Invalid:
        return
    assert (account.pk, account.tenant_id, account.id) == (7, "acme", "main")
    if account.password == Secret("stored"):
        assert (account.host.lower(), account.port) == ("smtp.example.com", 587)
    assert (account.user is None) == (account.password is None)


def test_a_new_account_has_the_defaults_of_the_domain_and_the_instances_sessions() -> None:
    account = changed_account(None, "acme", wanted(host="smtp.example.com", port=25), max_connections=9)
    assert account == Account(0, "acme", "main", "smtp.example.com", 25, max_connections=9)


def test_null_gives_the_default_back() -> None:
    fields = ("auth", "tls", "verify_tls", "ttl", "max_connections", "batch_size", "on_uncertain", "is_default")
    account = changed_account(STORED, "acme", wanted(**dict.fromkeys(fields)))
    assert account == Account(7, "acme", "main", "smtp.example.com", 587, user="u", password=Secret("stored"))


def test_without_a_user_the_stored_password_goes_too() -> None:
    assert changed_account(STORED, "acme", wanted(user=None)).password is None


def test_every_problem_of_a_new_account_is_named_at_once() -> None:
    with pytest.raises(Invalid) as caught:
        changed_account(None, "acme", wanted(limit_per_minute=1))
    assert [each.field for each in caught.value.problems] == ["host", "port"]


def test_no_view_has_a_secret() -> None:
    auth = ClientAuth(ClientAuthMethod.BASIC, Secret("canary"), "u", Secret("canary"))
    account = changed_account(STORED, "acme", wanted(password="canary"))
    assert "canary" not in str(tenant_view(Tenant("acme", client_auth=auth))) + str(account_view(account))
    assert "canary" not in repr(wanted(password="canary")) + repr(account)


# -- tenants -----------------------------------------------------------------------------------------------------------


def test_a_change_of_credentials_replaces_them_as_a_whole() -> None:
    before = Tenant("acme", client_auth=ClientAuth(ClientAuthMethod.BASIC, None, "u", Secret("p")))
    changes = TenantChanges.model_validate({"client_auth": {"method": "bearer", "token": "t"}})
    after = changed_tenant(before, changes, now=0.0)
    assert after.client_auth == ClientAuth(ClientAuthMethod.BEARER, Secret("t"))
    assert changed_tenant(after, TenantChanges(), now=0.0) == after


# -- suspensions -------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([None, "a", "b", "c"]))))
def test_suspensions_add_up_in_any_order(steps: list[tuple[bool, str | None]]) -> None:
    held, whole, batches = Suspension(), False, set[str]()
    for suspend, batch in steps:
        if suspend:
            held = suspended(held, batch)
            whole = whole or batch is None
            batches |= set() if batch is None else {batch}
        elif batch is None:
            held, whole, batches = activated(held, None), False, set()
        elif whole:
            with pytest.raises(Conflict):
                activated(held, batch)
        else:
            held = activated(held, batch)
            batches.discard(batch)
        assert held == Suspension(whole, frozenset(batches))


@pytest.fixture
async def instance(tmp_path: Path) -> AsyncIterator[Instance]:
    async with running_instance(tmp_path) as running:
        yield running


async def test_suspensions_at_once_do_not_undo_each_other(instance: Instance) -> None:
    services = instance.services
    await services.tenants.put(TenantIn(id="acme"))
    await asyncio.gather(*(services.scheduling.suspend("acme", f"B{n}") for n in range(20)))
    assert (await services.tenants.get("acme")).suspension == Suspension(batches=frozenset(f"B{n}" for n in range(20)))


async def test_of_two_who_create_a_tenant_only_one_is_told_a_key_and_it_is_the_right_one(instance: Instance) -> None:
    tenants = instance.services.tenants
    keys = [key for key in await asyncio.gather(*(tenants.put(TenantIn(id="acme")) for _ in range(5))) if key]
    assert len(keys) == 1
    async with instance.client(keys[0]) as client:
        assert (await client.get("/status")).status_code == 200


async def test_a_key_is_kept_only_as_its_digest(instance: Instance) -> None:
    key = await instance.services.tenants.put(TenantIn(id="acme"))
    assert key is not None
    folder = Path(str(instance.store.database.url.database)).parent
    assert all(key.encode() not in file.read_bytes() for file in folder.iterdir())


async def test_a_password_is_kept_only_sealed(instance: Instance) -> None:
    await instance.services.tenants.put(
        TenantIn.model_validate({"id": "acme", "client_auth": {"method": "bearer", "token": "canary-of-the-tenant"}})
    )
    account = wanted(host="smtp.example.com", port=25, user="u", password="canary-of-the-account")
    await instance.services.accounts.put("acme", account, by_tenant=False)
    folder = Path(str(instance.store.database.url.database)).parent
    written = b"".join(file.read_bytes() for file in folder.iterdir())
    assert b"canary" not in written
    assert written.count(b"ENC1:") >= 2


async def test_what_is_unknown_cannot_be_changed(instance: Instance) -> None:
    services = instance.services
    with pytest.raises(NotFound):
        await services.tenants.update("nobody", TenantChanges())
    with pytest.raises(NotFound):
        await services.tenants.new_key("nobody", None)
    with pytest.raises(NotFound):
        await services.scheduling.suspend("nobody", None)
    with pytest.raises(NotFound):
        await services.accounts.put("nobody", wanted(host="h.example", port=25), by_tenant=False)


async def test_only_what_a_tenants_own_token_sets_is_asked_about(instance: Instance) -> None:
    directory = instance.store.directory
    asked: list[str] = []

    def refuse(host: str) -> str | None:
        asked.append(host)
        return "is refused"

    await directory.put_tenant(Tenant("acme"), None)
    accounts = Accounts(directory, directory, refuse, lambda _: None, SystemClock())
    await accounts.put("acme", wanted(host="10.0.0.1", port=25), by_tenant=False)
    await accounts.put("acme", wanted(ttl=5), by_tenant=True)
    assert asked == []
    with pytest.raises(Invalid):
        await accounts.put("acme", wanted(host="10.0.0.1", port=26), by_tenant=True)
    assert asked == ["10.0.0.1"]
    assert (await accounts.get("acme", "main")).port == 25


async def test_tenants_are_made_with_the_key_that_was_drawn(instance: Instance) -> None:
    directory = instance.store.directory
    tenants = Tenants(
        directory,
        directory,
        instance.clock,
        lambda: "drawn",
        lambda token: f"digest of {token}",
        tokens.new_signing_secret,
        LargeFileRules(lambda _place: None, has_public_url=False),
    )
    assert await tenants.put(TenantIn(id="acme")) == "drawn"
    keyed = await directory.tenant_by_key("digest of drawn")
    assert keyed is not None
    assert keyed.tenant.id == "acme"
    assert keyed.tenant.created_ts == instance.clock.now()


# -- the clock ---------------------------------------------------------------------------------------------------------


async def test_the_system_clock_goes_forward() -> None:
    clock = SystemClock()
    before = clock.monotonic()
    await clock.sleep(-1)
    await clock.sleep(0)
    assert clock.monotonic() >= before
    assert clock.now() > 1_700_000_000
