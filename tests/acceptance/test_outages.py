"""Accounts that cannot be used: seen, tested, gone round by a fallback, and never paid for by their messages."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from tests.acceptance.conftest import NewInstance
from tests.acceptance.sinks import reserved_port, running_sink
from tests.acceptance.tenants import Tenant, new_tenant
from tests.support.callback_server import CallbackServer
from tests.support.certificates import Authority
from tests.support.instance import Instance, a_message, eventually
from tests.support.smtp_servers import real_server

USERS = {"mailer": "right-password"}
OLD = {"tls": "none", "user": "mailer", "password": "old-password"}


async def put_on_hold(acme: Tenant) -> dict[str, Any]:
    """Return the account once it is on hold."""
    deadline = time.monotonic() + 10
    while (account := await acme.client.get("/account/main"))["hold"] is None:
        assert time.monotonic() < deadline, "the account is not on hold"
        await asyncio.sleep(0.02)
    return account


async def gauges(instance: Instance, acme: Tenant) -> dict[str, float]:
    text = (await acme.admin.ask("GET", "/metrics")).text
    lines = (line.split(" ") for line in text.splitlines() if line.startswith(("gmp_accounts_", "gmp_breakers_")))
    return {name: float(value) for name, value in lines}


async def test_a_thousand_messages_behind_a_wrong_password_cost_one_login_and_none_of_them_fails(
    new_instance: NewInstance,
) -> None:
    instance = new_instance()
    await instance.start()
    async with (
        real_server(users=USERS, auth_in_clear=True, auth_excluded=["CRAM-MD5"]) as server,
        running_sink() as sink,
        CallbackServer() as endpoint,
        new_tenant(instance, server.port, callback=endpoint.url, is_default=True, **OLD) as acme,
    ):
        for batch in range(5):
            await acme.client.submit(*(a_message(f"M{batch * 200 + n}") for n in range(200)))
        await put_on_hold(acme)
        assert len(server.logins) == 1
        instance.kill()
        await instance.start()  # a start is no reason to try again
        await acme.client.submit(a_message("late"))
        # G8: while the instance goes on sending by another account, and takes up what comes
        await acme.put_account("other", sink.port)
        for n in range(20):
            await acme.client.submit(a_message(f"other-{n}", account_id="other"))
            await sink.wait_for(n + 1)
        assert len(server.logins) == 1
        messages = await acme.client.messages(account_id="main")
        assert len(messages) == 1001
        assert {(each["state"], each["attempts"]) for each in messages.values()} == {("waiting", 0)}

        await acme.put_account("main", server.port, **{**OLD, "password": "right-password"})
        await eventually(lambda: len(server.messages) == 1001, "all are sent", 60)
        await eventually(lambda: len(endpoint.entries) == 1021, "all are reported", 30)
    assert {entry["event"] for entry in endpoint.entries} == {"sent"}


async def test_messages_of_an_account_on_hold_go_by_its_fallback_and_are_reported_under_its_name(
    on_each_database: Instance,
) -> None:
    async with (
        real_server(users=USERS, auth_in_clear=True, auth_excluded=["CRAM-MD5"]) as server,
        running_sink() as sink,
        CallbackServer() as endpoint,
        new_tenant(on_each_database, callback=endpoint.url) as acme,
    ):
        await acme.put_account("spare", sink.port)
        await acme.put_account("main", server.port, fallback_account_id="spare", is_default=True, **OLD)
        await acme.client.submit(*(a_message(f"M{n}") for n in range(100)))
        await sink.wait_for(100)
        await eventually(lambda: len(endpoint.entries) == 100, "all are reported")
        assert {(entry["event"], entry["account_id"]) for entry in endpoint.entries} == {("sent", "spare")}
        assert len(server.logins) == 1

        await acme.put_account("main", server.port, **{**OLD, "password": "right-password"})
        await acme.client.submit(a_message("own"))
        await acme.client.message_when("own", "sent")
        assert (await acme.client.message("own"))["account_id"] == "main"
    assert len(server.messages) == 1
    assert set(sink.ledger.values()) == {1}


async def test_a_hold_and_a_server_that_is_left_alone_are_seen_everywhere(new_instance: NewInstance) -> None:
    instance = new_instance()
    await instance.start()
    with reserved_port() as closed:
        async with (
            real_server(users=USERS, auth_in_clear=True) as server,
            new_tenant(instance, server.port, **OLD) as acme,
        ):
            dead = closed.getsockname()[1]
            await acme.put_account("dead", dead)
            await acme.client.submit(a_message("M1", account_id="main"), a_message("M2", account_id="dead"))
            held = await put_on_hold(acme)
            await eventually(lambda: instance.logged("server left alone", account_id="dead"), "the refusal is met")

            assert "535" in held["hold"]["reason"]
            alone = (await acme.client.get("/account/dead"))["server"]
            assert (alone["state"], alone["reason"]) == ("left_alone", "connecting: Connection refused")
            assert alone["next_probe_ts"] > alone["since"] > time.time() - 60
            listed = {each["id"]: each for each in (await acme.client.get("/accounts"))["accounts"]}
            assert listed["dead"]["hold"] is None
            assert listed["dead"]["server"] is not None

            status = await acme.admin.get("/status")
            assert [each["id"] for each in status["accounts_on_hold"]] == ["main"]
            assert [each["id"] for each in status["servers_left_alone"]] == ["dead"]
            found: dict[str, float] = {}
            deadline = time.monotonic() + 15
            while found != {"gmp_accounts_on_hold": 1.0, "gmp_breakers_open": 1.0}:
                assert time.monotonic() < deadline, found
                await asyncio.sleep(0.1)
                found = await gauges(instance, acme)


async def test_testing_an_account_names_the_step_and_frees_it_once_it_gets_through(
    shared: Instance, authority: Authority
) -> None:
    context = authority.server_context("127.0.0.1")
    login, users = {"tls": "starttls", "user": "mailer"}, dict(USERS)
    async with (
        real_server(starttls=context, users=users) as server,
        new_tenant(shared, server.port, **login, password="old-password") as acme,
    ):
        await acme.client.submit(a_message("M1"))
        await put_on_hold(acme)
        refused = (await acme.admin.ask("POST", f"/account/main/test?tenant_id={acme.id}")).json()
        assert (refused["ok"], refused["step"], refused["code"]) == (False, "login", "account_refused")
        assert refused["reply"].startswith("535 ")
        assert (await acme.client.get("/account/main"))["hold"] is not None

        users["mailer"] = "old-password"  # put right at the provider's end, and nobody has changed ours
        passed = await acme.admin.post("/account/main/test", tenant_id=acme.id)
        assert passed["steps"] == ["connect", "greeting", "hello", "tls", "login"]
        assert passed["tls_version"].startswith("TLSv1.")
        await acme.client.message_when("M1", "sent", 4)
        assert (await acme.client.get("/account/main"))["hold"] is None


async def test_a_tenants_token_is_no_port_scanner(shared: Instance) -> None:
    """The operator has set an account on this machine: the tenant may try that one, and lead it nowhere else."""
    async with running_sink() as sink, new_tenant(shared, sink.port) as acme:
        for changes in ({"port": 22}, {"host": "localhost"}, {"host": "127.0.0.2"}, {"host": "0x7f.1", "port": 22}):
            refused = await acme.client.ask("POST", "/account", json={"id": "main", **changes})
            assert refused.status_code == 422, (changes, refused.text)
        for _ in range(6):
            assert (await acme.client.post("/account/main/test"))["ok"]
        limited = await acme.client.ask("POST", "/account/main/test")
        assert (limited.status_code, limited.json()["code"]) == (429, "too_many_tests")
        assert 0 < int(limited.headers["Retry-After"]) <= 60
