"""Encrypted sessions and logins, with a real server and an authority that only the instance trusts."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from tests.acceptance.tenants import Tenant, new_tenant
from tests.support.callback_server import CallbackServer
from tests.support.certificates import Authority
from tests.support.instance import Instance, a_message, eventually
from tests.support.smtp_servers import EXTENSIONS, Dialogue, Peer, real_server, scripted_server

USERS = {"mailer": "right-password"}
LOGIN = {"user": "mailer", "password": "right-password"}


async def test_mail_goes_out_over_starttls_after_a_login(shared: Instance, authority: Authority) -> None:
    context = authority.server_context("127.0.0.1")
    async with (
        real_server(starttls=context, users=USERS) as server,
        new_tenant(shared, server.port, use_tls=True, **LOGIN) as acme,
    ):
        await acme.client.submit(a_message("M1"))
        await acme.client.message_when("M1", "sent")
    (arrived,) = server.messages
    assert arrived.encrypted
    assert arrived.user == "mailer"


async def test_mail_goes_out_over_implicit_tls_after_a_login(shared: Instance, authority: Authority) -> None:
    context = authority.server_context("127.0.0.1")
    async with (
        real_server(implicit_tls=context, users=USERS) as server,
        new_tenant(shared, server.port, tls="implicit", **LOGIN) as acme,
    ):
        await acme.client.submit(a_message("M1"))
        await acme.client.message_when("M1", "sent")
    (arrived,) = server.messages
    assert arrived.user == "mailer"
    assert server.logins == [("PLAIN", "mailer")]


async def test_a_certificate_that_is_not_valid_holds_the_account_until_it_says_not_to_verify(
    shared: Instance, authority: Authority
) -> None:
    """The certificate is for another host. Neither mail nor password goes to whoever shows it."""  # G8
    context = authority.server_context("mail.example.com")
    async with (
        real_server(starttls=context, users=USERS) as server,
        new_tenant(shared, server.port, tls="starttls", **LOGIN) as acme,
    ):
        await acme.client.submit(a_message("M1"))
        assert "certificate is not valid" in (await _hold(acme))["reason"]
        message = await acme.client.message("M1")
        assert (message["state"], message["attempts"]) == ("waiting", 0)
        assert (server.messages, server.logins) == ([], [])

        await acme.put_account("main", server.port, verify_tls=False)
        await acme.client.message_when("M1", "sent")
    assert server.logins == [("PLAIN", "mailer")]


async def test_a_wrong_password_holds_the_account_and_a_new_one_frees_it_at_once(
    shared: Instance, authority: Authority
) -> None:
    context = authority.server_context("127.0.0.1")
    async with (
        real_server(starttls=context, users=USERS) as server,
        CallbackServer() as endpoint,
        new_tenant(
            shared, server.port, callback=endpoint.url, tls="starttls", user="mailer", password="old-password"
        ) as acme,
    ):
        await acme.client.submit(*(a_message(f"M{n}") for n in range(20)))
        await _hold(acme)
        status = await acme.admin.get("/status")
        (held,) = (each for each in status["accounts_on_hold"] if each["tenant_id"] == acme.id)
        assert held["id"] == "main"
        assert "535" in held["reason"]
        # G8: it is the account's fault, so no message pays for it, and nobody is told of a failure
        for n in range(20):
            await acme.client.message_when(f"M{n}", "waiting")
        messages = await acme.client.messages()
        assert {(each["state"], each["attempts"]) for each in messages.values()} == {("waiting", 0)}
        assert endpoint.entries == []
        # The first login is made once: a server that counts failures has no reason to lock the account.
        assert len(server.logins) == 1

        changed = time.monotonic()
        await acme.put_account("main", server.port, password="right-password")
        await eventually(lambda: len(server.messages) == 20, "all are sent")
        assert time.monotonic() - changed < 60  # and not after the five minutes of a hold
        await eventually(lambda: len(endpoint.entries) == 20, "all are reported")
        messages = await acme.client.messages()
        assert {(each["state"], each["attempts"]) for each in messages.values()} == {("sent", 1)}
        assert (await acme.client.get("/account/main"))["hold"] is None
    assert {entry["event"] for entry in endpoint.entries} == {"sent"}


async def test_a_refusal_of_the_old_password_that_comes_late_does_not_hold_the_account_with_the_new_one(
    shared: Instance,
) -> None:
    """Servers take their time to refuse a login; meanwhile somebody may have put the right password."""
    asked, changed = asyncio.Event(), asyncio.Event()

    async def refuse_late(peer: Peer) -> None:
        asked.set()
        await changed.wait()
        peer.say("535 5.7.8 wrong")

    extensions = (*EXTENSIONS, "AUTH PLAIN")
    old, new = Dialogue(extensions=extensions, auth=refuse_late), Dialogue(extensions=extensions)
    async with (
        scripted_server(old, new) as server,
        new_tenant(shared, server.port, tls="none", user="mailer", password="old-password") as acme,
    ):
        await acme.client.submit(*(a_message(f"M{n}") for n in range(20)))
        await asked.wait()
        await acme.put_account("main", server.port, password="right-password")
        changed.set()
        for n in range(20):
            message = await acme.client.message_when(f"M{n}", "sent", 4)
            assert message["attempts"] == 1
        assert (await acme.client.get("/account/main"))["hold"] is None


async def _hold(tenant: Tenant) -> dict[str, Any]:
    """Return why the account is on hold, once it is."""
    deadline = time.monotonic() + 10
    while (hold := (await tenant.client.get("/account/main"))["hold"]) is None:
        assert time.monotonic() < deadline, "the account is not on hold"
        await asyncio.sleep(0.02)
    assert isinstance(hold, dict)
    return hold
