"""SMTP accounts by the API."""

from __future__ import annotations

from typing import Any

import httpx

from mail_proxy.domain.account import Account, Hold
from tests.support.api import Instance, a_submission

NEW = {"id": "second", "host": "smtp.example.com", "port": 587}
LOGIN = {**NEW, "user": "u", "password": "p"}
OAUTH = {
    "token_url": "https://login.example/token",
    "client_id": "app",
    "client_secret": "canary-client-secret",
    "refresh_token": "canary-refresh-token",
}
XOAUTH2: dict[str, Any] = {"auth": "xoauth2", "user": "u", "oauth": OAUTH}


def with_oauth(**changes: object) -> dict[str, Any]:
    return {**XOAUTH2, "oauth": {**OAUTH, **changes}}


async def put(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await client.post("/account", json=fields)


async def account(client: httpx.AsyncClient, account_id: str = "second") -> dict[str, Any]:
    shown: dict[str, Any] = (await client.get(f"/account/{account_id}")).json()
    return shown


async def test_an_account_is_shown_with_its_defaults_and_without_its_secret(acme: httpx.AsyncClient) -> None:
    assert (await put(acme, **LOGIN)).json() == {"ok": True, "created": True}
    assert await account(acme) == {
        "ok": True,
        "tenant_id": "acme",
        "id": "second",
        "host": "smtp.example.com",
        "port": 587,
        "user": "u",
        "has_password": True,
        "has_oauth": False,
        "oauth": None,
        "host_set_by": "tenant",
        "auth": "auto",
        "tls": "auto",
        "verify_tls": True,
        "ttl": 300.0,
        "max_connections": 4,
        "batch_size": None,
        "on_uncertain": None,
        "is_default": False,
        "limit_per_minute": None,
        "limit_per_hour": None,
        "limit_per_day": None,
        "limit_behavior": "defer",
        "fallback_account_id": None,
        "hold": None,
        "server": None,
    }
    listed = (await acme.get("/accounts")).json()["accounts"]
    assert [each["id"] for each in listed] == ["main", "second"]


async def test_it_is_said_whether_an_account_was_made_or_changed(acme: httpx.AsyncClient) -> None:
    assert (await put(acme, **LOGIN)).json() == {"ok": True, "created": True}
    assert (await put(acme, id="second", ttl=60)).json() == {"ok": True, "created": False}
    await acme.delete("/account/second")
    assert (await put(acme, **LOGIN)).json() == {"ok": True, "created": True}


async def test_the_password_is_kept_sealed_and_opens_for_sending(instance: Instance, acme: httpx.AsyncClient) -> None:
    await put(acme, **LOGIN)
    accounts = await instance.store.directory.accounts_of("acme")
    assert accounts[1].password is not None
    assert accounts[1].password.reveal() == "p"


async def stored(instance: Instance) -> Account:
    """The account `second` of the tenant `acme` as it is used for sending."""
    (found,) = (each for each in await instance.store.directory.accounts_of("acme") if each.id == "second")
    return found


async def test_oauth_is_shown_without_its_secrets(instance: Instance, acme: httpx.AsyncClient) -> None:
    assert (await put(acme, **NEW, **with_oauth(scope="mail.send"))).status_code == 200
    shown = await acme.get("/account/second")
    assert (shown.json()["has_oauth"], shown.json()["has_password"]) == (True, False)
    assert shown.json()["oauth"] == {
        "token_url": "https://login.example/token",
        "token_url_set_by": "tenant",
        "client_id": "app",
        "scope": "mail.send",
    }
    assert "canary" not in shown.text + (await acme.get("/accounts")).text
    first = (await stored(instance)).oauth
    assert first is not None
    assert (first.client_secret.reveal(), first.refresh_token.reveal()) == (
        OAUTH["client_secret"],
        "canary-refresh-token",
    )
    # A field that is left out keeps its value; another refresh token is another grant.
    assert (await put(acme, id="second", oauth={"refresh_token": "another", "scope": None})).status_code == 200
    second = (await stored(instance)).oauth
    assert second is not None
    assert (second.client_secret, second.scope) == (first.client_secret, None)
    assert second.grant != first.grant
    assert (await put(acme, id="second", ttl=5)).status_code == 200
    assert (await stored(instance)).oauth == second
    assert (await put(acme, id="second", auth="plain", password="p")).status_code == 200
    assert (await stored(instance)).oauth is None


BOTH = ["oauth.client_secret", "oauth.refresh_token"]
MOVES: list[tuple[dict[str, Any], bool]] = [
    ({"host": "evil.example"}, True),
    ({"port": 2525}, True),
    ({"oauth": {"token_url": "https://evil.example/token"}}, False),
]
"""What secrets do not follow; True: a password neither."""
WEAKER: list[dict[str, Any]] = [{"tls": "none"}, {"verify_tls": False}]
HARMLESS: list[dict[str, Any]] = [
    {"host": "SMTP.example.com", "port": 587},
    {"user": "v"},
    {"tls": "implicit"},
    {"verify_tls": True},
    {"fallback_account_id": "main"},
    {"ttl": 5},
]


async def test_secrets_stay_only_where_they_were_given_for(
    instance: Instance, admin: httpx.AsyncClient, acme: httpx.AsyncClient
) -> None:
    """Whoever changes the account, and whoever gave the secret."""
    for by_admin in (True, False):
        client, whose = (admin, {"tenant_id": "acme"}) if by_admin else (acme, {})
        for login in (LOGIN, {**NEW, **XOAUTH2}):
            assert (await put(admin, tenant_id="acme", **login)).status_code == 200
            before = await stored(instance)
            with_password = "password" in login
            for change, password_too in [*MOVES, *((each, True) for each in WEAKER if not by_admin)]:
                if with_password and not password_too:
                    continue
                answer = await put(client, id="second", **whose, **change)
                assert answer.status_code == 422, (by_admin, change)
                named = [each["field"] for each in answer.json()["detail"]]
                assert named == (["password"] if with_password else BOTH), (by_admin, change)
                assert "must be given again" in answer.json()["error"]
                assert await stored(instance) == before
            for change in HARMLESS + (WEAKER if by_admin else []):
                assert (await put(client, id="second", **whose, **change)).status_code == 200, (by_admin, change)
                now = await stored(instance)
                assert (now.password, now.oauth) == (before.password, before.oauth), (by_admin, change)
            assert (await admin.delete("/account/second?tenant_id=acme")).status_code == 200
    # One of the two secrets is not enough, and what is given anew is taken.
    await put(acme, **NEW, **XOAUTH2)
    half = {"token_url": "https://new.example/token", "client_secret": "new"}
    assert (await put(acme, id="second", oauth=half)).json()["detail"][0]["field"] == "oauth.refresh_token"
    assert (await put(acme, id="second", oauth={**half, "refresh_token": "new"})).status_code == 200


async def test_what_a_tenant_sets_is_marked_as_its_until_the_operator_gives_it(
    instance: Instance, admin: httpx.AsyncClient, acme: httpx.AsyncClient
) -> None:
    async def set_by(client: httpx.AsyncClient, **change: Any) -> tuple[bool, bool]:
        whose = {"tenant_id": "acme"} if client is admin else {}
        assert (await put(client, **{"id": "second", **whose, **change})).status_code == 200, change
        now = await stored(instance)
        return now.host_by_tenant, now.token_url_by_tenant

    url, secrets = OAUTH["token_url"], {name: OAUTH[name] for name in ("client_secret", "refresh_token")}
    assert await set_by(admin, **NEW, **XOAUTH2) == (False, False)
    assert await set_by(acme, ttl=5, tls="starttls", **NEW, oauth={"token_url": url}) == (False, False)  # the same
    assert await set_by(acme, port=25, oauth=secrets) == (True, False)
    assert await set_by(acme, port=587, oauth=secrets) == (True, False)  # no way back
    assert await set_by(admin, ttl=6, port=588, oauth=secrets) == (True, False)
    assert await set_by(acme, oauth={**secrets, "token_url": "https://other.example/token"}) == (True, True)
    assert await set_by(admin, host="smtp.example.com") == (False, True)
    assert await set_by(admin, oauth={**secrets, "token_url": url}) == (False, False)
    assert await set_by(acme, auth="auto", password="p") == (False, False)
    assert await set_by(acme, **XOAUTH2) == (False, True)
    assert await set_by(acme, host="new.example", oauth=secrets) == (True, True)


async def test_what_a_change_leaves_out_stays_as_it_is(acme: httpx.AsyncClient) -> None:
    await put(acme, **LOGIN, tls="starttls", ttl=10.5, max_connections=2, batch_size=7, verify_tls=False)
    before = await account(acme)
    assert (await put(acme, id="second", ttl=20)).status_code == 200
    assert await account(acme) == {**before, "ttl": 20.0}


async def test_another_host_needs_the_password_anew(instance: Instance, acme: httpx.AsyncClient) -> None:
    await put(acme, **LOGIN)
    for change in ({"host": "evil.example"}, {"port": 2525}):
        answer = await put(acme, id="second", **change)
        assert (answer.status_code, answer.json()["detail"][0]["field"]) == (422, "password")
    assert (await account(acme))["host"] == "smtp.example.com"
    assert (await put(acme, id="second", host="SMTP.example.com")).status_code == 200  # the same
    assert (await account(acme))["has_password"] is True
    assert (await put(acme, id="second", host="evil.example", user=None)).status_code == 200
    shown = await account(acme)
    assert (shown["host"], shown["user"], shown["has_password"]) == ("evil.example", None, False)
    assert (await put(acme, id="second", user="u")).status_code == 422  # gone for good
    assert (await put(acme, id="second", host="b.example", user="u", password="new")).status_code == 200


TLS: list[tuple[dict[str, Any], str]] = [
    ({}, "auto"),
    ({"tls": "implicit"}, "implicit"),
    ({"tls": None}, "auto"),
    ({"use_tls": True}, "starttls"),
    ({"use_tls": True, "port": 465}, "implicit"),
    ({"use_tls": False}, "auto"),
    ({"use_tls": None, "tls": "none"}, "none"),
]


async def test_the_older_word_for_tls_is_understood(acme: httpx.AsyncClient) -> None:
    for number, (fields, tls) in enumerate(TLS):
        assert (await put(acme, **{**NEW, **fields, "id": f"a{number}"})).status_code == 200
        assert (await account(acme, f"a{number}"))["tls"] == tls, fields


LIMITS = ("limit_per_minute", "limit_per_hour", "limit_per_day", "limit_behavior")


async def test_limits_of_nothing_are_no_limits(acme: httpx.AsyncClient) -> None:
    answer = await put(acme, **NEW, limit_per_minute=0, limit_per_hour=None, limit_per_day=0, limit_behavior=None)
    assert answer.status_code == 200
    shown = await account(acme, "second")
    assert [shown[name] for name in LIMITS] == [None, None, None, "defer"]


async def test_a_limit_stays_until_it_is_taken_away(acme: httpx.AsyncClient) -> None:
    await put(acme, **NEW, limit_per_minute=5, limit_per_day=100, limit_behavior="reject")
    assert (await put(acme, id="second", limit_per_day=None, ttl=20)).status_code == 200
    shown = await account(acme, "second")
    assert [shown[name] for name in LIMITS] == [5, None, None, "reject"]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no host": ({"host": None}, "host"),
    "no port": ({"port": None}, "port"),
    "a port as text": ({"port": "25"}, "port"),
    "a port out of range": ({"port": 65536}, "port"),
    "a host with a space": ({"host": "smtp example"}, "host"),
    "a host with a port": ({"host": "smtp.example.com:25"}, "host"),
    "a URL": ({"host": "smtp://example.com"}, "host"),
    "a host that is not ASCII": ({"host": "smtp.ex\u00e4mple.com"}, "host"),
    "a host with a line break": ({"host": "smtp.example.com\n"}, "host"),
    "an empty host": ({"host": ""}, "host"),
    "an address in one number": ({"host": "2130706433"}, "host"),
    "an octal address": ({"host": "0177.0.0.1"}, "host"),
    "a hexadecimal address": ({"host": "0x7f000001"}, "host"),
    "a short address": ({"host": "127.1"}, "host"),
    "a user alone": ({"user": "u"}, "password"),
    "a password alone": ({"password": "p"}, "user"),
    "a user with a line break": ({"user": "u\n", "password": "p"}, "user"),
    "an unknown mechanism": ({"auth": "ntlm"}, "auth"),
    "xoauth2 without a user": ({"auth": "xoauth2", "oauth": OAUTH}, "user"),
    "xoauth2 with a password": ({**XOAUTH2, "password": "p"}, "password"),
    "xoauth2 without oauth": ({"auth": "xoauth2", "user": "u"}, "oauth"),
    "oauth for another mechanism": ({"oauth": OAUTH}, "oauth"),
    "oauth without a secret": (with_oauth(client_secret=None), "oauth.client_secret"),
    "oauth without consent": ({**XOAUTH2, "oauth": {**OAUTH, "refresh_token": ""}}, "oauth.refresh_token"),
    "a refresh token with a line break": (with_oauth(refresh_token="a\nb"), "oauth.refresh_token"),
    "a token URL in clear": (with_oauth(token_url="http://login.example/token"), "oauth.token_url"),
    "a token URL that only begins like this machine": (
        with_oauth(token_url="http://127.0.0.1.example/token"),
        "oauth.token_url",
    ),
    "a token URL with a password": (with_oauth(token_url="https://u:p@login.example/"), "oauth.token_url"),
    "a token URL with a fragment": (with_oauth(token_url="https://login.example/#x"), "oauth.token_url"),
    "a token URL of another kind": (with_oauth(token_url="file:///etc/passwd"), "oauth.token_url"),
    "an unknown field of oauth": (with_oauth(colour="red"), "oauth.colour"),
    "tls twice": ({"tls": "none", "use_tls": True}, "use_tls"),
    "an unknown tls": ({"tls": "yes"}, "tls"),
    "an unknown behaviour": ({"limit_behavior": "drop"}, "limit_behavior"),
    "a fallback that is no id": ({"fallback_account_id": "a b"}, "fallback_account_id"),
    "a fallback to itself": ({"fallback_account_id": "second"}, "fallback_account_id"),
    "a negative limit": ({"limit_per_day": -1}, "limit_per_day"),
    "no connections": ({"max_connections": 0}, "max_connections"),
    "a batch of none": ({"batch_size": 0}, "batch_size"),
    "a negative ttl": ({"ttl": -1}, "ttl"),
    "a huge number": ({"batch_size": 10**30}, "batch_size"),
    "an id that is a command": ({"id": "list"}, "id"),
    "an unknown field": ({"colour": "red"}, "colour"),
}


