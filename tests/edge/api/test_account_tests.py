"""Trying an account by the API: what is answered, to whom, and how often."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace
from random import Random

import httpx
import pytest

from mail_proxy.administration import account_tests
from mail_proxy.administration.account_tests import AT_ONCE, PER_MINUTE, Turns, told_to_a_tenant
from mail_proxy.domain.account import Account, Hold, Outage
from mail_proxy.domain.attempt import AccountRefused, HostFailed, Probed, ProbeResult, Step
from mail_proxy.domain.errors import TooMany
from mail_proxy.domain.reply import Reply
from mail_proxy.domain.tenant import Tenant
from mail_proxy.runtime.clock import SystemClock
from tests.support.api import Instance

_TENANT = Tenant("acme")
URL = "/account/main/test"
BANNER = HostFailed("waiting for the greeting: what came is no SMTP reply: SSH-2.0-OpenSSH", None, Step.GREETING)
REFUSED = HostFailed("connecting: Connection refused", None, Step.CONNECT)
TIMED_OUT = HostFailed("connecting: no answer in time", None, Step.CONNECT)
WRONG = AccountRefused("logging in: the server said 535 5.7.8 wrong", Reply(535, "5.7.8", "wrong"), Step.LOGIN)


async def main_account(instance: Instance) -> Account:
    (account,) = await instance.store.directory.accounts_of("acme")
    return account


async def test_what_gets_through_is_told_with_its_steps(instance: Instance, acme: httpx.AsyncClient) -> None:
    instance.probed = Probed("TLSv1.3", (Step.CONNECT, Step.GREETING, Step.HELLO, Step.TLS))
    answer = await acme.post(URL)
    assert (answer.status_code, answer.json()) == (
        200,
        {"ok": True, "steps": ["connect", "greeting", "hello", "tls"], "tls_version": "TLSv1.3"},
    )


async def test_what_fails_is_told_with_its_step_and_the_servers_reply(
    instance: Instance, acme: httpx.AsyncClient
) -> None:
    instance.probed = WRONG
    answer = await acme.post(URL)
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "ok": False,
            "step": "login",
            "error": "logging in: the server said 535 5.7.8 wrong",
            "reply": "535 5.7.8 wrong",
            "code": "account_refused",
        },
    )
    assert instance.told.server_answers == []


async def test_an_account_that_gets_through_is_free_again(instance: Instance, acme: httpx.AsyncClient) -> None:
    account = await main_account(instance)
    await instance.store.directory.set_hold(account.pk, Hold("535", 1.0))
    instance.probed = WRONG
    await acme.post(URL)
    assert (await main_account(instance)).hold is not None
    instance.probed = Probed(None)
    await acme.post(URL)
    assert (await main_account(instance)).hold is None
    assert instance.told.server_answers == [account.pk]


async def test_an_account_that_was_changed_meanwhile_is_not_freed_by_a_test_of_what_it_was(
    instance: Instance,
) -> None:
    store, services = instance.store.directory, instance.services
    await store.put_tenant(_TENANT, None)
    account = await store.put_account(Account(0, "acme", "main", "smtp.example.com", 25))

    async def change_meanwhile(_account: Account) -> ProbeResult:
        await store.put_account(replace(account, port=26))
        await store.set_hold(account.pk, Hold("535 with the new settings", 2.0))
        return Probed(None)

    told: list[int] = []
    tests = account_tests.AccountTests(services.accounts, store, store, instance.clock, change_meanwhile, told.append)
    assert isinstance(await tests.test("acme", "main", by_tenant=False), Probed)
    assert (await main_account(instance)).hold is not None
    assert told == []


async def test_a_tenant_is_not_told_what_is_behind_a_port_that_speaks_no_smtp(
    instance: Instance, acme: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    said = []
    for instance.probed in (BANNER, REFUSED, TIMED_OUT):
        said.append((await acme.post(URL)).json())
    assert said[0] == said[1] == said[2]
    assert said[0]["code"] == "server_unreachable"
    instance.probed = BANNER
    assert "SSH-2.0" in (await admin.post(f"{URL}?tenant_id=acme")).json()["error"]
    instance.probed = HostFailed("getting an access token: 10.0.0.1: Connection refused", None, Step.TOKEN)
    told = (await acme.post(URL)).json()
    assert (told["step"], "refused" in told["error"]) == ("token", False)
    greeted = HostFailed("waiting for the greeting: the server said 421 busy", Reply(421, None, "busy"), Step.GREETING)
    assert told_to_a_tenant(greeted) is greeted  # it speaks SMTP


async def test_a_tenant_tests_a_few_times_a_minute(instance: Instance, acme: httpx.AsyncClient) -> None:
    for _ in range(PER_MINUTE):
        assert (await acme.post(URL)).status_code == 200
    refused = await acme.post(URL)
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_tests")
    assert refused.headers["Retry-After"] == "60"
    assert len(instance.told.tested) == PER_MINUTE
    instance.clock.time += 60
    assert (await acme.post(URL)).status_code == 200


def an_account(pk: int, tenant_id: str = "acme") -> Account:
    return Account(pk, tenant_id, f"account{pk}", "smtp.example.com", 25)


def test_an_account_is_tested_once_at_a_time_and_all_tenants_together_so_often() -> None:
    turns = Turns()
    turns.take(an_account(1), 0.0)
    with pytest.raises(TooMany):
        turns.take(an_account(1), 1.0)
    turns.give_back(an_account(1))
    turns.take(an_account(1), 2.0)
    for n in range(2, AT_ONCE + 1):
        turns.take(an_account(n, f"tenant{n}"), 3.0)
    with pytest.raises(TooMany):
        turns.take(an_account(99, "tenant99"), 4.0)


def test_no_window_of_a_minute_has_more_tests_than_allowed_and_old_ones_are_forgotten() -> None:
    turns, rng, now, made = Turns(), Random(1), 0.0, deque[float]()
    waits: list[float] = []
    for _ in range(2000):
        now += rng.expovariate(1 / 5)
        try:
            turns.take(an_account(1), now)
        except TooMany as refused:
            waits.append(refused.retry_after)
            continue
        turns.give_back(an_account(1))
        made.append(now)
        assert sum(1 for at in made if at > now - 60) <= PER_MINUTE
    assert all(0 < wait <= 60 for wait in waits)
    turns.take(an_account(2, "other"), now + 61)
    assert set(turns.recent) == {"other"}


async def test_a_test_without_end_is_ended(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_tests, "LONGEST", 0.05)
    store, services = instance.store.directory, instance.services
    await store.put_tenant(_TENANT, None)
    await store.put_account(Account(0, "acme", "main", "smtp.example.com", 25))

    async def hang(_account: Account) -> ProbeResult:
        await asyncio.Event().wait()
        raise AssertionError

    tests = account_tests.AccountTests(services.accounts, store, store, SystemClock(), hang, lambda _: None)
    result = await tests.test("acme", "main", by_tenant=True)
    assert isinstance(result, HostFailed)
    assert result.step is None
    assert isinstance(await tests.test("acme", "main", by_tenant=True), HostFailed)  # its turn was given back


async def test_outages_are_shown_with_accounts_and_in_the_status(
    instance: Instance, acme: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    account = await main_account(instance)
    outage = Outage("connecting: Connection refused", 1.0, 6.0)
    instance.outages[account.pk] = outage
    instance.insight = replace(instance.insight, left_alone=[(account, outage)])
    shown = {"state": "left_alone", "reason": outage.reason, "since": 1.0, "next_probe_ts": 6.0}
    assert (await acme.get("/account/main")).json()["server"] == shown
    assert [each["server"] for each in (await acme.get("/accounts")).json()["accounts"]] == [shown]
    (listed,) = (await admin.get("/status")).json()["servers_left_alone"]
    assert listed == {"tenant_id": "acme", "id": "main", "reason": outage.reason, "since": 1.0, "next_probe_ts": 6.0}
    assert "servers_left_alone" not in (await acme.get("/status")).json()
