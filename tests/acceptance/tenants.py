"""A tenant with an account, made as an operator makes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from tests.support.instance import Client, Instance


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant, and the clients of both tokens."""

    id: str
    token: str
    client: Client
    admin: Client

    async def put_account(self, account_id: str, port: int, **fields: object) -> None:
        """Create or change an account at a server on this machine, which only the operator may name."""
        body = {"id": account_id, "tenant_id": self.id, "host": "127.0.0.1", "port": port, **fields}
        await self.admin.post("/account", body)

    async def sync_status(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return how reporting to the tenant goes, once it goes so; it is a page of its own."""
        before = self.id[:-1]  # which sorts right before it
        status: dict[str, Any] = {}
        for _ in range(300):
            (status,) = (await self.admin.get("/tenants/sync-status", limit=1, cursor=before))["tenants"]
            assert status["tenant_id"] == self.id
            if condition(status):
                return status
            await asyncio.sleep(0.05)
        raise AssertionError(f"it goes another way: {status}")


@asynccontextmanager
async def new_tenant(
    instance: Instance, port: int | None = None, *, callback: str | None = None, **account: object
) -> AsyncIterator[Tenant]:
    """Make a tenant whose name nobody else has, with the account `main` where a port is given."""
    id_ = f"t-{uuid4().hex[:12]}"
    async with instance.client() as admin:
        settings = {"id": id_} if callback is None else {"id": id_, "client_base_url": callback}
        token: str = (await admin.post("/tenant", settings))["api_key"]
        async with instance.client(token) as client:
            tenant = Tenant(id_, token, client, admin)
            if port is not None:
                await tenant.put_account("main", port, **account)
            yield tenant
