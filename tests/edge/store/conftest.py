"""Stores of each kind for the tests of what lies below the ports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mail_proxy.store.opening import database_url
from mail_proxy.store.store import Store
from tests.support.emptied import postgres_url as emptied_postgres_url
from tests.support.emptied import shared_database as shared_postgres_database
from tests.support.stores import open_test_store, ready_made

shared_database, postgres_url = shared_postgres_database, emptied_postgres_url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of an SQLite file that does not exist yet."""
    return database_url(str(tmp_path / "mail_service.db"))


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest) -> str:
    """The URL of a database of each kind with nothing in it."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    return url


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    """An open store of each kind."""
    opened = await open_test_store(ready_made(store_url))
    yield opened
    await opened.close()


@pytest.fixture
async def sqlite_store(sqlite_url: str) -> AsyncIterator[Store]:
    """An open store on SQLite."""
    opened = await open_test_store(ready_made(sqlite_url))
    yield opened
    await opened.close()


@pytest.fixture
async def postgresql_store(postgres_url: str) -> AsyncIterator[Store]:
    """An open store on PostgreSQL."""
    opened = await open_test_store(postgres_url)
    yield opened
    await opened.close()
