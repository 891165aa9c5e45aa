"""One PostgreSQL database for many tests, emptied before each: making and dropping one costs half a second.

A module takes it in the place of `postgres_url` by naming both fixtures:

    shared_database, postgres_url = emptied.shared_database, emptied.postgres_url
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from mail_proxy.store.schema import metadata, settings
from tests.support.postgres import PostgresServer

_ALL_BUT_SETTINGS = [table.name for table in reversed(metadata.sorted_tables) if table is not settings]
_EMPTY = f"""
DO $$
BEGIN
    IF to_regclass('messages') IS NOT NULL THEN
        DELETE FROM {"; DELETE FROM ".join(_ALL_BUT_SETTINGS)};
        DELETE FROM settings WHERE name NOT IN ('directory_version', 'encryption_check');
    END IF;
END $$
"""  # noqa: S608 - the names are those of our schema


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
