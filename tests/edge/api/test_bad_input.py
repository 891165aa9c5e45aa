"""Hostile and mistaken requests: a clear 4xx, nothing stored, never a 500."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from structlog.testing import capture_logs

from mail_proxy.api import bodies
from mail_proxy.api.application import create_app
from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.ports.directory import KeyedTenant
from tests.support.api import ADMIN_TOKEN, Instance, a_submission, new_tenant

both_databases = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)

MESSAGE = json.dumps(a_submission())
BODIES: dict[str, bytes] = {
    "nothing": b"",
    "not JSON": b"hello",
    "cut": b'{"messages": [',
    "two values": b"{} {}",
    "an array": b"[]",
    "a text": b'"messages"',
    "null": b"null",
    "duplicate keys": b'{"messages": [], "messages": []}',
    "duplicate keys within": b'{"messages": [{"id": "M1", "id": "M2"}]}',
    "NaN": b'{"messages": [{"id": "M1", "deferred_ts": NaN}]}',
    "Infinity": b'{"messages": [{"id": "M1", "deferred_ts": -Infinity}]}',
    "a number beyond all": b'{"messages": [{"id": "M1", "deferred_ts": 1e999}]}',
    "a huge whole number": b'{"messages": [{"id": "M1", "priority": ' + b"9" * 5000 + b"}]}",
    "deep": b'{"messages": ' + b"[" * 4_000 + b"]" * 4_000 + b"}",
    "deep objects": b'{"a":' * 40 + b"1" + b"}" * 40,
    "UTF-16": '{"messages": []}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "broken UTF-8": b'{"messages": "\xff"}',
    "a raw control character": b'{"messages": "a\nb"}',
    "single quotes": b"{'messages': []}",
    "a comment": b'{"messages": []} // done',
}


@pytest.mark.parametrize("path", ["/commands/add-messages", "/account", "/tenant"])
async def test_what_is_no_json_object_is_refused(admin: httpx.AsyncClient, path: str) -> None:
    for name, body in BODIES.items():
        begun = time.monotonic()
        answer = await admin.post(path, content=body)
        assert time.monotonic() - begun < 1, name
        found = answer.json()
        assert (answer.status_code, found["ok"], found["code"]) == (422, False, "invalid"), name
        assert found["detail"][0]["problem"], name


BAD_BATCHES: dict[str, tuple[dict[str, Any], str]] = {
    "no messages": ({}, "messages"),
    "messages that are no list": ({"messages": {"id": "M1"}}, "messages"),
    "messages that are null": ({"messages": None}, "messages"),
    "an unknown field": ({"messages": [], "urgent": True}, "urgent"),
    "an unknown priority": ({"messages": [], "default_priority": "soon"}, "default_priority"),
    "a priority out of range": ({"messages": [], "default_priority": 4}, "default_priority"),
    "a priority that is a truth value": ({"messages": [], "default_priority": True}, "default_priority"),
}


async def test_a_batch_that_is_wrong_as_a_whole_names_the_field(acme: httpx.AsyncClient) -> None:
    for name, (body, field) in BAD_BATCHES.items():
        answer = await acme.post("/commands/add-messages", json=body)
        assert answer.status_code == 422, name
        assert [each["field"] for each in answer.json()["detail"]] == [field], name


BAD_ITEMS: dict[str, object] = {
    "null": None,
    "text": "M1",
    "no id": {"from": "a@example.com"},
    "a list as id": {**a_submission(), "id": [1]},
    "unknown field": {**a_submission(), "colour": "red"},
    "wrong type": {**a_submission(), "subject": 5},
    "unknown account": {**a_submission(), "account_id": "nope"},
    "half a surrogate": {**a_submission(), "subject": "\ud800"},
    "half a surrogate as id": {**a_submission(), "id": "\ud800"},
    "line break": {**a_submission(), "subject": "a\nBcc: c@example.org"},
    "deep metadata": {**a_submission(), "metadata": {"a": [[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]}},
    "40 000 recipients": {**a_submission(), "to": ["b@example.net"] * 40_000},
}


@both_databases
async def test_a_bad_message_spoils_no_other(admin: httpx.AsyncClient, acme: httpx.AsyncClient) -> None:
    for number, (name, item) in enumerate(BAD_ITEMS.items()):
        good = a_submission(f"good-{number}")
        body = json.dumps({"messages": [item, good]}).encode("ascii")
        answer = await acme.post("/commands/add-messages", content=body)
        assert answer.status_code == 200, (name, answer.text)
        found = answer.json()
        assert (found["ok"], found["queued"], len(found["rejected"])) == (True, 1, 1), (name, found)
        assert found["rejected"][0]["index"] == 0
        assert found["rejected"][0]["reason"]
        assert found["rejected"][0]["code"]
    listed = (await acme.get("/messages")).json()["messages"]
    assert len(listed) == len(BAD_ITEMS)


UNKNOWN_QUERIES = [
    ("GET", "/messages?colour=red", "colour"),
    ("GET", "/messages?limit=5&limit=6", "limit"),
    ("GET", "/messages?limit=0", "limit"),
    ("GET", "/messages?limit=1001", "limit"),
    ("GET", "/messages?limit=ten", "limit"),
    ("GET", "/messages?status=gone", "status"),
    ("GET", "/messages?state=gone", "state"),
    ("GET", "/messages?priority=4", "priority"),
    ("GET", "/messages?active_only=perhaps", "active_only"),
    ("GET", "/messages?cursor=abc", "cursor"),
    ("GET", "/messages?cursor=99999999999999999999", "cursor"),
    ("GET", "/messages?cursor=f_AAAAAAAAAAAAAAAAAAAQ", "cursor"),  # infinite
    ("GET", "/messages?cursor=AAAAAAAAAAAAAAAAAAAAAB", "cursor"),  # not as we write it
    ("GET", "/messages?cursor=AAAAAAAAAAAAAAAAAAAD1Q", "cursor"),  # of accounts
    ("GET", "/accounts?cursor=QdqbHlgP_3sAAAAAAAAD1Q", "cursor"),  # of messages
    ("GET", "/messages?created_from=soon", "created_from"),
    ("GET", "/messages?created_to=1785492000000", "created_to"),
    ("GET", "/messages?created_to=NaN", "created_to"),
    ("GET", "/messages?metadata=x", "metadata"),
    ("GET", "/messages?metadata.x=1&metadata.x=2", "metadata.x"),
    ("GET", "/messages?meta.x=1", "meta.x"),
    ("GET", f"/messages?subject={'x' * 256}", "subject"),
    ("GET", "/messages?batch_code=%00", "batch_code"),
    ("GET", "/messages?account_id=a%0Ab", "account_id"),
    ("GET", "/messages/M1?x=1", "x"),
    ("GET", "/events?after=", "after"),
    ("GET", "/events?after=-1", "after"),
    ("GET", "/events?after=+1", "after"),
    ("GET", "/events?after=1%0A", "after"),
    ("GET", "/events?after=%D9%A1", "after"),  # a digit all the same
    ("GET", "/events?after=99999999999999999999", "after"),
    ("GET", "/events?after=oldest", "after"),
    ("GET", "/events?after=1&after=2", "after"),
    ("GET", "/events?limit=0", "limit"),
    ("GET", "/events?limit=1001", "limit"),
    ("GET", "/events?wait=-1", "wait"),
    ("GET", "/events?wait=30.1", "wait"),
    ("GET", "/events?wait=NaN", "wait"),
    ("GET", "/events?wait=inf", "wait"),
    ("GET", "/events?cursor=1", "cursor"),
    ("GET", "/accounts?x=1", "x"),
    ("GET", "/status?tenant=acme", "tenant"),
    ("POST", "/commands/add-messages?x=1", "x"),
    ("POST", "/commands/run-now?batch_code=b", "batch_code"),
    ("POST", "/commands/suspend?batch_code=", "batch_code"),
    ("POST", "/account?tenant_id=acme", "tenant_id"),
    ("DELETE", "/account/main?force=perhaps", "force"),
    ("GET", "/health?x=1", "x"),
]


@both_databases
async def test_a_query_that_is_not_understood_is_refused(acme: httpx.AsyncClient) -> None:
    for method, url, field in UNKNOWN_QUERIES:
        answer = await acme.request(method, url)
        assert answer.status_code == 422, url
        assert [each["field"] for each in answer.json()["detail"]] == [field], url


@both_databases
async def test_what_is_unknown_is_not_found(admin: httpx.AsyncClient, acme: httpx.AsyncClient) -> None:
    for client, method, url in [
        (acme, "GET", "/messages/nope"),
        (acme, "GET", "/messages/nope/events"),
        (acme, "GET", "/messages/%00"),
        (acme, "GET", "/messages/" + "x" * 256),
        (acme, "GET", "/account/nope"),
        (acme, "GET", "/account/%00"),
        (acme, "DELETE", "/account/nope"),
        (acme, "GET", "/nope"),
        (acme, "GET", "/messages/"),
        (acme, "GET", "/docs/assets/nope.js"),
        (acme, "GET", "/docs/assets/..%2fdocs.py"),
        (admin, "GET", "/tenant/nope"),
        (admin, "GET", "/tenant/%00"),
        (admin, "DELETE", "/tenant/nope"),
        (admin, "POST", "/tenant/nope/api-key"),
        (admin, "DELETE", "/tenant/nope/api-key"),
        (admin, "GET", "/accounts?tenant_id=nope"),
        (admin, "GET", "/messages?tenant_id=%00"),
        (admin, "POST", "/commands/suspend?tenant_id=nope"),
        (admin, "POST", "/commands/run-now?tenant_id=nope"),
    ]:
        answer = await client.request(method, url)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), url
    body = {"id": "a", "tenant_id": "nope", "host": "smtp.example.com", "port": 25}
    assert (await admin.post("/account", json=body)).status_code == 404
    assert (await admin.put("/tenant/nope", json={})).status_code == 404


STRANGE = ["a'b", 'a"b', "a%", "a_", "a\\", "a'; DROP TABLE messages; --", "{a}", "a*", "ab"]


@both_databases
async def test_metacharacters_of_sql_and_of_patterns_are_taken_literally(acme: httpx.AsyncClient) -> None:
    messages = [a_submission(each, batch_code=each, metadata={each: each}) for each in STRANGE]
    answer = await acme.post("/commands/add-messages", json={"messages": messages})
    assert answer.json()["queued"] == len(STRANGE), answer.text
    for each in STRANGE:
        found = (await acme.get("/messages", params={"batch_code": each})).json()["messages"]
        assert [message["id"] for message in found] == [each]
        shown = (await acme.get(f"/messages/{quote(each, safe='')}")).json()
        assert (shown["id"], shown["metadata"]) == (each, {each: each})
        held = await acme.post("/commands/suspend", params={"batch_code": each})
        assert (held.json()["suspended_batches"], held.json()["pending_messages"]) == ([each], 1)
        await acme.post("/commands/activate", params={"batch_code": each})


async def test_another_method_is_named_as_such(acme: httpx.AsyncClient) -> None:
    for method, url, allowed in [
        ("PUT", "/health", "GET, HEAD"),
        ("GET", "/commands/add-messages", "POST"),
        ("PATCH", "/tenant/acme", "DELETE, GET, PUT"),
        ("HEAD", "/account/main", "DELETE, GET"),
    ]:
        answer = await acme.request(method, url)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed), url
        if method != "HEAD":
            sentence = f"This route does not take {method}, but {allowed}."
            assert answer.json() == {"ok": False, "error": sentence, "code": "method_not_allowed"}, url


async def test_who_looks_for_the_way_is_told_where_it_is_written_down(acme: httpx.AsyncClient) -> None:
    answer = await acme.get("/")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    for path in ("/docs", "/openapi.json"):
        assert path in answer.json()["error"]
        assert (await acme.get(path)).status_code == 200


@pytest.mark.parametrize("path", ["/commands/add-messages", "/account"])
async def test_a_body_over_the_limit_is_too_large(acme: httpx.AsyncClient, path: str) -> None:
    answer = await acme.post(path, content=b" " * 1_000_001)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


async def test_a_body_without_an_end_is_given_up_early(acme: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 100_000_000:
            sent += 100_000
            yield b" " * 100_000

    answer = await acme.post("/commands/add-messages", content=endless())
    assert answer.status_code == 413
    assert sent <= 1_200_000


async def test_a_batch_of_too_many_messages_is_too_large(acme: httpx.AsyncClient) -> None:
    answer = await acme.post("/commands/add-messages", json={"messages": [{}] * 1001})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


async def test_a_compressed_body_is_not_unpacked(acme: httpx.AsyncClient) -> None:
    answer = await acme.post("/commands/add-messages", content=b"x", headers={"Content-Encoding": "gzip"})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_encoding")


async def test_a_body_that_never_comes_is_given_up(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "PATIENCE", 0.01)
    never = asyncio.Event()
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await never.wait()
        raise AssertionError("unreachable")

    async def send(event: dict[str, Any]) -> None:
        sent.append(event)

    headers = [(b"x-api-token", ADMIN_TOKEN.encode()), (b"content-length", b"5")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/commands/add-messages",
        "query_string": b"",
        "headers": headers,
    }
    await instance.app(scope, receive, send)  # type: ignore[arg-type]  # plain dicts, as servers pass them
    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"])["code"] == "timeout"


async def test_a_client_that_leaves_is_not_an_error(instance: Instance) -> None:
    sent: list[object] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(event: object) -> None:
        sent.append(event)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/commands/add-messages",
        "query_string": b"",
        "headers": [(b"x-api-token", ADMIN_TOKEN.encode())],
    }
    await instance.app(scope, receive, send)
    assert sent == []


async def test_routes_without_a_body_refuse_one(acme: httpx.AsyncClient) -> None:
    assert (await acme.post("/commands/suspend", json={"tenant_id": "acme"})).status_code == 422
    assert (await acme.post("/commands/suspend", json={})).status_code == 200


SECRET = "canary-4711"


async def test_no_answer_repeats_a_secret(admin: httpx.AsyncClient, acme: httpx.AsyncClient) -> None:
    account = {"id": "a", "host": "smtp.example.com", "port": 25}
    wrong: list[tuple[httpx.AsyncClient, str, object]] = [
        (acme, "/account", {**account, "user": "u", "password": SECRET, "port": "25"}),
        (acme, "/account", {**account, "user": "u", "password": [SECRET]}),
        (acme, "/account", {**account, "user": "u", "password": SECRET + "\n"}),
        (acme, "/account", {**account, "user": "u", "password": SECRET * 1000}),
        (acme, "/account", {**account, "password": SECRET}),
        (admin, "/tenant", {"id": "t", "client_auth": {"method": "bearer", "token": SECRET + " "}}),
        (admin, "/tenant", {"id": "t", "client_auth": {"method": "none", "token": SECRET}}),
        (admin, "/tenant", {"id": "t", "client_auth": {"method": "basic", "user": "u", "password": {"x": SECRET}}}),
        (admin, "/tenant", {"id": "t", "client_base_url": f"https://u:{SECRET}@example.com"}),
    ]
    for client, path, body in wrong:
        answer = await client.post(path, json=body)
        assert answer.status_code == 422, body
        assert SECRET not in answer.text
    right = {**account, "user": "u", "password": SECRET}
    assert (await acme.post("/account", json=right)).status_code == 200
    for url in ("/accounts", "/account/a", "/tenant/acme", "/status"):
        assert SECRET not in (await acme.get(url)).text
    assert (await acme.get("/account/a")).json()["has_password"] is True


async def test_a_store_that_is_away_is_said(instance: Instance, admin: httpx.AsyncClient) -> None:
    token = await new_tenant(admin, "acme", "main")

    class Away:
        async def submit(self, *_args: object) -> None:
            raise StoreUnavailable("the database cannot be used now")

        async def tenant_by_key(self, _digest: str) -> KeyedTenant | None:
            raise StoreUnavailable("the database cannot be used now")

    no_queue = create_app(replace(instance.services, intake=Away()))  # type: ignore[arg-type]  # only what is called
    no_registry = create_app(replace(instance.services, registry=Away()))  # type: ignore[arg-type]
    body = {"messages": [a_submission()]}
    async with instance.client(token, no_queue) as client:
        one = await client.post("/commands/add-messages", json=body)
    async with instance.client(token, no_registry) as client:
        two = await client.post("/commands/add-messages", json=body)
        three = await client.get("/messages")
    for answer in (one, two, three):  # G12: never 200
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
        assert int(answer.headers["retry-after"]) > 0


async def test_a_mistake_of_ours_tells_nothing_but_an_id(instance: Instance, admin: httpx.AsyncClient) -> None:
    class Broken:
        async def submit(self, *_args: object) -> None:
            raise ZeroDivisionError(SECRET)

        async def page(self, *_args: object) -> None:
            raise ZeroDivisionError(SECRET)

    await new_tenant(admin, "acme", "main")
    broken = replace(instance.services, intake=Broken(), archive=Broken())  # type: ignore[arg-type]
    async with instance.client(app=create_app(broken)) as client:
        for method, path in (("POST", "/commands/add-messages"), ("GET", "/messages")):
            with capture_logs() as logged:
                answer = await client.request(method, path, json={"messages": []})
            assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
            assert SECRET not in answer.text
            assert [
                (line["log_level"], line["exc_info"], line["request_id"])
                for line in logged
                if line["log_level"] != "debug"
            ] == [("error", True, answer.headers["x-request-id"])]
