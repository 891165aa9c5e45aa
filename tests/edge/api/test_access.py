"""Who may call what: a matrix over every operation of the OpenAPI document, with every kind of token.

The requests are the examples that the document shows (`tests.support.contract`), so that a new route is in the matrix
as soon as it is documented. Who may call a route, `docs/api.md` says as well: `tests/docs/test_reference.py` compares.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
from sqlalchemy import create_engine

from mail_proxy.api.application import create_app
from mail_proxy.secrets.tokens import digest
from mail_proxy.store.schema import metadata
from tests.support.api import ADMIN_TOKEN, Instance, a_submission, new_tenant
from tests.support.contract import Call, Operation, operations

both_databases = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)

ACCOUNT = "main"
MESSAGE = "order-1042-confirmation"
BATCH = "newsletter-2026-07"
UNKNOWN = {each: f"x{each[1:]}" for each in (ACCOUNT, MESSAGE, BATCH)}
"""Ids as long as those that the document shows, which nobody has."""


@dataclass
class World:
    """The tenant `acme` of the document's examples with all that they name, and two strangers, `other` and `third`."""

    instance: Instance
    client: httpx.AsyncClient
    """One without a token."""
    acme: str
    other: str
    third: str
    url: str

    @property
    def operations(self) -> list[Operation]:
        """All operations of the document."""
        return operations(self.instance.app.openapi())

    @property
    def protected(self) -> list[Operation]:
        """Those that need a token."""
        return [each for each in self.operations if each.access != "public"]

    @property
    def for_tenants(self) -> list[Operation]:
        """Those that a tenant's token may call."""
        return [each for each in self.operations if each.access == "tenant"]

    async def send(self, token: str | None, call: Call) -> httpx.Response:
        """Send a request with a token."""
        return await call.send(self.client, {} if token is None else {"X-API-Token": token})

    async def outcomes(self, token: str | None, calls: list[Call]) -> dict[str, Outcome]:
        """Send each request; return status and code of each answer."""
        return {str(call): outcome(await self.send(token, call)) for call in calls}

    def rows(self) -> Counter[tuple[object, ...]]:
        """Return every row of every table but the log of who called what."""
        engine = create_engine(self.url)
        with engine.connect() as connection:
            found = Counter(
                (table.name, *row)
                for table in metadata.sorted_tables
                if table.name != "command_log"
                for row in connection.execute(table.select())
            )
        engine.dispose()
        return found

    def rows_of_acme(self) -> Counter[tuple[object, ...]]:
        """Return those that belong to `acme`."""
        columns = {table.name: ["", *(column.name for column in table.columns)] for table in metadata.sorted_tables}
        rows = self.rows()

        def value(row: tuple[object, ...], name: str) -> object:
            names = columns[str(row[0])]
            return row[names.index(name)] if name in names else None

        pks = {value(row, "pk") for row in rows if row[0] == "messages" and value(row, "tenant_id") == "acme"}
        return Counter(
            row
            for row in rows.elements()
            if "acme" in (value(row, "tenant_id"), value(row, "id")) or value(row, "message_pk") in pks
        )


Outcome = tuple[int, str | None]


def outcome(answer: httpx.Response) -> Outcome:
    """Return status and code of an answer."""
    is_json = answer.headers["content-type"] == "application/json"
    return answer.status_code, answer.json().get("code") if is_json else None


def all_of(calls: list[Call], expected: Outcome) -> dict[str, Outcome]:
    return {str(call): expected for call in calls}


@pytest.fixture
async def world(
    instance: Instance, admin: httpx.AsyncClient, tmp_path: Path, database_url: str | None
) -> AsyncIterator[World]:
    acme = await new_tenant(admin, "acme", ACCOUNT, "spare")
    messages = [a_submission(MESSAGE, account_id=ACCOUNT), a_submission("M2", account_id=ACCOUNT, batch_code=BATCH)]
    async with instance.client(acme) as client:
        queued = await client.post("/commands/add-messages", json={"messages": messages})
    assert queued.json()["queued"] == 2
    await admin.post(f"/commands/suspend?tenant_id=acme&batch_code={BATCH}")
    other, third = [await new_tenant(admin, each, "theirs") for each in ("other", "third")]
    url = f"sqlite:///{tmp_path}/mail_service.db" if database_url is None else database_url
    async with instance.client(None) as client:
        yield World(instance, client, acme, other, third, url.replace("postgresql://", "postgresql+psycopg://"))


