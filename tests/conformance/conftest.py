"""The stores that the conformance suites run on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mail_proxy.store.opening import database_url
from mail_proxy.store.store import Store
from tests.support import emptied
from tests.support.stores import SetClock, open_test_store, ready_made

shared_database, postgres_url = emptied.shared_database, emptied.postgres_url


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of each kind."""
    if request.param == "sqlite":
        return ready_made(database_url(str(tmp_path / "mail_service.db")))
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def clock() -> SetClock:
    """A clock that the test moves."""
    return SetClock()


@pytest.fixture
async def store(store_url: str, clock: SetClock) -> AsyncIterator[Store]:
    """An open store."""
    opened = await open_test_store(store_url, clock=clock)
    yield opened
    await opened.close()
