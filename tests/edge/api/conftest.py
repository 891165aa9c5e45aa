"""The application that the API's tests talk to, in process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.support.api import Instance, new_tenant, running_instance


@pytest.fixture
def database(request: pytest.FixtureRequest) -> str:
    """The kind of database: SQLite, unless a test is parametrized with the names of others."""
    return getattr(request, "param", "sqlite")


@pytest.fixture
def database_url(request: pytest.FixtureRequest, database: str) -> str | None:
    """The URL of an empty database, None for a file."""
    return request.getfixturevalue("postgres_url") if database == "postgresql" else None


@pytest.fixture
async def instance(tmp_path: Path, database_url: str | None) -> AsyncIterator[Instance]:
    """A service on an empty database."""
    async with running_instance(tmp_path, database_url) as running:
        yield running


@pytest.fixture
async def admin(instance: Instance) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the admin token."""
    async with instance.client() as client:
        yield client


@pytest.fixture
async def acme(instance: Instance, admin: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the token of the tenant `acme`, which has an account `main`. There is a tenant `other` as well."""
    token = await new_tenant(admin, "acme", "main")
    await new_tenant(admin, "other", "theirs")
    async with instance.client(token) as client:
        yield client
