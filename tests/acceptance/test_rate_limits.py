"""Limits over several instances on one PostgreSQL, killed and started again, as the receiving server sees it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import pytest

from tests.acceptance.sinks import running_sink
from tests.acceptance.tenants import new_tenant
from tests.support.instance import Instance, a_message

WINDOW = 3.0
MOST = 10
STAMPED_LATE = 0.15
"""Seconds by which the sink, in a process that is busy, may take down an arrival later than it was."""

NewInstances = Callable[[int], Sequence[Instance]]


@pytest.fixture
def instances(postgres_url: str, tmp_path: Path) -> Iterator[NewInstances]:
    """Make so many instances on one database, each with a data folder of its own."""
    with ExitStack() as stack:

        def make(count: int) -> Sequence[Instance]:
            made = []
            for n in range(count):
                folder = tmp_path / f"instance-{n}"
                folder.mkdir()
                made.append(Instance(folder, postgres_url, RATE_WINDOWS=f"{WINDOW},7200,86400"))
                stack.callback(made[-1].close)
            return made

        yield make


def most_in_a_window(times: Sequence[float]) -> int:
    """Return the largest number of arrivals within any window."""
    return max(sum(first <= t < first + WINDOW - STAMPED_LATE for t in times) for first in times)


async def test_four_instances_together_never_send_more_than_the_limit_in_any_window(instances: NewInstances) -> None:
    several = instances(4)
    await asyncio.gather(*(each.start() for each in several))
    async with (
        running_sink() as sink,
        new_tenant(several[0], sink.port, limit_per_minute=MOST) as acme,
    ):
        await acme.client.submit(*(a_message(f"M{n}") for n in range(5 * MOST)))
        await sink.wait_for(3 * MOST)
        urgent = len(sink.arrivals)
        await acme.client.submit(a_message("urgent", priority="immediate"))
        await sink.wait_for(5 * MOST + 1)
    times = sorted(arrival.at for arrival in sink.arrivals)
    took = times[-1] - times[0]
    print(  # noqa: T201 - figures for whoever runs the tests
        f"limit {MOST} in {WINDOW:g} s, 4 instances: {len(times)} in {took:.1f} s, {most_in_a_window(times)} at most"
    )
    assert most_in_a_window(times) <= MOST
    assert set(sink.ledger.values()) == {1}
    assert sink.ids.index("urgent") <= urgent + MOST
    assert len(times) >= 0.9 * MOST * took / WINDOW  # the window is made use of


async def test_a_limit_holds_while_instances_are_killed_and_start_again(instances: NewInstances) -> None:
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    several = instances(2)
    await asyncio.gather(*(each.start() for each in several))
    async with AsyncExitStack() as stack:
        sink = await stack.enter_async_context(running_sink())
        acme = await stack.enter_async_context(new_tenant(several[0], sink.port, limit_per_minute=MOST))
        await acme.client.submit(*(a_message(f"M{n}") for n in range(3 * MOST)))
        for _ in range(3):
            await sink.wait_for(min(len(sink.arrivals) + rng.randrange(1, 6), 3 * MOST))
            victim = rng.choice(several)
            victim.kill()
            await victim.start()
        while len(sink.ledger) < 3 * MOST:  # copies come, too
            await sink.wait_for(len(sink.arrivals) + 1)
    times = sorted(arrival.at for arrival in sink.arrivals)
    copies = len(times) - len(sink.ledger)
    print(  # noqa: T201 - figures for whoever runs the tests
        f"seed {seed}: 3 kills, {len(sink.ledger)} sent, {copies} copies, {most_in_a_window(times)} at most"
    )
    assert copies <= 3 * 4  # one for each kill and open session
    assert most_in_a_window(times) <= MOST