async def test_what_is_wrong_is_named_and_nothing_is_stored(admin: httpx.AsyncClient) -> None:
    await admin.post("/tenant", json={"id": "acme"})
    for name, (body, field) in WRONG.items():
        answer = await put(admin, **{**NEW, **body})
        assert answer.status_code == 422, name
        assert [each["field"] for each in answer.json()["detail"]] == [field], name
    assert (await admin.get("/accounts")).json()["accounts"] == []


async def test_a_tenant_may_not_name_a_host_inside_the_network_but_the_operator_may(
    admin: httpx.AsyncClient, acme: httpx.AsyncClient
) -> None:
    inside = {**NEW, "host": "127.0.0.1"}
    answer = await put(acme, **inside)
    assert (answer.status_code, answer.json()["detail"][0]["field"]) == (422, "host")
    assert (await put(admin, **inside, tenant_id="acme")).status_code == 200
    assert (await put(acme, id="second", ttl=5)).status_code == 200  # the host stays the operator's
    assert (await put(acme, **inside)).status_code == 200  # as it was
    answer = await put(acme, **{**NEW, "id": "third"}, **with_oauth(token_url="http://localhost/token"))
    assert (answer.status_code, answer.json()["detail"][0]["field"]) == (422, "oauth.token_url")
    assert (
        await put(admin, **inside, **with_oauth(token_url="http://127.0.0.1/"), tenant_id="acme")
    ).status_code == 200


