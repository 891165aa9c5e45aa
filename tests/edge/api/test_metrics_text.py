"""Who asks for the metrics, and how often, holds up nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from threading import Event

import pytest

from mail_proxy.api.application import create_app
from mail_proxy.api.metrics_text import MetricsText
from tests.support.api import Instance


class Rendering:
    """Takes as long as it is told to, and says how often it was asked."""

    def __init__(self) -> None:
        self.go_on = Event()
        self.go_on.set()
        self.times = 0
        self.now = 100.0
        self.fails = False

    def render(self) -> bytes:
        self.times += 1
        text = f"{self.times}\n".encode()
        assert self.go_on.wait(20)
        if self.fails:
            raise ZeroDivisionError
        return text

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def rendering() -> Iterator[Rendering]:
    made = Rendering()
    yield made
    made.go_on.set()


async def test_a_text_is_given_for_a_second_and_no_longer(rendering: Rendering) -> None:
    text = MetricsText(rendering.render, rendering.monotonic)
    answers = []
    for seconds in (0, 0.5, 0.4, 0.2, 0.9, 0.1, 5):
        rendering.now += seconds
        answers.append(await text.get())
    assert answers == [b"1\n", b"1\n", b"1\n", b"2\n", b"2\n", b"3\n", b"4\n"]


async def test_its_age_counts_from_when_it_was_begun(rendering: Rendering) -> None:
    text = MetricsText(rendering.render, rendering.monotonic)
    rendering.go_on.clear()
    first = asyncio.create_task(text.get())
    await asyncio.sleep(0)
    rendering.now += 1.5
    rendering.go_on.set()
    assert await first == b"1\n"
    assert await text.get() == b"2\n"


async def test_one_that_fails_is_given_to_those_who_wait_for_it_alone(rendering: Rendering) -> None:
    text = MetricsText(rendering.render, rendering.monotonic)
    rendering.fails = True
    for answer in await asyncio.gather(text.get(), text.get(), return_exceptions=True):
        assert isinstance(answer, ZeroDivisionError)
    rendering.fails = False
    assert await text.get() == b"2\n"


async def test_who_goes_away_takes_it_from_nobody(rendering: Rendering) -> None:
    text = MetricsText(rendering.render, rendering.monotonic)
    rendering.go_on.clear()
    gone, other = asyncio.create_task(text.get()), asyncio.create_task(text.get())
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    rendering.go_on.set()
    assert await other == b"1\n"
    assert gone.cancelled()


async def test_while_it_is_written_others_are_answered_and_all_who_ask_get_the_same(
    instance: Instance, rendering: Rendering
) -> None:
    services = replace(instance.services, metrics_text=MetricsText(rendering.render, rendering.monotonic))
    rendering.go_on.clear()
    async with instance.client(None, create_app(services)) as client:
        asking = [asyncio.create_task(client.get("/metrics")) for _ in range(10)]
        for _ in range(3):
            assert (await client.get("/health")).status_code == 200
        assert not any(task.done() for task in asking)
        rendering.go_on.set()
        assert {(await task).content for task in asking} == {b"1\n"}
    assert rendering.times == 1
