"""A tenant's messages arrive whatever the others are in; how long they take is measured by `make faults`."""

from __future__ import annotations

import pytest

from tests.faults.conftest import NewInstance
from tests.faults.neighbours import DISTURBANCES, watched


@pytest.mark.parametrize("beside", [name for name in DISTURBANCES if name != "nothing"])
async def test_every_message_arrives_beside_others_in_trouble(new_instance: NewInstance, beside: str) -> None:
    assert (await watched(new_instance(), beside, messages=20, size=200)).messages == 20
