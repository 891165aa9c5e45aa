"""Several processes on one PostgreSQL: whatever befalls one of them, the others go on, and nothing is lost."""

from __future__ import annotations

from tests.faults.conftest import NewInstance, Show
from tests.faults.instances import frozen_in_a_transaction, several, stopped

SEED = 1
MESSAGES = 600


async def test_one_is_frozen_beyond_its_lease_and_one_dies_for_good(
    new_instance: NewInstance, postgres_url: str, show: Show
) -> None:
    # `make faults` does it with two and with four
    instances = [new_instance(postgres_url, LEASE="1", INSTANCE_NAME=f"i{n}") for n in range(3)]
    show(await several(instances, MESSAGES, SEED))


async def test_one_is_told_to_stop_and_the_other_goes_on_at_once(
    new_instance: NewInstance, postgres_url: str, show: Show
) -> None:
    # A lease so long that nothing can have been taken over.
    instances = [new_instance(postgres_url, LEASE="3600", INSTANCE_NAME=f"i{n}") for n in range(2)]
    show(await stopped(instances, 2, SEED))


async def test_one_that_is_frozen_in_a_transaction_does_not_hold_up_the_others(
    new_instance: NewInstance, postgres_url: str, show: Show
) -> None:
    instances = [new_instance(postgres_url, LEASE="1", INSTANCE_NAME=f"i{n}") for n in range(2)]
    show(await frozen_in_a_transaction(instances, SEED))
