"""What `make faults` does at length: each scenario, the guarantees that it puts to the test, and its short brother."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from tests.faults.bad_servers import SETTINGS, misbehaving
from tests.faults.instances import frozen_in_a_transaction, several, stopped
from tests.faults.kills import killed
from tests.faults.outages import database_cut, database_killed, mail_cut
from tests.faults.reports import (
    SETTINGS as REPORTING,
)
from tests.faults.reports import (
    Fault,
    endpoint_killed,
    frozen_before_the_mark,
    killed_at_random,
    killed_before_the_mark,
    told_all_the_same,
)
from tests.faults.tally import Tally
from tests.faults.told import Reported
from tests.support.instance import Instance
from tests.support.postgres import PostgresServer

_FOLDERS = count(1)


@dataclass(frozen=True, slots=True)
class Stage:
    """What a scenario plays on. `scale` is 1.0 for the figures of the page, less for a rehearsal."""

    folder: Path
    postgres: PostgresServer
    seed: int
    scale: float
    tell: Callable[[str], None]
    cleaning: ExitStack

    def times(self, number: int) -> int:
        """Scale a number, to no less than two."""
        return max(2, round(number * self.scale))

    def database(self) -> str:
        """Make an empty database on PostgreSQL."""
        self.postgres.start()
        return self.postgres.create_database()

    def instance(self, database: str | None = None, **settings: str) -> Instance:
        """Make an instance with a folder of its own."""
        folder = self.folder / f"instance-{next(_FOLDERS)}"
        folder.mkdir()
        instance = Instance(folder, database, **settings)
        self.cleaning.callback(instance.close)
        return instance

    def instances(self, number: int, lease: int, **settings: str) -> list[Instance]:
        """Make instances on one new database."""
        url = self.database()
        return [self.instance(url, LEASE=str(lease), INSTANCE_NAME=f"i{n}", **settings) for n in range(number)]


@dataclass(frozen=True, slots=True)
class Scenario:
    """`run` plays it at length; `test` names the test that plays it briefly in `make test`."""

    name: str
    guarantees: str
    what: str
    test: str
    run: Callable[[Stage], Awaitable[Tally | Reported]]


def _killed(database: str, journal: str, kills: int) -> Scenario:
    name = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}[database]

    async def run(stage: Stage) -> Tally:
        url = None if database == "sqlite" else stage.database()
        return await killed(stage.instance(url, LEASE="2"), journal, stage.times(kills), stage.seed, stage.tell)

    return Scenario(
        f"{database}-{journal.replace(' ', '-')}",
        "G1, G2, G3, G4",
        f"kill -9 at random moments under load, {name}, journal {journal}",
        f"tests/faults/test_kills.py: test_killed_on_{database}_it_loses_nothing",
        run,
    )


def _several(number: int, messages: int) -> Scenario:
    async def run(stage: Stage) -> Tally:
        return await several(stage.instances(number, 2), stage.times(messages), stage.seed, stage.tell)

    return Scenario(
        f"{number}-instances",
        "G4, G5, G6",
        f"{number} instances, one frozen beyond its lease of 2 s and continued, one killed for good",
        "tests/faults/test_instances.py: test_one_is_frozen_beyond_its_lease_and_one_dies_for_good",
        run,
    )


async def _stopped(stage: Stage) -> Tally:
    return await stopped(stage.instances(2, 3600), stage.times(10), stage.seed, stage.tell)


async def _frozen(stage: Stage) -> Tally:
    return await frozen_in_a_transaction(stage.instances(2, 2), stage.seed, stage.tell)


async def _database_killed(stage: Stage) -> Tally:
    instance = stage.instance(stage.database())
    return await database_killed(instance, stage.postgres, stage.times(10), stage.seed, stage.tell)


async def _database_cut(stage: Stage) -> Tally:
    return await database_cut(stage.instance(stage.database()), stage.times(50), stage.seed, stage.tell)


async def _misbehaving(stage: Stage) -> Tally:
    return await misbehaving(stage.instance(**SETTINGS), stage.seed)


async def _mail_cut(stage: Stage) -> Tally:
    return await mail_cut(stage.instance(MAX_RETRIES="50"), stage.times(10), stage.seed, stage.tell)


_ALONE: tuple[Fault, ...] = (killed_at_random, killed_before_the_mark, endpoint_killed)
_OF_TWO = (*_ALONE, frozen_before_the_mark)
_REPORTED = 4000
"""Messages, at least."""


async def _reports_alone(stage: Stage) -> Reported:
    faults = _ALONE * stage.times(15)
    return await told_all_the_same(
        [stage.instance(**REPORTING)], faults, stage.times(_REPORTED), stage.seed, stage.tell
    )


async def _reports_of_two(stage: Stage) -> Reported:
    faults = _OF_TWO * stage.times(8)
    instances = stage.instances(2, 2, **REPORTING)
    return await told_all_the_same(instances, faults, stage.times(_REPORTED), stage.seed, stage.tell)


SCENARIOS = (
    _killed("sqlite", "kept", 50),
    _killed("sqlite", "deleted", 5),
    _killed("sqlite", "of another boot", 5),
    _killed("postgresql", "kept", 50),
    _killed("postgresql", "deleted", 5),
    _killed("postgresql", "of another boot", 5),
    _several(2, 20_000),
    _several(4, 20_000),
    Scenario(
        "frozen",
        "G5, G6, G11",
        "one of 2 instances frozen in the middle of a transaction, and continued",
        "tests/faults/test_instances.py: test_one_that_is_frozen_in_a_transaction_does_not_hold_up_the_others",
        _frozen,
    ),
    Scenario(
        "stopped",
        "G6",
        "SIGTERM to one of 2 instances after the other, under load",
        "tests/faults/test_instances.py: test_one_is_told_to_stop_and_the_other_goes_on_at_once",
        _stopped,
    ),
    Scenario(
        "database-killed",
        "G1, G12",
        "PostgreSQL ended as in a crash and started again, under load",
        "tests/faults/test_outages.py: test_with_postgresql_killed_it_answers_503_and_loses_nothing_that_it_accepted",
        _database_killed,
    ),
    Scenario(
        "database-cut",
        "G1, G5, G12",
        "all connections to PostgreSQL cut at random moments",
        "tests/faults/test_outages.py: test_with_its_database_connections_cut_it_loses_nothing_and_sends_nothing_twice",
        _database_cut,
    ),
    Scenario(
        "smtp-cut",
        "G4",
        "all SMTP sessions cut at random moments, or stalled for a while",
        "tests/faults/test_outages.py: test_with_its_smtp_sessions_cut_only_unanswered_dots_lead_to_copies",
        _mail_cut,
    ),
    Scenario(
        "bad-servers",
        "G4, G7, G8",
        "mail servers that refuse (4xx, 5xx, 421), leave, hang or talk nonsense at each step, a message each",
        "tests/faults/test_bad_servers.py: "
        "test_servers_that_misbehave_at_each_step_lose_nothing_and_only_doubtful_dots_are_repeated",
        _misbehaving,
    ),
    Scenario(
        "reports",
        "G9",
        "SQLite: kill -9 at random moments, or between the endpoint's 2xx and its mark; kill -9 of the endpoint",
        "tests/faults/test_reports.py: test_killed_on_sqlite_it_tells_every_outcome_in_order",
        _reports_alone,
    ),
    Scenario(
        "reports-of-two",
        "G9",
        "2 instances: the same, and the one that reports frozen before its mark, beyond its lease, and continued",
        "tests/faults/test_reports.py: "
        "test_of_two_on_postgresql_the_one_that_reports_is_frozen_and_the_other_goes_on_in_order",
        _reports_of_two,
    ),
)
