"""The service as a child process. Whatever a test does, no process outlives it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.instance import Instance

NewInstance = Callable[..., Instance]


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str | None:
    """What an instance is given as its database: None for an SQLite file of its own."""
    if request.param == "sqlite":
        return None
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def new_instance(tmp_path: Path) -> Iterator[NewInstance]:
    """Make an instance that is not started yet, in a folder of its own: `new_instance(database, NAME="value")`."""
    with ExitStack() as instances:

        def make(database: str | None = None, **settings: str) -> Instance:
            folder = tmp_path / f"instance-{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            instance = Instance(folder, database, **settings)
            instances.callback(instance.close)
            return instance

        yield make


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """A running instance on SQLite for tests that bring a tenant of their own and change nothing else."""
    instance = Instance(tmp_path_factory.mktemp("shared"), MAX_RETRIES="3", RETRY_DELAYS="0.2,0.4")
    try:
        instance.start_at_once()
        yield instance
    finally:
        instance.close()
