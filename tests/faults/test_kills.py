"""kill -9 under load, at random moments: nothing is lost, and every copy is one that SMTP itself cannot rule out."""

from __future__ import annotations

import pytest

from tests.faults.conftest import NewInstance, Show
from tests.faults.kills import JOURNALS, killed
from tests.support.instance import run

SEED = 1
KILLS = {"kept": 2, "deleted": 1, "of another boot": 1}


@pytest.mark.parametrize("journal", JOURNALS)
async def test_killed_on_sqlite_it_loses_nothing(new_instance: NewInstance, journal: str, show: Show) -> None:
    show(await killed(new_instance(), journal, KILLS[journal], SEED))


@pytest.mark.parametrize("journal", ["kept", "of another boot"])  # `make faults` does it without a journal as well
async def test_killed_on_postgresql_it_loses_nothing(
    new_instance: NewInstance, postgres_url: str, journal: str, show: Show
) -> None:
    show(await killed(new_instance(postgres_url, LEASE="1"), journal, KILLS[journal], SEED))


async def test_a_journal_that_cannot_be_written_stops_the_start(new_instance: NewInstance) -> None:
    instance = new_instance()
    (instance.folder / "flight-0.log").mkdir()
    settings = {f"GMP_{name}": value for name, value in instance.settings.items()}
    refused = await run("serve", environment=settings, folder=instance.folder)
    assert refused.code == 1
    assert refused.stderr == f"mail-proxy: {instance.folder}/flight-0.log: Is a directory\n"
