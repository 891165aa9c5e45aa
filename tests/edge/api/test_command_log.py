"""The command log: every call that may change something, and nothing secret."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel, SecretStr
from typing_extensions import override

from mail_proxy.administration.audit import TOGETHER, AuditLog
from mail_proxy.administration.requests import AccountIn, TenantIn
from mail_proxy.api.application import create_app
from mail_proxy.api.docs import _BODIES
from mail_proxy.api.redaction import MASK, MAX_DETAILS, SHOWN, details, shown_body
from mail_proxy.api.schemas.command_log import CommandLogAnswer
from mail_proxy.domain.command_log import Entry, EntryFilter, Logged, LogPage
from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.runtime.http_server import HttpServer, listening_socket
from mail_proxy.store.command_log import StoreCommandLog
from tests.support.api import ADMIN_TOKEN, Instance, a_submission
from tests.support.logged import logged
from tests.support.stores import an_entry

both_databases = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)


async def entries(admin: httpx.AsyncClient, **query: Any) -> list[dict[str, Any]]:
    answer = await admin.get("/command-log", params=query)
    assert answer.status_code == 200, answer.text
    CommandLogAnswer.model_validate_json(answer.content)
    found: list[dict[str, Any]] = answer.json()["entries"]
    return found


async def exported(client: httpx.AsyncClient, **query: Any) -> list[dict[str, Any]]:
    answer = await client.get("/command-log/export", params=query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.content.split(b"\n")[:-1]]


async def test_every_route_that_may_change_something_leaves_an_entry(
    instance: Instance, admin: httpx.AsyncClient
) -> None:
    changing = [
        (method.upper(), path)
        for path, methods in instance.app.openapi()["paths"].items()
        for method in methods
        if method != "get"
    ]
    assert len(changing) >= 12
    for method, path in changing:
        ids = {"tenant_id": "nobody", "account_id": "none", "message_id": "none"}
        await admin.request(method, path.format_map(ids), json={"no": "such field"})
        (newest, *_) = await entries(admin, limit=1)
        assert (newest["method"], newest["route"]) == (method, path)
        assert newest["status"] in {404, 422}
        assert newest["code"] in {"not_found", "invalid"}
        assert newest["path"] == {name: value for name, value in ids.items() if f"{{{name}}}" in path}
    assert len(await entries(admin)) == len(changing)


@both_databases
async def test_an_entry_says_who_did_what_to_whom_and_what_came_of_it(
    instance: Instance, admin: httpx.AsyncClient, acme: httpx.AsyncClient
) -> None:
    body = {"id": "main", "host": "smtp.example.com", "port": 25, "user": "u", "password": "p4ss"}
    await acme.post("/account?tenant_id=acme", json=body)
    await acme.post("/account", json=body)
    await acme.delete("/tenant/other")
    await admin.post("/commands/suspend?tenant_id=acme&batch_code=spring")
    instance.clock.time += 1.2345
    messages = [a_submission(f"M{n}") for n in range(5)] + [{"id": "bad"}]
    await acme.post("/commands/add-messages", json={"messages": messages})
    shown = [{name: value for name, value in each.items() if name not in {"id", "ts"}} for each in await entries(admin)]
    common: dict[str, Any] = {
        "path": {},
        "query": {},
        "payload": None,
        "result": {},
        "code": None,
        "address": "127.0.0.1",
    }
    account = {"caller": "tenant", "tenant_id": "acme", "method": "POST", "route": "/account"}
    assert shown[:5] == [
        {
            **common,
            "caller": "tenant",
            "tenant_id": "acme",
            "method": "POST",
            "route": "/commands/add-messages",
            "payload": {"messages": 6, "ids": ["M0", "M1", "M2"]},
            "result": {"queued": 5, "duplicates": 0, "replaced": 0, "rejected": 1},
            "status": 200,
        },
        {
            **common,
            "caller": "admin",
            "tenant_id": "acme",
            "method": "POST",
            "route": "/commands/suspend",
            "query": {"tenant_id": "acme", "batch_code": "spring"},
            "result": {"pending_messages": 0, "suspended": False},
            "status": 200,
        },
        {
            **common,
            "caller": "tenant",
            "tenant_id": "acme",
            "method": "DELETE",
            "route": "/tenant/{tenant_id}",
            "path": {"tenant_id": "other"},
            "status": 403,
            "code": "admin_only",
        },
        {
            **common,
            **account,
            "payload": {**body, "user": MASK, "password": MASK},
            "result": {"created": False},
            "status": 200,
        },
        {**common, **account, "query": {"tenant_id": "acme"}, "status": 422, "code": "invalid"},
    ]
    newest = (await entries(admin, limit=1))[0]
    assert newest["ts"] == round(instance.clock.time, 3)


async def test_a_change_of_the_instance_shows_what_was_given(instance: Instance, admin: httpx.AsyncClient) -> None:
    await admin.put("/instance", json={"instance_name": "mail-eu", "scheduler_active": False})
    (entry,) = await entries(admin)
    assert entry["payload"] == {"instance_name": "mail-eu", "scheduler_active": False}
    assert (entry["caller"], entry["tenant_id"], entry["status"]) == ("admin", None, 200)


async def test_refused_tokens_and_what_only_reads_leave_no_entry(instance: Instance, admin: httpx.AsyncClient) -> None:
    async with instance.client("unknown") as stranger:
        assert (await stranger.post("/tenant", json={"id": "x"})).status_code == 401
        assert (await stranger.post("/commands/add-messages", json={})).status_code == 401
    await admin.get("/tenants")
    assert (await admin.post("/no-such-route")).status_code == 404
    assert await entries(admin) == []


@both_databases
async def test_pages_and_filters_go_from_new_to_old_and_the_export_from_old_to_new(
    instance: Instance, admin: httpx.AsyncClient
) -> None:
    start = instance.clock.time
    for n in range(12):
        instance.clock.time = start + n // 3  # several at one moment
        await admin.post("/tenant", json={"id": f"t{n % 2}", "name": f"number {n}"})
    await admin.delete("/tenant/t0")
    everything = await entries(admin)
    assert [each["payload"]["name"] for each in everything[1:]] == [f"number {n}" for n in reversed(range(12))]
    assert await exported(admin) == everything[::-1]

    paged: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await admin.get("/command-log", params={"limit": 5, **cursor})).json()
        paged += page["entries"]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert paged == everything

    for query, expected in {
        "tenant_id=t1": [e for e in everything if e["tenant_id"] == "t1"],
        f"since={start + 1}&until={start + 3}": [e for e in everything if start + 1 <= e["ts"] < start + 3],
        f"tenant_id=t0&since={start + 1}&until={start + 3}": [
            e for e in everything if e["tenant_id"] == "t0" and start + 1 <= e["ts"] < start + 3
        ],
        "method=DELETE": everything[:1],
        "method=DELETE&tenant_id=t0": everything[:1],  # they stay when the tenant goes
        "route=/tenant/{tenant_id}": everything[:1],
        "route=/tenant&method=DELETE": [],
        "route=/tenant&limit=4": everything[1:5],
    }.items():
        assert (await admin.get(f"/command-log?{query}")).json()["entries"] == expected, query
        if "limit" not in query:
            assert await exported(admin, **dict(httpx.QueryParams(query))) == expected[::-1], query


HOSTILE = "a\n\0\x1b[31m\u2028\ud800\"'%"


@both_databases
async def test_hostile_text_breaks_neither_the_database_nor_a_line(
    instance: Instance, admin: httpx.AsyncClient, acme: httpx.AsyncClient
) -> None:
    raw = json.dumps({"messages": [{"id": HOSTILE}, {"id": "x" * 100_000}, 7]})
    answer = await acme.post("/commands/add-messages", content=raw)
    assert answer.json()["ok"] is False
    await admin.delete("/account/%0a%00%1b%5b31m%e2%80%a8%ed%a0%80%22'%25?tenant_id=%00&batch_code=%0a%ed%a0%80")
    await admin.delete("/account/" + "%f0%9f%98%80" * 3000 + "?tenant_id=acme")
    await admin.request("DELETE", "/account/main?" + "&".join(f"{name}=1" for name in range(2000)))
    newest = await entries(admin, limit=4)
    assert newest[1]["path"] == {"account_id": "\U0001f600" * 255}
    assert newest[2]["path"]["account_id"].startswith("\n\0\x1b[31m\u2028")
    assert newest[2]["tenant_id"] is None
    assert newest[3]["result"]["rejected"] == 3
    assert [len(each or "") for each in newest[3]["payload"]["ids"]] == [len(newest[3]["payload"]["ids"][0]), 255, 0]
    assert (await exported(admin))[-1] == newest[0]


def test_no_secret_of_any_body_is_shown() -> None:
    def secrets(model: type[BaseModel]) -> set[str]:
        return {name for name, field in model.model_fields.items() if SecretStr.__name__ in str(field.annotation)}

    found = {name for model in _BODIES for name in secrets(model)}
    assert "password" in found
    assert not found & SHOWN
    account = AccountIn.model_validate({"id": "main", "password": None, "user": "u", "port": 25})
    assert shown_body(account) == {"id": "main", "port": 25, "user": MASK, "password": None}
    oauth = {"token_url": "https://login.example/secret", "client_secret": "s", "refresh_token": "r"}
    assert shown_body(AccountIn.model_validate({"id": "main", "oauth": oauth})) == {
        "id": "main",
        "oauth": {"token_url": "https://login.example", "client_secret": MASK, "refresh_token": MASK},
    }
    auth = {"method": "bearer", "token": "a-token"}
    tenant = TenantIn.model_validate(
        {"id": "acme", "client_auth": auth, "client_base_url": "https://hooks.example/secret", "client_sync_path": "/s"}
    )
    assert shown_body(tenant) == {
        "id": "acme",
        "client_base_url": "https://hooks.example",
        "client_sync_path": MASK,
        "client_auth": {"method": "bearer", "token": MASK},
    }


def test_details_are_bounded() -> None:
    long = {"payload": {f"field{n}": "\U0001f600" * 255 for n in range(40)}, "path": {"account_id": "main"}}
    text = details(**long, query={"tenant_id": "acme"}, result={})
    assert len(text) <= MAX_DETAILS
    assert json.loads(text)["path"] == {"account_id": "main"}


class GoesAway(StoreCommandLog):
    """The real log, which cannot be written for a while, or not read on after a page."""

    away = False
    pages_left = 1000

    @override
    async def append(self, entries: Sequence[Entry], *, again: bool) -> None:
        if self.away:
            raise StoreUnavailable("the database is away")
        await super().append(entries, again=again)

    @override
    async def page(self, *arguments: Any, **options: Any) -> LogPage:
        self.pages_left -= 1
        if self.pages_left < 0:
            raise StoreUnavailable("the database is away")
        return await super().page(*arguments, **options)


async def test_an_action_is_answered_as_done_although_its_entry_has_to_wait(instance: Instance) -> None:
    log = GoesAway(instance.store.database)
    app = create_app(replace(instance.services, audit=AuditLog(log, instance.clock, 1.0)))
    async with instance.client(app=app) as admin:
        log.away = True
        assert (await admin.post("/tenant", json={"id": "acme"})).status_code == 200
        assert await entries(admin) == []
        log.away = False
        assert [each["tenant_id"] for each in await entries(admin)] == ["acme"]


@asynccontextmanager
async def serving_http(app: FastAPI) -> AsyncIterator[str]:
    """Serve an application as the service does; gives its URL."""
    listening = listening_socket("127.0.0.1", 0)
    server, started = HttpServer(app, listening), asyncio.Event()
    running = asyncio.create_task(server.run(started.set))
    await started.wait()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.stop()
        await running
        listening.close()


class BrokenLog(AuditLog):
    """Has a mistake that nobody foresaw."""

    @override
    async def record(self, entry: Entry) -> None:
        raise ValueError(entry.route)


async def test_a_mistake_in_taking_down_spoils_no_answer(instance: Instance) -> None:
    broken = BrokenLog(instance.store.command_log, instance.clock, 1.0)
    app = create_app(replace(instance.services, audit=broken))
    async with instance.client(app=app) as admin:
        with logged() as lines:
            answer = await admin.post("/tenant", json={"id": "acme"})
        assert (answer.status_code, answer.json()["ok"]) == (200, True)
    assert [line["event"] for line in lines] == ["an entry of the command log cannot be made"]


class EndlessLog(AuditLog):
    """Exports the same for ever, and says when nobody wants more."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.ended = asyncio.Event()

    @override
    async def all(self, wanted: EntryFilter) -> AsyncGenerator[Sequence[Logged], None]:
        try:
            while True:
                async with aclosing(super().all(wanted)) as chunks:
                    async for chunk in chunks:
                        yield chunk
        finally:
            self.ended.set()


