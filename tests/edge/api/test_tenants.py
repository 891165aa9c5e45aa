"""Tenants and their keys by the API."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from mail_proxy.client import AsyncMailProxyClient
from mail_proxy.domain.account import Account
from mail_proxy.domain.tenant import Tenant
from tests.support.api import ADMIN_TOKEN, Instance, a_submission, new_tenant

FULL = {
    "id": "acme",
    "name": "ACME Corp",
    "client_base_url": "https://acme.example/base",
    "client_sync_path": "/sync",
    "client_attachment_path": "/files",
    "client_auth": {"method": "basic", "user": "proxy", "password": "secret"},
    "active": False,
    "on_uncertain": "fail",
    "api_key_expires_at": 1_900_000_000,
}


async def tenant(client: httpx.AsyncClient, tenant_id: str = "acme") -> dict[str, Any]:
    shown: dict[str, Any] = (await client.get(f"/tenant/{tenant_id}")).json()
    return shown


async def test_a_new_tenant_gets_a_key_that_is_shown_once(instance: Instance, admin: httpx.AsyncClient) -> None:
    made = (await admin.post("/tenant", json={"id": "acme"})).json()
    assert made.keys() == {"ok", "created", "api_key"}
    assert made["created"] is True
    assert len(made["api_key"]) == 43
    assert (await admin.post("/tenant", json={"id": "acme"})).json() == {"ok": True, "created": False}
    async with instance.client(made["api_key"]) as client:
        assert (await client.get("/tenant/acme")).status_code == 200
    for url in ("/tenant/acme", "/tenants"):
        assert made["api_key"] not in (await admin.get(url)).text


async def test_settings_are_shown_as_they_were_given_but_for_secrets(admin: httpx.AsyncClient) -> None:
    assert (await admin.post("/tenant", json=FULL)).status_code == 200
    shown = await tenant(admin)
    assert {name: shown[name] for name in FULL if name != "client_auth"} == {
        name: value for name, value in FULL.items() if name != "client_auth"
    }
    assert shown["client_auth"] == {"method": "basic", "has_token": False, "user": "proxy", "has_password": True}
    assert (await admin.get("/tenants")).json()["tenants"] == [{n: v for n, v in shown.items() if n != "ok"}]


async def test_what_a_change_leaves_out_stays_as_it_is(admin: httpx.AsyncClient) -> None:
    await admin.post("/tenant", json=FULL)
    before = await tenant(admin)
    assert (await admin.put("/tenant/acme", json={"name": "New"})).status_code == 200
    assert await tenant(admin) == {**before, "name": "New"}
    assert (await admin.post("/tenant", json={"id": "acme", "active": True})).status_code == 200
    assert await tenant(admin) == {**before, "name": "New", "active": True}


async def test_null_gives_the_default_back(admin: httpx.AsyncClient) -> None:
    await new_tenant(admin, "plain")
    await admin.post("/tenant", json=FULL)
    assert (await admin.put("/tenant/acme", json={n: None for n in FULL if n != "id"})).status_code == 200
    assert await tenant(admin) == {**await tenant(admin, "plain"), "id": "acme"}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an id with a space": ({"id": "a b"}, "id"),
    "an id that is too long": ({"id": "a" * 65}, "id"),
    "an id of dots": ({"id": ".."}, "id"),
    "an id that is a command": ({"id": "tenants"}, "id"),
    "an id that is a number": ({"id": 5}, "id"),
    "an unknown field": ({"colour": "red"}, "colour"),
    "an unknown field within": ({"client_auth": {"method": "none", "colour": "red"}}, "client_auth.colour"),
    "a negative rate limit": ({"rate_limits": {"hourly": -5}}, "rate_limits.hourly"),
    "a rate limit by the minute": ({"rate_limits": {"minutely": 5}}, "rate_limits.minutely"),
    "large files without a storage": ({"large_file_config": {"action": "rewrite"}}, "large_file_config.storage_url"),
    "a name with a line break": ({"name": "a\nb"}, "name"),
    "a base that is no URL": ({"client_base_url": "acme.example"}, "client_base_url"),
    "a base of another scheme": ({"client_base_url": "file:///etc/passwd"}, "client_base_url"),
    "a base with a password": ({"client_base_url": "https://u:p@acme.example"}, "client_base_url"),
    "a base with a query": ({"client_base_url": "https://acme.example/?a=b"}, "client_base_url"),
    "a base with a bad port": ({"client_base_url": "https://acme.example:port"}, "client_base_url"),
    "a path to elsewhere": ({"client_sync_path": "https://evil.example/"}, "client_sync_path"),
    "a path with a line break": ({"client_sync_path": "/a\r\nX: y"}, "client_sync_path"),
    "a truth value as text": ({"active": "yes"}, "active"),
    "an unknown choice": ({"on_uncertain": "maybe"}, "on_uncertain"),
    "an end in milliseconds": ({"api_key_expires_at": 1_900_000_000_000}, "api_key_expires_at"),
    "an end in the past": ({"api_key_expires_at": 1}, "api_key_expires_at"),
    "a bearer without token": ({"client_auth": {"method": "bearer"}}, "client_auth.token"),
    "a token for nothing": ({"client_auth": {"method": "none", "token": "t"}}, "client_auth.token"),
    "a basic without password": ({"client_auth": {"method": "basic", "user": "u"}}, "client_auth.password"),
    "a method that is not known": ({"client_auth": {"method": "digest"}}, "client_auth.method"),
}


async def test_what_is_wrong_is_named_and_nothing_is_stored(admin: httpx.AsyncClient) -> None:
    for name, (body, field) in WRONG.items():
        answer = await admin.post("/tenant", json={"id": "acme", **body})
        assert answer.status_code == 422, name
        assert [each["field"] for each in answer.json()["detail"]] == [field], name
    assert (await admin.get("/tenants")).json()["tenants"] == []


async def test_a_put_takes_its_id_from_the_path_alone(admin: httpx.AsyncClient) -> None:
    await new_tenant(admin, "acme")
    answer = await admin.put("/tenant/acme", json={"id": "other"})
    assert (answer.status_code, answer.json()["detail"][0]["field"]) == (422, "id")


async def test_a_tenant_with_unfinished_messages_stays_unless_forced(
    admin: httpx.AsyncClient, acme: httpx.AsyncClient
) -> None:
    await acme.post("/commands/add-messages", json={"messages": [a_submission()]})
    answer = await admin.delete("/tenant/acme")
    assert (answer.status_code, answer.json()["ok"]) == (409, False)
    assert (await acme.get("/messages/M1")).status_code == 200
    assert (await admin.delete("/tenant/acme?force=true")).status_code == 200
    assert (await admin.get("/tenant/acme")).status_code == 404
    assert (await acme.get("/messages")).status_code == 401


async def test_an_end_of_the_key_can_be_set_later(instance: Instance, admin: httpx.AsyncClient) -> None:
    token = await new_tenant(admin, "acme")
    end = instance.clock.now() + 60
    assert (await admin.put("/tenant/acme", json={"api_key_expires_at": end})).status_code == 200
    assert (await tenant(admin))["api_key_expires_at"] == end
    instance.clock.time = end
    async with instance.client(token) as client:
        assert (await client.get("/status")).status_code == 401


async def test_a_new_key_has_no_end_unless_it_is_given_one(instance: Instance, admin: httpx.AsyncClient) -> None:
    await admin.post("/tenant", json={"id": "acme", "api_key_expires_at": instance.clock.now() + 1})
    assert (await admin.post("/tenant/acme/api-key")).status_code == 200
    shown = await tenant(admin)
    assert (shown["has_api_key"], shown["api_key_expires_at"]) == (True, None)
    assert (await admin.delete("/tenant/acme/api-key")).status_code == 200
    assert (await tenant(admin))["has_api_key"] is False


async def test_a_signing_secret_is_shown_once_and_the_one_before_it_signs_along_for_a_day(
    instance: Instance, admin: httpx.AsyncClient
) -> None:
    await new_tenant(admin, "acme")
    assert (await tenant(admin))["signs_reports"] is False
    first = (await admin.post("/tenant/acme/signing-secret")).json()
    second = (await admin.post("/tenant/acme/signing-secret")).json()
    assert first["signing_secret"].startswith("whsec_")
    assert first["signing_secret"] != second["signing_secret"]
    assert (first["earlier_secrets_until"], second["earlier_secrets_until"]) == (None, instance.clock.now() + 86400)
    shown = await admin.get("/tenant/acme")
    assert "whsec_" not in shown.text
    assert (shown.json()["signs_reports"], shown.json()["earlier_secrets_until"]) == (
        True,
        second["earlier_secrets_until"],
    )
    assert (await admin.delete("/tenant/acme/signing-secret")).json() == {"ok": True}
    assert (await tenant(admin))["signs_reports"] is False
    for method in ("POST", "DELETE"):
        assert (await admin.request(method, "/tenant/nobody/signing-secret")).status_code == 404


async def test_tenants_are_listed_as_a_whole_or_in_pages(admin: httpx.AsyncClient) -> None:
    for tenant_id in ("c", "a", "b", "d"):
        await new_tenant(admin, tenant_id)
    whole = (await admin.get("/tenants")).json()
    assert ([each["id"] for each in whole["tenants"]], whole["next_cursor"]) == (["a", "b", "c", "d"], None)
    first = (await admin.get("/tenants?limit=2")).json()
    assert (first["tenants"], first["next_cursor"]) == (whole["tenants"][:2], "b")
    await admin.delete("/tenant/b")
    second = (await admin.get("/tenants?limit=2&cursor=b")).json()
    assert second == {"ok": True, "tenants": whole["tenants"][2:], "next_cursor": None}
    assert (await admin.get("/tenants?cursor=c")).json()["tenants"] == whole["tenants"][3:]
    assert (await admin.get("/tenants?cursor=d")).json() == {"ok": True, "tenants": [], "next_cursor": None}
    for query, field in (
        ("cursor=a%20b", "cursor"),
        ("limit=1001", "limit"),
        ("limit=0", "limit"),
        ("tenant_id=a", "tenant_id"),
    ):
        answer = await admin.get(f"/tenants?{query}")
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
        assert answer.json()["detail"][0]["field"] == field


async def test_a_cursor_without_a_limit_gives_a_page_of_a_hundred(instance: Instance, admin: httpx.AsyncClient) -> None:
    ids = [f"t{n:03}" for n in range(102)]
    await asyncio.gather(*(instance.store.directory.put_tenant(Tenant(each), None) for each in ids))
    page = (await admin.get("/tenants?cursor=t000")).json()
    assert ([each["id"] for each in page["tenants"]], page["next_cursor"]) == (ids[1:101], "t100")


async def test_the_client_lists_what_is_more_than_a_page(instance: Instance) -> None:
    ids = [f"t{n:04}" for n in range(1001)]
    directory = instance.store.directory
    for start in range(0, len(ids), 100):  # each is answered within seconds, also where the machine is busy
        some = ids[start : start + 100]
        await asyncio.gather(*(directory.put_tenant(Tenant(each), None) for each in some))
        made = (Account(0, "t0000", each, "smtp.example.com", 25) for each in some)
        await asyncio.gather(*(directory.put_account(each) for each in made))
    async with instance.client() as http:
        proxy = AsyncMailProxyClient("http://testserver", ADMIN_TOKEN, http=http)
        assert [each["id"] for each in await proxy.tenants.list()] == ids
        # those who are put at the same moment come in any order, each of them once
        assert sorted(each["id"] for each in await proxy.of_tenant("t0000").accounts.list()) == ids


async def test_how_reporting_goes_is_shown_in_pages(admin: httpx.AsyncClient) -> None:
    for tenant_id in ("c", "a", "b"):
        await new_tenant(admin, tenant_id)
    first = (await admin.get("/tenants/sync-status?limit=2")).json()
    assert [each["tenant_id"] for each in first["tenants"]] == ["a", "b"]
    assert set(first["tenants"][0].values()) == {"a", None, False}  # which is 0 as well
    second = (await admin.get(f"/tenants/sync-status?limit=2&cursor={first['next_cursor']}")).json()
    assert [each["tenant_id"] for each in second["tenants"]] == ["c"]
    assert second["next_cursor"] is None
    for query, field in (("cursor=a%20b", "cursor"), ("limit=1001", "limit"), ("tenant_id=a", "tenant_id")):
        answer = await admin.get(f"/tenants/sync-status?{query}")
        assert (answer.status_code, answer.json()["detail"][0]["field"]) == (422, field)


async def test_changes_of_a_tenant_at_the_same_time_all_count(admin: httpx.AsyncClient) -> None:
    await admin.post("/tenant", json={"id": "acme"})
    changes: dict[str, Any] = {
        "name": "ACME",
        "active": False,
        "client_base_url": "https://acme.example",
        "on_uncertain": "fail",
        "rate_limits": {"hourly": 5},
    }
    answers = await asyncio.gather(*(admin.put("/tenant/acme", json={each: changes[each]}) for each in changes))
    assert {each.status_code for each in answers} == {200}
    shown = await tenant(admin)
    assert {each: shown[each] for each in changes} == {**changes, "rate_limits": shown["rate_limits"]}
    assert shown["rate_limits"]["hourly"] == 5


async def test_a_tenant_that_is_changed_while_it_is_removed_is_gone_all_the_same(admin: httpx.AsyncClient) -> None:
    for _ in range(5):
        await admin.post("/tenant", json={"id": "acme"})
        removed, *changed = await asyncio.gather(
            admin.delete("/tenant/acme?force=true"),
            *(admin.put("/tenant/acme", json={"name": f"n{n}"}) for n in range(5)),
        )
        assert removed.status_code == 200
        assert {each.status_code for each in changed} <= {200, 404}
        assert (await admin.get("/tenant/acme")).status_code == 404
