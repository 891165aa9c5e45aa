"""One PostgreSQL database for many tests, emptied before each: making and dropping one costs half a second.

A module takes it in the place of `postgres_url` by naming both fixtures:

    shared_database, postgres_url = emptied.shared_database, emptied.postgres_url
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.support.postgres import PostgresServer

_EMPTY = """
DO $$
BEGIN
    IF to_regclass('messages') IS NOT NULL THEN
        DELETE FROM events; DELETE FROM recipients; DELETE FROM contents; DELETE FROM messages;
        DELETE FROM suspended_batches; DELETE FROM accounts; DELETE FROM tenants; DELETE FROM instances;
        DELETE FROM sync_leases; DELETE FROM feed_horizons;
        DELETE FROM file_links; DELETE FROM kept_files; DELETE FROM file_storages;
        DELETE FROM settings WHERE name NOT IN ('directory_version', 'encryption_check');
    END IF;
END $$
"""


@pytest.fixture(scope="session")
def shared_database(postgres: PostgresServer) -> Iterator[str]:
    """The URL of a database that the first test makes its schema in."""
    url = postgres.create_database()
    yield url
    postgres.start()
    postgres.drop_database(url.rpartition("/")[2])


@pytest.fixture
def postgres_url(postgres: PostgresServer, shared_database: str) -> str:
    """The URL of that database, with nothing in it."""
    postgres.start()
    with psycopg.connect(shared_database, autocommit=True) as connection:
        connection.execute(_EMPTY)
    return shared_database
