"""Who may call what: every route of the OpenAPI document, with every kind of token."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import httpx
import pytest

from mail_proxy.api.application import create_app
from mail_proxy.secrets.tokens import digest
from tests.support.api import ADMIN_TOKEN, Instance, a_submission, new_tenant

both_databases = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)

Access = Literal["public", "tenant", "admin"]


@dataclass(frozen=True)
class Route:
    """One route with a request to it that is right for the tenant `acme`."""

    method: str
    path: str
    access: Access
    query: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] | None = None
    by_id: bool = False
    """The path names something of the tenant's, and the tenant may be left out."""

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def url(self) -> str:
        """The path with ids that there are."""
        return self.path.format(tenant_id="acme", account_id="main", message_id="M1")


OF_ACME = {"tenant_id": "acme"}
ACCOUNT = {"id": "main", "host": "smtp.example.com", "port": 25}
ROUTES = [
    Route("GET", "/health", "public"),
    Route("GET", "/ready", "public"),
    Route("GET", "/metrics", "public"),
    Route("GET", "/status", "tenant"),
    Route("POST", "/commands/add-messages", "tenant", body={"messages": [a_submission("M2", **OF_ACME)]}),
    Route("POST", "/commands/run-now", "tenant", OF_ACME),
    Route("POST", "/commands/suspend", "tenant", OF_ACME),
    Route("POST", "/commands/activate", "tenant", OF_ACME),
    Route("POST", "/commands/retry-messages", "tenant", OF_ACME, {"ids": ["M1"]}),
    Route("POST", "/commands/cleanup-messages", "tenant", OF_ACME),
    Route("GET", "/messages", "tenant", OF_ACME),
    Route("GET", "/messages/{message_id}", "tenant", OF_ACME, by_id=True),
    Route("GET", "/messages/{message_id}/events", "tenant", OF_ACME, by_id=True),
    Route("GET", "/messages/{message_id}/explain", "tenant", OF_ACME, by_id=True),
    Route("POST", "/account", "tenant", body={**ACCOUNT, **OF_ACME}),
    Route("GET", "/accounts", "tenant", OF_ACME),
    Route("GET", "/account/{account_id}", "tenant", OF_ACME, by_id=True),
    Route("POST", "/account/{account_id}/test", "tenant", OF_ACME, by_id=True),
    Route("GET", "/command-log", "admin"),
    Route("GET", "/command-log/export", "admin"),
    Route("GET", "/instance", "admin"),
    Route("PUT", "/instance", "admin", body={"scheduler_active": True}),
    Route("POST", "/tenant", "admin", body={"id": "acme"}),
    Route("GET", "/tenants", "admin"),
    Route("GET", "/tenants/sync-status", "admin"),
    Route("GET", "/tenant/{tenant_id}", "tenant"),
    Route("PUT", "/tenant/{tenant_id}", "admin", body={"name": "changed"}),
    Route("POST", "/tenant/{tenant_id}/api-key", "admin"),
    Route("DELETE", "/tenant/{tenant_id}/api-key", "admin"),
    # last, as nothing is left behind them
    Route("POST", "/commands/delete-messages", "tenant", body={"ids": ["M1"], **OF_ACME}),
    Route("DELETE", "/account/{account_id}", "tenant", {**OF_ACME, "force": "true"}, by_id=True),
    Route("DELETE", "/tenant/{tenant_id}", "admin", {"force": "true"}),
    Route("POST", "/instance/api-token", "admin"),
]
PROTECTED = [route for route in ROUTES if route.access != "public"]
FOR_TENANTS = [route for route in ROUTES if route.access == "tenant"]


@dataclass
class Tenants:
    """Two tenants with their tokens; `acme` has an account `main` and a message `M1`."""

    acme: str
    other: str


@pytest.fixture
async def tenants(instance: Instance, admin: httpx.AsyncClient) -> Tenants:
    both = Tenants(await new_tenant(admin, "acme", "main"), await new_tenant(admin, "other", "theirs"))
    submitted = await admin.post("/commands/add-messages", json={"messages": [a_submission("M1", **OF_ACME)]})
    assert submitted.json()["queued"] == 1
    return both


async def call(instance: Instance, route: Route, token: str | None, **changes: Any) -> httpx.Response:
    query = changes.get("query", route.query)
    body = changes.get("body", route.body)
    async with instance.client(token) as client:
        return await client.request(route.method, changes.get("url", route.url), params=query, json=body)


async def state_of_acme(admin: httpx.AsyncClient) -> list[Any]:
    urls = ("/tenant/acme", "/accounts?tenant_id=acme", "/messages?tenant_id=acme")
    return [(await admin.get(url)).json() for url in urls]


def test_every_route_has_its_line_here(instance: Instance) -> None:
    documented = {
        (method.upper(), path) for path, methods in instance.app.openapi()["paths"].items() for method in methods
    }
    assert {(route.method, route.path) for route in ROUTES} == documented


Outcome = tuple[int, str | None]


async def outcomes(instance: Instance, routes: list[Route], token: str | None, **changes: Any) -> dict[str, Outcome]:
    """Call each route; return status and code of each answer."""
    found: dict[str, Outcome] = {}
    for route in routes:
        answer = await call(instance, route, token, **changes)
        is_json = answer.headers["content-type"] == "application/json"
        found[str(route)] = (answer.status_code, answer.json().get("code") if is_json else None)
    return found


