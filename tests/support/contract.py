"""The OpenAPI document as a source of requests: what it shows as examples is what tests send."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

Json = Any
"""What JSON can hold, and what is looked up in it by key."""


@dataclass(frozen=True)
class Call:
    """A request to an operation, before it is sent."""

    operation: Operation
    path: dict[str, str] = field(default_factory=dict)
    query: dict[str, str] = field(default_factory=dict)
    body: Json = None
    what: str = ""
    """What is shown by it, for whoever reads a failure."""

    def __str__(self) -> str:
        return f"{self.operation} {self.path} {self.query} {self.what}"

    @property
    def url(self) -> str:
        """The path with its ids."""
        return self.operation.path.format(**self.path)

    async def send(self, client: httpx.AsyncClient, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """Send it by a client."""
        method = self.operation.method
        return await client.request(method, self.url, params=self.query, json=self.body, headers=headers)

    def about(self, tenant_id: str) -> Call:
        """Return the same about another tenant, wherever one is named in query, path or body."""
        return replace(
            self,
            path={name: tenant_id if name == "tenant_id" else value for name, value in self.path.items()},
            query={name: tenant_id if name == "tenant_id" else value for name, value in self.query.items()},
            body=self.operation.with_tenant(self.body, tenant_id),
        )

    def unnamed(self) -> Call:
        """Return the same without a tenant's id in query and body: the token's own is meant."""
        return replace(
            self,
            query={name: value for name, value in self.query.items() if name != "tenant_id"},
            body=self.operation.with_tenant(self.body, None),
        )

    def renamed(self, names: Mapping[str, str]) -> Call:
        """Return the same with other ids in place of those that `names` has, wherever they stand."""
        return replace(
            self, path=_renamed(self.path, names), query=_renamed(self.query, names), body=_renamed(self.body, names)
        )


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    spec: Json = field(repr=False)
    schemas: Json = field(repr=False)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def access(self) -> str:
        """Who may call it: `public`, `tenant` or `admin`."""
        security = self.spec.get("security")
        return "public" if not security else "admin" if "admin" in security[0]["Token"] else "tenant"

    @property
    def names_a_tenant(self) -> bool:
        """True where a tenant's id has a place in the request."""
        call = self.call().about("?")
        return "?" in call.path.values() or "?" in call.query.values() or call.body != self.call().body

    def parameters(self, place: str) -> dict[str, Json]:
        """Return the parameters in `path` or `query`, each with the example that it shows."""
        return {
            each["name"]: each["schema"]["examples"][0]
            for each in self.spec.get("parameters", [])
            if each["in"] == place
        }

    def bodies(self) -> dict[str, Json]:
        """Return the examples of the body by their summaries; none where there is no body."""
        content = self.spec.get("requestBody", {}).get("content", {}).get("application/json", {})
        return {each["summary"]: copy.deepcopy(each["value"]) for each in content.get("examples", {}).values()}

    def call(self) -> Call:
        """Return the plainest request that the document shows.

        It has ids, a tenant where one can be named, what the query must have, and the first body.
        """
        needed = {each["name"] for each in self.spec.get("parameters", []) if each["required"]}
        named = self.parameters("query")
        query = {name: str(value) for name, value in named.items() if name in {"tenant_id", *needed}}
        body = next(iter(self.bodies().values()), None)
        return Call(self, self.parameters("path"), query, body)

    def calls(self) -> Iterator[Call]:
        """Yield every example: each body, and each parameter of the query by itself."""
        plain = self.call()
        yield plain
        for what, body in list(self.bodies().items())[1:]:
            yield replace(plain, body=body, what=what)
        for name, value in self.parameters("query").items():
            if name in plain.query:
                continue
            # an object stands for parameters of their own, as OpenAPI has it unless a parameter says otherwise
            shown = value if isinstance(value, dict) else {name: value}
            words = {key: str(each).lower() if isinstance(each, bool) else str(each) for key, each in shown.items()}
            yield replace(plain, query={**plain.query, **words})

    def with_tenant(self, body: Json, tenant_id: str | None) -> Json:
        """Return a body that names the tenant wherever its schema has a place for one; None names none."""
        content = self.spec.get("requestBody", {}).get("content", {}).get("application/json", {})
        return self._placed(content.get("schema", {}), copy.deepcopy(body), tenant_id)

    def _placed(self, schema: Json, value: Json, tenant_id: str | None) -> Json:
        if "$ref" in schema:
            return self._placed(self.schemas[schema["$ref"].rpartition("/")[2]], value, tenant_id)
        if isinstance(value, dict):
            properties = schema.get("properties", {})
            placed = {name: self._placed(properties.get(name, {}), each, tenant_id) for name, each in value.items()}
            if "tenant_id" in properties:
                placed.pop("tenant_id", None)
                placed |= {} if tenant_id is None else {"tenant_id": tenant_id}
            return placed
        if isinstance(value, list):
            return [self._placed(schema.get("items", {}), each, tenant_id) for each in value]
        return value


def operations(document: Json) -> list[Operation]:
    """Return all operations in an order in which none spoils the next: reading, changing, making, removing."""
    found = [
        Operation(method.upper(), path, spec, document["components"]["schemas"])
        for path, methods in document["paths"].items()
        for method, spec in methods.items()
    ]
    return sorted(found, key=_turn)


def _turn(operation: Operation) -> tuple[int, int]:
    if operation.path == "/instance/api-token":
        return 4, 0  # it ends the token of whoever calls
    if operation.method == "GET":
        return 0, 0
    if operation.method == "DELETE" or any(word in operation.path for word in ("delete", "cleanup")):
        return 3, -operation.path.count("/")  # what hangs below something goes before it
    return (1, 0) if "{" in operation.path else (2, 0)


def _renamed(value: Json, names: Mapping[str, str]) -> Json:
    match value:
        case str():
            return names.get(value, value)
        case dict():
            return {name: _renamed(each, names) for name, each in value.items()}
        case list():
            return [_renamed(each, names) for each in value]
        case _:
            return value
