"""What the service stands on breaks under load, and it goes on by itself."""

from __future__ import annotations

from tests.faults.conftest import NewInstance, Show
from tests.faults.outages import database_cut, database_killed, mail_cut
from tests.support.postgres import PostgresServer

SEED = 1


async def test_with_postgresql_killed_it_answers_503_and_loses_nothing_that_it_accepted(
    new_instance: NewInstance, postgres: PostgresServer, postgres_url: str, show: Show
) -> None:
    show(await database_killed(new_instance(postgres_url), postgres, 2, SEED))


async def test_with_its_database_connections_cut_it_loses_nothing_and_sends_nothing_twice(
    new_instance: NewInstance, postgres_url: str, show: Show
) -> None:
    show(await database_cut(new_instance(postgres_url), 6, SEED))


async def test_with_its_smtp_sessions_cut_only_unanswered_dots_lead_to_copies(
    new_instance: NewInstance, show: Show
) -> None:
    show(await mail_cut(new_instance(MAX_RETRIES="50"), 3, SEED))