async def test_an_export_ends_when_its_client_goes_away(instance: Instance) -> None:
    endless = EndlessLog(instance.store.command_log, instance.clock, 1.0)
    endless.note(an_entry(1, ts=instance.clock.time, details=details(path={"id": "x" * 255})))
    app = create_app(replace(instance.services, audit=endless))
    headers = {"X-API-Token": ADMIN_TOKEN}
    async with serving_http(app) as url, httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as admin:
        async with admin.stream("GET", "/command-log/export") as answer:
            assert json.loads(await anext(answer.aiter_lines()))["id"] == "1"
        await endless.ended.wait()


async def test_an_export_that_cannot_go_on_is_cut_and_one_that_cannot_begin_is_refused(instance: Instance) -> None:
    log = GoesAway(instance.store.database)
    await log.append([an_entry(n, ts=instance.clock.time) for n in range(TOGETHER + 1)], again=False)
    app = create_app(replace(instance.services, audit=AuditLog(log, instance.clock, 1.0)))
    headers = {"X-API-Token": ADMIN_TOKEN}
    async with serving_http(app) as url, httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as admin:
        assert len(await exported(admin)) == TOGETHER + 1
        log.pages_left = 1
        with pytest.raises(httpx.RemoteProtocolError), logged() as lines:
            await exported(admin)
        assert [line["event"] for line in lines] == ["an export is cut off"]
        refused = await admin.get("/command-log/export")
        assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")


async def test_what_is_older_than_a_time_can_be_removed_and_that_is_logged(
    instance: Instance, admin: httpx.AsyncClient
) -> None:
    await admin.post("/tenant", json={"id": "acme"})
    instance.clock.time += 10
    between = instance.clock.now()
    await admin.post("/tenant", json={"id": "other"})
    instance.clock.time += 10
    assert (await admin.delete("/command-log")).status_code == 422
    answer = await admin.delete("/command-log", params={"until": between})
    assert answer.json() == {"ok": True, "removed": 1, "more": False}
    entries = (await admin.get("/command-log")).json()["entries"]
    assert [(each["method"], each["route"], each["result"].get("removed")) for each in entries] == [
        ("DELETE", "/command-log", 1),
        ("DELETE", "/command-log", None),
        ("POST", "/tenant", None),
    ]
    assert entries[0]["query"] == {"until": str(between)}