# Who is let in


async def test_the_admin_token_may_do_everything(world: World) -> None:
    calls = [forced(each.call()) for each in world.operations]
    assert await world.outcomes(ADMIN_TOKEN, calls) == all_of(calls, (200, None))


def forced(call: Call) -> Call:
    """Return a request that removes also what is in use."""
    return (
        replace(call, query={**call.query, "force": "true"}) if "force" in call.operation.parameters("query") else call
    )


async def test_a_tenant_may_do_what_is_its_own(world: World) -> None:
    calls = [forced(each.call()) for each in world.protected]
    expected = {str(call): (403, "admin_only") if call.operation.access == "admin" else (200, None) for call in calls}
    assert await world.outcomes(world.acme, calls) == expected


async def test_a_tenants_id_is_implied_by_its_token(world: World) -> None:
    calls = [forced(each.call()).unnamed() for each in world.for_tenants]
    assert await world.outcomes(world.acme, calls) == all_of(calls, (200, None))


@both_databases
async def test_without_a_valid_token_nothing_is_told_and_nothing_changes(
    world: World, admin: httpx.AsyncClient
) -> None:
    end = world.instance.clock.now() + 60
    made = await admin.post("/tenant/other/api-key", json={"api_key_expires_at": end})
    world.instance.clock.time = end
    assert (await admin.delete("/tenant/acme/api-key")).status_code == 200
    before = world.rows()
    answers = set()
    for operation in world.protected:
        world.instance.clock.time += 60  # a caller who is not slowed down for what he tried before
        for token in (None, "", "unknown", world.acme, made.json()["api_key"]):  # the last two: revoked, expired
            answer = await world.send(token, operation.call())
            assert answer.status_code == 401, operation
            answers.add((answer.content, answer.headers["www-authenticate"]))
    assert len(answers) == 1
    assert world.rows() == before
    public = [each.call() for each in world.operations if each.access == "public"]
    assert await world.outcomes(None, public) == all_of(public, (200, None))


async def test_what_is_not_known_is_an_error_everywhere(world: World) -> None:
    before = world.rows()
    calls = [each.call() for each in world.operations]
    queries = [replace(call, query={**call.query, "nonsense": "1"}) for call in calls]
    fields = [
        replace(call, body={**(call.body or {}), "nonsense": 1}) for call in calls if call.operation.method != "GET"
    ]
    for call in (*queries, *fields):
        answer = await world.send(ADMIN_TOKEN, call)
        assert outcome(answer) == (422, "invalid"), call
        assert "nonsense" in answer.text or call.operation.spec.get("requestBody") is None, call
    assert world.rows() == before


# Tenants walled off


@both_databases
async def test_another_tenants_id_is_refused_and_changes_nothing(world: World) -> None:
    before = world.rows()
    seen = 0
    for operation in world.protected:
        for call in operation.calls():
            if operation.access == "tenant" and not operation.names_a_tenant:
                continue  # there is nowhere to name a tenant: it is about the token's own
            theirs = await world.send(world.other, call.about("acme"))
            nobodys = await world.send(world.other, call.about("xcme"))
            code = "admin_only" if operation.access == "admin" else "wrong_tenant"
            assert outcome(theirs) == (403, code), call
            assert theirs.content == nobodys.content, call
            seen += 1
    assert seen > 30
    assert world.rows() == before
    assert not world.instance.told.run_now
    assert not world.instance.told.tested


@both_databases
async def test_ids_of_another_tenants_things_are_like_unknown_ones(world: World) -> None:
    before = world.rows_of_acme()
    assert len(before) > 6
    as_known = {unknown: known for known, unknown in UNKNOWN.items()} | {"third": "other"}
    missed = set()
    for operation in world.for_tenants:
        for example in operation.calls():
            call = example.unnamed()
            if "tenant_id" in call.path:
                continue
            # two strangers, as one that asks twice would see what its first request had done
            theirs = await world.send(world.other, call)
            unknown = await world.send(world.third, call.renamed(UNKNOWN))
            said = unknown.text
            for name, known in as_known.items():
                said = said.replace(name, known)
            assert (theirs.status_code, theirs.text) == (unknown.status_code, said), call
            if theirs.status_code == 404:
                missed.add(str(operation))
            else:
                assert theirs.status_code < 500, call
    assert {str(each) for each in world.for_tenants if set(each.parameters("path")) - {"tenant_id"}} <= missed
    assert world.rows_of_acme() == before