def all_of(routes: list[Route], outcome: Outcome) -> dict[str, Outcome]:
    return {str(route): outcome for route in routes}


async def test_the_admin_token_may_do_everything(instance: Instance, tenants: Tenants) -> None:
    assert await outcomes(instance, ROUTES, ADMIN_TOKEN) == all_of(ROUTES, (200, None))


async def test_without_a_token_only_public_routes_answer(instance: Instance, tenants: Tenants) -> None:
    public = [route for route in ROUTES if route.access == "public"]
    assert await outcomes(instance, ROUTES, None) == {
        **all_of(public, (200, None)),
        **all_of(PROTECTED, (401, "unauthorized")),
    }


async def test_a_tenant_may_do_what_is_its_own(instance: Instance, tenants: Tenants) -> None:
    assert await outcomes(instance, PROTECTED, tenants.acme) == {
        **all_of(PROTECTED, (403, "admin_only")),
        **all_of(FOR_TENANTS, (200, None)),
    }


async def test_a_tenants_id_is_implied_by_its_token(instance: Instance, tenants: Tenants) -> None:
    bare = [
        replace(
            route,
            query={name: value for name, value in route.query.items() if name != "tenant_id"},
            body=None if route.body is None else {n: value for n, value in route.body.items() if n != "tenant_id"},
        )
        for route in FOR_TENANTS
    ]
    assert await outcomes(instance, bare, tenants.acme) == all_of(bare, (200, None))


@both_databases
async def test_another_tenant_is_refused_and_changes_nothing(
    instance: Instance, admin: httpx.AsyncClient, tenants: Tenants
) -> None:
    before = await state_of_acme(admin)
    assert await outcomes(instance, PROTECTED, tenants.other) == {
        **all_of(PROTECTED, (403, "admin_only")),
        **all_of(FOR_TENANTS, (403, "wrong_tenant")),
        "GET /status": (200, None),  # names nobody, and counts what is its own
    }
    assert await state_of_acme(admin) == before
    assert not instance.told.run_now


@both_databases
async def test_another_tenants_id_is_like_an_unknown_one(
    instance: Instance, admin: httpx.AsyncClient, tenants: Tenants
) -> None:
    before = await state_of_acme(admin)
    for route in ROUTES:
        if not route.by_id:
            continue
        query = {name: value for name, value in route.query.items() if name != "tenant_id"}
        theirs = await call(instance, route, tenants.other, query=query)
        unknown_url = route.path.format(account_id="xain", message_id="X1")
        unknown = await call(instance, route, tenants.other, query=query, url=unknown_url)
        assert theirs.status_code == unknown.status_code == 404, route
        assert theirs.text.replace("main", "xain") == unknown.text, route
    assert await state_of_acme(admin) == before


@pytest.mark.parametrize("tenant_id", ["acme", "nobody"])
async def test_a_tenants_id_in_the_path_tells_nothing_about_others(
    instance: Instance, tenants: Tenants, tenant_id: str
) -> None:
    async with instance.client(tenants.other) as client:
        answer = await client.get(f"/tenant/{tenant_id}")
    assert (answer.status_code, answer.json()["code"]) == (403, "wrong_tenant")


@both_databases
async def test_a_revoked_token_ends_at_once(instance: Instance, admin: httpx.AsyncClient, tenants: Tenants) -> None:
    assert (await admin.delete("/tenant/acme/api-key")).status_code == 200
    assert await outcomes(instance, PROTECTED, tenants.acme) == all_of(PROTECTED, (401, "unauthorized"))


@both_databases
async def test_an_expired_token_is_none(instance: Instance, admin: httpx.AsyncClient, tenants: Tenants) -> None:
    end = instance.clock.now() + 60
    key = (await admin.post("/tenant/acme/api-key", json={"api_key_expires_at": end})).json()["api_key"]
    instance.clock.time = end
    assert await outcomes(instance, PROTECTED, key) == all_of(PROTECTED, (401, "unauthorized"))


async def test_a_token_holds_until_it_expires(instance: Instance, admin: httpx.AsyncClient, tenants: Tenants) -> None:
    end = instance.clock.now() + 60
    made = await admin.post("/tenant/acme/api-key", json={"api_key_expires_at": end})
    instance.clock.time = end - 0.001
    async with instance.client(made.json()["api_key"]) as client:
        assert (await client.get("/status")).status_code == 200


async def test_a_new_token_ends_the_old_one(instance: Instance, admin: httpx.AsyncClient, tenants: Tenants) -> None:
    new = (await admin.post("/tenant/acme/api-key")).json()["api_key"]
    async with instance.client(tenants.acme) as client:
        assert (await client.get("/status")).status_code == 401
    async with instance.client(new) as client:
        assert (await client.get("/status")).status_code == 200


async def test_a_batch_with_one_message_of_another_tenant_is_refused_as_a_whole(
    instance: Instance, admin: httpx.AsyncClient, tenants: Tenants
) -> None:
    async with instance.client(tenants.other) as client:
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