async def test_an_address_of_version_six_may_be_in_brackets(acme: httpx.AsyncClient) -> None:
    assert (await put(acme, **{**NEW, "host": "[2001:4860:4860:0::8888]"})).status_code == 200
    assert (await account(acme))["host"] == "2001:4860:4860::8888"


async def test_a_tenant_has_one_default_account(acme: httpx.AsyncClient) -> None:
    await put(acme, id="main", is_default=True)
    await put(acme, **NEW, is_default=True)
    listed = (await acme.get("/accounts")).json()["accounts"]
    assert {each["id"]: each["is_default"] for each in listed} == {"main": False, "second": True}


async def test_an_account_with_waiting_messages_stays_unless_forced(acme: httpx.AsyncClient) -> None:
    await acme.post("/commands/add-messages", json={"messages": [a_submission()]})
    answer = await acme.delete("/account/main")
    assert (answer.status_code, answer.json()["ok"]) == (409, False)
    assert (await acme.delete("/account/main?force=true")).status_code == 200
    assert (await acme.get("/account/main")).status_code == 404
    shown = (await acme.get("/messages/M1")).json()
    assert (shown["state"], shown["status"], shown["account_id"]) == ("cancelled", "cancelled", "main")
    assert shown["error_ts"] is not None


async def test_a_hold_is_shown_and_ends_with_a_change(
    instance: Instance, admin: httpx.AsyncClient, acme: httpx.AsyncClient
) -> None:
    (main,) = await instance.store.directory.accounts_of("acme")
    await instance.store.directory.set_hold(main.pk, Hold("535 5.7.8 wrong password", 5.0))
    assert (await account(acme, "main"))["hold"] == {"reason": "535 5.7.8 wrong password", "since": 5.0}
    assert (await admin.get("/status")).json()["accounts_on_hold"] == [
        {"tenant_id": "acme", "id": "main", "reason": "535 5.7.8 wrong password", "since": 5.0}
    ]
    instance.told.accounts.clear()
    assert (await put(acme, id="main", ttl=5)).status_code == 200
    assert (await account(acme, "main"))["hold"] is None
    assert instance.told.accounts == [frozenset({main.pk})]


