"""What every test may ask for."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.cloud_servers import CloudServers
from tests.support.postgres import PostgresServer, running_postgres
from tests.support.postgres_installation import installations, preferred_installation

# How long an example takes says something about the machine, not about the code.
settings.register_profile("tests", deadline=None)
# `--hypothesis-profile=fuzz --timeout=0`: the same tests at length.
settings.register_profile("fuzz", deadline=None, max_examples=20_000)
settings.load_profile("tests")


def pytest_report_header() -> list[str]:
    found = [str(installation) for installation in installations()]
    return [f"database: {found[0] if found else 'no PostgreSQL server found'}"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest test: as the last one it would leave the other workers with nothing to do."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/fuzz/"))


def pytest_collection_finish() -> None:
    """Have the garbage collector pass over what lives as long as the run: thousands of tests and all modules."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that tests have recorded as `tally`, wherever they ran."""
    reports = [report for found in terminalreporter.stats.values() for report in found if hasattr(report, "when")]
    figures = [
        text for each in reports if each.when == "call" for name, text in each.user_properties if name == "tally"
    ]
    if figures:
        terminalreporter.section("figures")
        for line in sorted(figures):
            terminalreporter.write_line(str(line))


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of this run; with pytest-xdist, of each worker, so that one may stop its own."""
    with running_postgres(preferred_installation()) as server:
        yield server


@pytest.fixture(scope="session")
def cloud_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudServers]:
    """Storages of three clouds, of this run."""
    servers = CloudServers(tmp_path_factory.mktemp("clouds"))
    yield servers
    servers.stop()


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """The URL of an empty database, for one test."""
    postgres.start()  # a test that stopped it and then failed does not take the others with it
    url = postgres.create_database()
    yield url
    postgres.start()
    postgres.drop_database(url.rpartition("/")[2])
