"""Whatever a mail server does wrong at whichever step: each message ends where it is to end, and only there."""

from __future__ import annotations

from tests.faults.bad_servers import SETTINGS, misbehaving
from tests.faults.conftest import NewInstance, Show


async def test_servers_that_misbehave_at_each_step_lose_nothing_and_only_doubtful_dots_are_repeated(
    new_instance: NewInstance, show: Show
) -> None:
    show(await misbehaving(new_instance(**SETTINGS)))
