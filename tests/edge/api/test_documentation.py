"""The API's documentation: complete, true to what is answered, and shown without the internet."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from mail_proxy.api.schemas import suspensions
from mail_proxy.api.schemas.accounts import AccountAnswer, AccountsAnswer
from mail_proxy.api.schemas.answer import Answer, Failure
from mail_proxy.api.schemas.events import EventsAnswer
from mail_proxy.api.schemas.messages import (
    CleanedOut,
    DeletedOut,
    MessageAnswer,
    MessagesAnswer,
    ReceiptOut,
    RetriedOut,
)
from mail_proxy.api.schemas.status import StatusAnswer
from mail_proxy.api.schemas.tenants import ApiKeyAnswer, SyncStatusAnswer, TenantAnswer, TenantPut, TenantsAnswer
from tests.support.api import ADMIN_TOKEN, Instance, a_submission
from tests.support.contract import Call
from tests.support.contract import operations as operations_of

MADE_ELSEWHERE = {
    "swagger-ui-bundle.js": "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
    "swagger-ui.css": "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d",
    "redoc.standalone.js": "dcaf76612bc4a3fbcc923a8966dee2f6146a5f32e5ce1b6f02dd60cbbf89500b",
}
"""SHA-256 of what the publishers packed: swagger-ui-dist 5.35.0, redoc 2.5.4."""
CHANGED = {
    "redoc.standalone.js": (
        b"https://cdn.redoc.ly/redoc/logo-mini.svg",
        b"data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw==",
    )
}
"""What is not as it was published: a picture that a browser would fetch from elsewhere is an empty one here."""


ROLES = [[{"Token": roles}, {"Bearer": roles}] for roles in ([], ["admin"])]
"""How a route says who may call it: everybody who has a token, or the admin alone."""


@pytest.fixture
async def document(instance: Instance) -> dict[str, Any]:
    async with instance.client(None) as client:
        found: dict[str, Any] = (await client.get("/openapi.json")).json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


async def test_every_route_says_what_it_does_and_how_it_fails(document: dict[str, Any]) -> None:
    public = {"GET /health", "GET /ready", "GET /metrics"}
    for name, operation in operations(document):
        assert operation["summary"], name
        assert operation["description"], name
        assert operation["tags"], name
        assert operation["responses"]["200"]["description"] != "Successful Response", name
        statuses = set(operation["responses"])
        assert statuses >= {"200", "422", "500"}, name
        assert ("401" in statuses) == ("429" in statuses), name  # who fails with too many tokens is asked to wait
        if name not in public:
            assert statuses >= {"401", "503"}, name
            assert operation["security"] in ROLES, name
        if name.startswith("POST") or "requestBody" in operation:
            assert statuses >= {"408", "413", "415"}, name


async def test_every_failure_has_an_example_in_the_one_form(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        for status, response in operation["responses"].items():
            if not status.startswith("2"):
                content = response["content"]["application/json"]
                assert content["schema"] == {"$ref": "#/components/schemas/Failure"}, name
                Failure.model_validate(content["example"], strict=True)


async def test_every_parameter_and_field_is_explained_with_an_example(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        for parameter in operation.get("parameters", []):
            assert parameter["description"], name
            assert parameter["schema"].get("examples") or parameter.get("examples"), (name, parameter["name"])
    for name, schema in document["components"]["schemas"].items():
        assert schema["description"], name
        for field, properties in schema.get("properties", {}).items():
            assert properties.get("description"), (name, field)
            nested = "$ref" in str(properties)
            assert nested or "examples" in properties, (name, field)


async def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    for name in set(re.findall(r"#/components/schemas/([\w-]+)", str(document))):
        assert name in document["components"]["schemas"]


async def test_every_example_works_when_it_is_pasted(admin: httpx.AsyncClient, document: dict[str, Any]) -> None:
    every = {str(each): each for each in operations_of(document)}
    made_first = [every.pop(name) for name in ("POST /tenant", "POST /account", "POST /commands/add-messages")]
    shown = 0
    for operation in [*made_first, *every.values()]:
        calls = list(operation.calls())
        for call in calls[:1] if operation.method == "DELETE" else calls:  # a second one would find nothing
            answer = await replace(call, query=forced(call)).send(admin)
            assert answer.status_code == 200, (call, answer.text)
            if answer.headers["content-type"] == "application/json":
                assert answer.json()["ok"] is True, call
                assert not answer.json().get("rejected"), (call, answer.text)
            shown += 1
    assert shown > len(every) + 15


def forced(call: Call) -> dict[str, str]:
    """Remove also what is in use: the examples are about things that are."""
    return {**call.query, "force": "true"} if "force" in call.operation.parameters("query") else call.query


async def test_the_description_leads_to_a_first_message(admin: httpx.AsyncClient, document: dict[str, Any]) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", document["info"]["description"], re.DOTALL)
    words = shlex.split("".join(blocks).replace("\\\n", "").replace("$TOKEN", ADMIN_TOKEN))
    assert words[0].startswith("API=http://")
    starts = [number for number, word in enumerate(words) if word == "curl"]
    answers = []
    for start, end in zip(starts, [*starts[1:], len(words)], strict=True):
        option, header, url, *data = words[start + 1 : end]
        assert (option, data[:1]) in [("-H", ["-d"]), ("-H", [])]
        headers = dict([header.split(": ")]) | {"Content-Type": "application/x-www-form-urlencoded"}  # as curl says
        path = url.removeprefix("$API")
        answers.append(await admin.request("POST" if data else "GET", path, headers=headers, content="".join(data[1:])))
    assert [each.status_code for each in answers] == [200] * 4
    assert answers[2].json()["queued"] == 1
    assert answers[3].json()["state"] == "waiting"


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ({"Host": "127.0.0.1:8123"}, "http://127.0.0.1:8123"),
        ({"Host": "[::1]:8123"}, "http://[::1]:8123"),
        ({"Host": "mail_proxy.example"}, "http://mail_proxy.example"),
        ({"Host": "mail.example", "X-Forwarded-Proto": "https"}, "https://mail.example"),
        ({"Host": "mail.example", "X-Forwarded-Proto": "https://evil.example"}, "http://mail.example"),
    ],
)
async def test_commands_go_to_where_the_document_was_asked_for(
    instance: Instance, headers: dict[str, str], address: str
) -> None:
    async with instance.client(None) as client:
        await client.get("/openapi.json", headers={"Host": "before.example"})
        document = (await client.get("/openapi.json", headers=headers)).json()
    assert re.findall("^API=.*$", document["info"]["description"], re.MULTILINE) == [f"API={address}"]
    assert "127.0.0.1:8000" not in str(document)


@pytest.mark.parametrize(
    "host",
    [
        *("", "a b", "a;id", "$(id)", "`id`", "a/b", "evil@b", 'a"b', "a<b>", "a:8000:1", "a:port", "-oProxy"),
        *("a\\b", "[::1", "a#b", "a?b", "*a*", "[a](b)", "ä", "a" * 300),
    ],
)
async def test_a_host_that_is_none_is_not_repeated(instance: Instance, host: str) -> None:
    async with instance.client(None) as client:
        document = (await client.get("/openapi.json", headers=[(b"Host", host.encode())])).json()
    assert re.findall("^API=.*$", document["info"]["description"], re.MULTILINE) == ["API=http://testserver"]


async def test_answers_are_what_the_documentation_says(admin: httpx.AsyncClient, acme: httpx.AsyncClient) -> None:
    async def check(model: type[BaseModel], answer: httpx.Response) -> None:
        model.model_validate_json(answer.content)

    submitted = {"messages": [a_submission("M1", metadata={"a": 1}), {}]}
    await check(ReceiptOut, await acme.post("/commands/add-messages", json=submitted))
    await check(MessagesAnswer, await acme.get("/messages"))
    await check(MessageAnswer, await acme.get("/messages/M1"))
    await check(EventsAnswer, await acme.get("/messages/M1/events"))
    await check(AccountsAnswer, await acme.get("/accounts"))
    await check(AccountAnswer, await acme.get("/account/main"))
    await check(TenantsAnswer, await admin.get("/tenants"))
    await check(SyncStatusAnswer, await admin.get("/tenants/sync-status"))
    await check(TenantAnswer, await admin.get("/tenant/acme"))
    await check(StatusAnswer, await admin.get("/status"))
    await check(StatusAnswer, await acme.get("/status"))
    await check(RetriedOut, await acme.post("/commands/retry-messages", json={"ids": ["M1"]}))
    await check(CleanedOut, await acme.post("/commands/cleanup-messages"))
    await check(DeletedOut, await acme.post("/commands/delete-messages", json={"ids": ["M1", "M2"]}))
    await check(suspensions.Held, await acme.post("/commands/suspend"))
    await check(suspensions.Held, await admin.post("/commands/suspend"))
    await check(TenantPut, await admin.post("/tenant", json={"id": "third"}))
    await check(ApiKeyAnswer, await admin.post("/tenant/third/api-key"))
    await check(Answer, await admin.delete("/tenant/third"))
    await check(Failure, await admin.get("/tenant/third"))


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_the_pages_and_all_that_they_load_come_from_here(instance: Instance, page: str) -> None:
    async with instance.client(None) as client:
        shown = await client.get(page)
        assert shown.headers["content-type"].startswith("text/html")
        loaded = re.findall(r'(?:src|href|spec-url)="([^"]+)"', shown.text)
        assert loaded
        for address in loaded:
            assert "//" not in address
            assert (await client.get(f"/{address}")).status_code == 200, address
    policy = shown.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "<script>" not in shown.text  # the policy forbids scripts within the page


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
@pytest.mark.parametrize("name", sorted(MADE_ELSEWHERE))
async def test_the_files_of_others_are_served_as_they_were_published(
    instance: Instance, name: str, encoding: str
) -> None:
    async with instance.client(None) as client:
        answer = await client.get(f"/docs/assets/{name}", headers={"Accept-Encoding": encoding})
    assert answer.headers.get("content-encoding", "identity") == encoding
    theirs, ours = CHANGED.get(name, (b"", b""))
    assert not theirs or theirs not in answer.content
    assert hashlib.sha256(answer.content.replace(ours, theirs)).hexdigest() == MADE_ELSEWHERE[name]


def test_the_files_of_others_come_with_their_licences() -> None:
    licences = {each.name for each in files("mail_proxy.api").joinpath("static").joinpath("licenses").iterdir()}
    assert licences == {
        "redoc-bundle.txt",
        "redoc.txt",
        "swagger-ui-bundle.txt",
        "swagger-ui.NOTICE.txt",
        "swagger-ui.txt",
    }