async def test_a_fallback_has_to_be_another_account_that_there_is(acme: httpx.AsyncClient) -> None:
    for fallback, problem in (("main", "must be another account"), ("theirs", "there is no account 'theirs'")):
        answer = await put(acme, id="main", fallback_account_id=fallback)
        assert answer.status_code == 422
        assert answer.json()["detail"] == [{"field": "fallback_account_id", "problem": problem}]
    await put(acme, **NEW)
    assert (await put(acme, id="main", fallback_account_id="second")).status_code == 200
    assert (await account(acme, "main"))["fallback_account_id"] == "second"


async def test_a_fallback_that_is_deleted_stands_in_nobodys_way(acme: httpx.AsyncClient) -> None:
    await put(acme, **NEW)
    await put(acme, id="main", fallback_account_id="second")
    assert (await acme.delete("/account/second")).status_code == 200
    assert (await put(acme, id="main", ttl=20)).status_code == 200
    assert (await put(acme, id="main", fallback_account_id=None)).status_code == 200
    assert (await account(acme, "main"))["fallback_account_id"] is None


async def test_a_tenant_does_not_try_the_ports_of_a_host_that_only_the_operator_may_name(
    admin: httpx.AsyncClient, acme: httpx.AsyncClient
) -> None:
    await put(admin, id="inside", tenant_id="acme", host="127.0.0.1", port=2525)
    answer = await put(acme, id="inside", port=22)
    assert (answer.status_code, answer.json()["detail"][0]["field"]) == (422, "port")
    assert (await put(acme, id="inside", port=2525, ttl=20)).status_code == 200
    assert (await account(acme, "inside"))["port"] == 2525