async def test_a_token_holds_until_it_expires(instance: Instance, admin: httpx.AsyncClient, world: World) -> None:
    end = instance.clock.now() + 60
    made = await admin.post("/tenant/acme/api-key", json={"api_key_expires_at": end})
    instance.clock.time = end - 0.001
    async with instance.client(made.json()["api_key"]) as client:
        assert (await client.get("/status")).status_code == 200


async def test_a_new_token_ends_the_old_one(instance: Instance, admin: httpx.AsyncClient, world: World) -> None:
    new = (await admin.post("/tenant/acme/api-key")).json()["api_key"]
    async with instance.client(world.acme) as client:
        assert (await client.get("/status")).status_code == 401
    async with instance.client(new) as client:
        assert (await client.get("/status")).status_code == 200


async def test_a_batch_with_one_message_of_another_tenant_is_refused_as_a_whole(
    instance: Instance, admin: httpx.AsyncClient, world: World
) -> None:
    async with instance.client(world.other) as client:
        body = {"messages": [a_submission("A"), a_submission("B", tenant_id="acme")]}
        answer = await client.post("/commands/add-messages", json=body)
    assert (answer.status_code, answer.json()["code"]) == (403, "wrong_tenant")
    assert (await admin.get("/messages?tenant_id=other")).json()["messages"] == []


NO_TOKENS: dict[str, list[tuple[bytes, bytes]]] = {
    "empty": [(b"x-api-token", b"")],
    "wrong": [(b"x-api-token", b"wrong")],
    "cut": [(b"x-api-token", ADMIN_TOKEN[:-1].encode())],
    "UTF-8": [(b"x-api-token", "tökén".encode())],
    "latin-1": [(b"x-api-token", "tökén".encode("latin-1"))],
    "1 MB": [(b"x-api-token", b"x" * 1_000_000)],
    "twice": [(b"x-api-token", ADMIN_TOKEN.encode()), (b"x-api-token", ADMIN_TOKEN.encode())],
    "a wrong one beside the right one": [
        (b"x-api-token", b"wrong"),
        (b"authorization", b"Bearer " + ADMIN_TOKEN.encode()),
    ],
    "no scheme": [(b"authorization", ADMIN_TOKEN.encode())],
    "basic": [(b"authorization", b"Basic " + ADMIN_TOKEN.encode())],
    "no bearer": [(b"authorization", b"Bearer ")],
}


@pytest.mark.parametrize(("method", "path"), [("GET", "/status"), ("POST", "/commands/add-messages")])
async def test_what_is_no_token_is_refused(instance: Instance, method: str, path: str) -> None:
    async with instance.client(None) as client:
        for name, headers in NO_TOKENS.items():
            answer = await client.request(method, path, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), name
            assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_token_may_come_as_a_bearer_token(instance: Instance) -> None:
    async with instance.client(None) as client:
        answer = await client.get("/status", headers={"Authorization": f"bearer {ADMIN_TOKEN}"})
    assert answer.status_code == 200


async def test_who_has_no_token_is_not_told_what_else_is_wrong(instance: Instance) -> None:
    async with instance.client(None) as client:
        for answer in (
            await client.post("/account?nonsense=1", content=b"{"),
            await client.post("/commands/add-messages?nonsense=1", content=b"{"),
            await client.get("/messages?limit=0"),
        ):
            assert answer.status_code == 401


async def test_metrics_may_be_behind_a_token_of_their_own(instance: Instance) -> None:
    settings = replace(instance.services.settings, metrics_token_digest=digest("for-prometheus"))
    app = create_app(replace(instance.services, settings=settings))
    async with instance.client(None, app) as client:
        assert (await client.get("/metrics")).status_code == 401
        assert (await client.get("/metrics", headers={"X-API-Token": "for-prometheus"})).status_code == 401
        assert (await client.get("/metrics", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})).status_code == 401
        answer = await client.get("/metrics", headers={"Authorization": "Bearer for-prometheus"})
    assert answer.status_code == 200


async def test_with_one_tenant_the_admin_need_not_name_it(instance: Instance, admin: httpx.AsyncClient) -> None:
    await new_tenant(admin, "acme", "main")
    assert (await admin.get("/accounts")).json()["accounts"][0]["tenant_id"] == "acme"
    await new_tenant(admin, "other")
    answer = await admin.get("/accounts")
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["field"] == "tenant_id"
