"""The service as a child process. Whatever a test does, no process outlives it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.certificates import Authority, create_authority
from tests.support.instance import Instance
from tests.support.postgres import PostgresServer

NewInstance = Callable[..., Instance]


@pytest.fixture
def new_instance(tmp_path: Path) -> Iterator[NewInstance]:
    """Make an instance on SQLite that is not started yet, in a folder of its own: `new_instance(NAME="value")`."""
    with ExitStack() as instances:

        def make(**settings: str) -> Instance:
            folder = tmp_path / f"instance-{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            instance = Instance(folder, **settings)
            instances.callback(instance.close)
            return instance

        yield make


@pytest.fixture(scope="package")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that `shared` trusts."""
    return create_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="package")
def _shared(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    instance = Instance(tmp_path_factory.mktemp("shared"), MAX_RETRIES="3", RETRY_DELAYS="0.2,0.4")
    instance.variables["SSL_CERT_FILE"] = str(authority.path)  # where OpenSSL looks for what the system trusts
    yield instance
    instance.close()


@pytest.fixture
async def shared(_shared: Instance) -> Instance:
    """A running instance on SQLite for tests that bring a tenant of their own and leave the rest as it was."""
    if not _shared.running:
        await _shared.start()
    return _shared


@pytest.fixture(scope="package")
def _on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    instance = Instance(tmp_path_factory.mktemp("sqlite"))
    yield instance
    instance.close()


@pytest.fixture(scope="package")
def _on_postgresql(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    postgres.start()
    instance = Instance(tmp_path_factory.mktemp("postgresql"), postgres.create_database())
    yield instance
    instance.close()


@pytest.fixture
async def on_postgresql(_on_postgresql: Instance) -> Instance:
    """A running instance on PostgreSQL."""
    if not _on_postgresql.running:
        await _on_postgresql.start()
    return _on_postgresql


@pytest.fixture
async def instances(postgres_url: str, tmp_path: Path) -> AsyncIterator[list[Instance]]:
    """Two instances with folders of their own, not started."""
    made = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        made.append(Instance(folder, postgres_url, INSTANCE_NAME=name))
    yield made
    for instance in made:
        instance.close()


@pytest.fixture(params=["sqlite", "postgresql"])
async def on_each_database(request: pytest.FixtureRequest) -> AsyncIterator[Instance]:
    """A running instance on each kind of database, for tests that bring a tenant of their own and may kill it."""
    instance: Instance = request.getfixturevalue(f"_on_{request.param}")
    if not instance.running:
        await instance.start()
    yield instance
    if instance.frozen:
        instance.kill()