async def test_accounts_are_listed_as_a_whole_or_in_pages(acme: httpx.AsyncClient, admin: httpx.AsyncClient) -> None:
    before = [each["id"] for each in (await acme.get("/accounts")).json()["accounts"]]
    for account_id in ("z", "y", "x"):
        assert (
            await acme.post("/account", json={"id": account_id, "host": "smtp.example.com", "port": 25})
        ).status_code == 200
    await admin.post("/tenant", json={"id": "globex"})
    await admin.post("/account", json={"id": "theirs", "tenant_id": "globex", "host": "smtp.example.com", "port": 25})
    whole = (await acme.get("/accounts")).json()
    assert [each["id"] for each in whole["accounts"]] == [*before, "z", "y", "x"]
    assert whole["next_cursor"] is None
    pages, query = [], {"limit": "2"}
    while True:
        page = (await acme.get("/accounts", params=query)).json()
        assert len(page["accounts"]) <= 2
        pages += page["accounts"]
        if page["next_cursor"] is None:
            break
        assert len(page["accounts"]) == 2
        query["cursor"] = page["next_cursor"]
    assert pages == whole["accounts"]
    assert (await acme.get("/accounts", params={"cursor": query["cursor"]})).json()["next_cursor"] is None
    for wrong, field in (("cursor=x", "cursor"), ("limit=1001", "limit"), ("limit=0", "limit"), ("page=2", "page")):
        answer = await acme.get(f"/accounts?{wrong}")
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
        assert answer.json()["detail"][0]["field"] == field
