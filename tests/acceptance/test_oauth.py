"""Logins with XOAUTH2: a real token server, a real mail server, and the service between them."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any
from urllib.parse import parse_qs

from tests.acceptance.tenants import Tenant, new_tenant
from tests.support.callback_server import CallbackServer, Reply
from tests.support.certificates import Authority
from tests.support.instance import Instance, a_message
from tests.support.smtp_servers import real_server

CANARIES = [f"canary-oauth-{name}-c81e" for name in ("secret", "r1", "r2", "r3", "t1", "t2", "t3")]
SECRET, R1, R2, R3, T1, T2, T3 = CANARIES


def granted(token: str, **fields: Any) -> Reply:
    return Reply(
        200, json.dumps({"access_token": token, "token_type": "Bearer", "expires_in": 3600, **fields}).encode()
    )


async def test_mail_goes_out_with_access_tokens_that_are_replaced_revoked_and_refused(
    shared: Instance, authority: Authority
) -> None:
    context, user = authority.server_context("127.0.0.1"), "mailer@acme.example"
    async with (
        CallbackServer() as tokens,
        real_server(starttls=context, access_tokens={user: T1}) as server,
        new_tenant(shared) as acme,
    ):
        oauth = {"token_url": f"{tokens.url}/token", "client_id": "app", "client_secret": SECRET, "refresh_token": R1}
        login = {"tls": "starttls", "user": user, "auth": "xoauth2", "oauth": oauth}
        tokens.script(granted(T1, refresh_token=R2))
        await acme.put_account("main", server.port, **login, ttl=0)
        await acme.client.submit(*(a_message(f"M{n}") for n in range(10)))
        for n in range(10):
            await acme.client.message_when(f"M{n}", "sent")
        assert {(each.user, each.encrypted) for each in server.messages} == {(user, True)}
        tested = await acme.client.post("/account/main/test")
        assert tested["steps"] == ["token", "connect", "greeting", "hello", "tls", "login"]
        assert len(tokens.requests) == 1

        # Revoked before its time: the mail server says so, and a new one is asked for with the new refresh token.
        server.access_tokens[user] = T2
        tokens.script(granted(T2))
        await acme.client.submit(a_message("revoked"))
        assert (await acme.client.message_when("revoked", "sent"))["attempts"] == 1
        assert _refresh_token(tokens) == R2

        # The consent is gone: the account is at fault, and its messages wait.
        server.access_tokens[user] = T3
        tokens.by_default = Reply(
            400, json.dumps({"error": "invalid_grant", "error_description": f"{R2} ended"}).encode()
        )
        await acme.client.submit(a_message("refused"))
        hold = await _hold(acme)
        assert hold["reason"] == "getting an access token: the token server said invalid_grant: ******** ended"
        assert (await acme.client.message_when("refused", "waiting"))["attempts"] == 0
        failed = await acme.admin.post("/account/main/test", tenant_id=acme.id)
        assert (failed["step"], failed["code"]) == ("token", "account_refused")
        tokens.by_default = granted(T3)
        await acme.put_account("main", server.port, oauth={"refresh_token": R3})
        await acme.client.message_when("refused", "sent", 10)
        assert _refresh_token(tokens) == R3

        answers = b"".join(answer.content for client in (acme.client, acme.admin) for answer in client.answers)
        for canary in CANARIES:
            assert canary.encode() not in answers + shared.output + shared.errors.encode(), canary
            for path in shared.folder.rglob("*"):
                assert not path.is_file() or canary.encode() not in path.read_bytes(), (canary, path)


def _refresh_token(tokens: CallbackServer) -> str:
    """The one that came last."""
    return parse_qs(tokens.requests[-1].body.decode())["refresh_token"][0]


async def _hold(tenant: Tenant) -> dict[str, Any]:
    deadline = time.monotonic() + 10
    while (hold := (await tenant.client.get("/account/main"))["hold"]) is None:
        assert time.monotonic() < deadline, "the account is not on hold"
        await asyncio.sleep(0.02)
    assert isinstance(hold, dict)
    return hold
