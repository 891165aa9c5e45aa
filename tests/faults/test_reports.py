"""Every outcome is told, at least once, in order and under one id, whoever dies meanwhile; the feed has each once."""

from __future__ import annotations

from tests.faults.conftest import NewInstance, Show
from tests.faults.endpoint import Telling
from tests.faults.reports import (
    SETTINGS,
    endpoint_killed,
    frozen_before_the_mark,
    killed_before_the_mark,
    told_all_the_same,
)
from tests.faults.told import Written, misordered, repeats, two_ids

SEED = 1
MESSAGES = 50


async def test_killed_on_sqlite_it_tells_every_outcome_in_order(new_instance: NewInstance, show: Show) -> None:
    faults = [killed_before_the_mark, endpoint_killed]
    show(await told_all_the_same([new_instance(None, **SETTINGS)], faults, MESSAGES, SEED))


async def test_of_two_on_postgresql_the_one_that_reports_is_frozen_and_the_other_goes_on_in_order(
    new_instance: NewInstance, postgres_url: str, show: Show
) -> None:
    settings = {"LEASE": "1", **SETTINGS}
    instances = [new_instance(postgres_url, INSTANCE_NAME=f"i{n}", **settings) for n in range(2)]
    show(await told_all_the_same(instances, [frozen_before_the_mark], MESSAGES, SEED))


def test_the_figures_notice_what_must_not_be() -> None:
    events = [
        Written(n, message, type_) for n, message, type_ in ((1, "a", "deferred"), (2, "b", "sent"), (3, "a", "sent"))
    ]
    first, other, last = ({"event_id": str(each.event_id), "id": each.message, "event": each.type} for each in events)

    def order(*entries: dict[str, str]) -> int:
        return misordered([Telling(True, entry) for entry in entries], events)

    assert order(other, first, last, first, last) == order(first, other, first, last) == 0
    assert order(last, first, other) == order(last, other) == 1
    assert two_ids([first, other, last, first]) == 0
    assert two_ids([first, first | {"event_id": "4"}]) == two_ids([first, first | {"event": "sent"}]) == 1
    assert repeats([first, other, last], {1: first}) == 0
    assert repeats([first, first, other], {}) == repeats([first, last, other], {}) == repeats([first], {1: last}) == 1
