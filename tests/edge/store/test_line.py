"""Who is taken from the line, in which order, and with whom."""

from __future__ import annotations

import asyncio
import time

from mail_proxy.store.line import ALONE, Call, Line


async def line_of(*companies: object, start_by: float = 0.0) -> tuple[Line[Call], list[Call]]:
    """Make a line of calls of these companies."""
    loop = asyncio.get_running_loop()
    line, calls = Line[Call](), [Call(loop.create_future(), company=each, start_by=start_by) for each in companies]
    for call in calls:
        line.add(call)
    return line, calls


def taken(line: Line[Call], calls: list[Call], weight: int = 100) -> list[list[int]]:
    """Take until nothing is left; say which calls came together, by their places."""
    found = []
    while len(line):
        found.append([calls.index(call) for call in line.take(100, weight)])
    return found


async def test_companies_have_their_turns_by_who_came_first() -> None:
    line, calls = await line_of("a", "b", ALONE, "a", ALONE, "b", "c")
    assert taken(line, calls) == [[0, 3], [1, 5], [2], [4], [6]]


async def test_what_is_left_of_a_company_keeps_its_place() -> None:
    line, calls = await line_of("a", "a", "b", "a")
    assert taken(line, calls, weight=2) == [[0, 1], [2], [3]]


async def test_who_leaves_is_not_taken() -> None:
    line, calls = await line_of("a", "b", "b")
    assert line.leave(calls[0])
    assert line.leave(calls[1])
    assert not line.leave(calls[1])
    assert taken(line, calls) == [[2]]


async def test_the_patient_are_waited_for_by_nobody_and_taken_at_the_end() -> None:
    line, calls = await line_of("a", start_by=time.monotonic() + 3600)
    now = Call(asyncio.get_running_loop().create_future(), company="b")
    line.add(now)
    assert line.take(100, 100) == [now]
    line.end()
    assert line.take(100, 100) == calls
    assert line.take(100, 100) == []
