"""How long messages wait, foretold: `python -m bench.simulate --rate 30 --connections 4 --seconds 0.1`.

A model of one account: messages come at random moments, at a rate; each takes one of the sessions for the time that two
round trips and the server's work take, and the one interpreter for the time that the process works on it; a rate limit
lets so many begin in any minute. What comes out is the time from when a message was taken until the server has it.

`--check` also measures it, with a real instance and a mail server that is that far away.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import random
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from bench.distance import far_away
from bench.main_job import set_up
from bench.processes import TOKEN, MailCounter, mail_sink, serving, wait_for
from mail_proxy.cli.counting import counting
from mail_proxy.cli.http_load import PATH, Messages, clients

MINUTE = 60.0
WORK = 0.0005
"""Seconds that one process works on a message (docs/performance.md)."""
OVERHEAD = 0.004
"""Seconds from the commit of a message until a session has it, where nothing else waits: its claim."""


@dataclass(frozen=True, slots=True)
class Model:
    """One account. `seconds`: how long a message takes a session; `per_minute`: a rate limit, None: none."""

    sessions: int
    seconds: float
    work: float = WORK
    per_minute: int | None = None


def arrivals(rate: float, count: int, rng: random.Random) -> Sequence[float]:
    """Return so many random moments in order, so many a second (a Poisson process)."""
    moments, now = [], 0.0
    for _ in range(count):
        now += rng.expovariate(rate)
        moments.append(now)
    return moments


def delays(model: Model, moments: Iterable[float]) -> list[float]:
    """Return how long each message takes from when it comes until it has gone, in the order in which they came."""
    free = [0.0] * model.sessions
    heapq.heapify(free)
    processor = 0.0
    begun: deque[float] = deque()
    found = []
    for moment in moments:
        begins = max(moment + OVERHEAD, heapq.heappop(free), processor)
        if model.per_minute is not None:
            if len(begun) == model.per_minute:
                begins = max(begins, begun.popleft() + MINUTE)
            begun.append(begins)
        processor = begins + model.work
        ends = begins + max(model.seconds, model.work)
        heapq.heappush(free, ends)
        found.append(ends - moment)
    return found


def quantile(values: Sequence[float], part: float) -> float:
    """Return the value that this part of all is not above."""
    return sorted(values)[min(int(len(values) * part), len(values) - 1)]


def measure(rate: float, count: int, sessions: int, distance: float, seed: int) -> list[float]:
    """Return the same from a real instance: a message a request, at the same moments."""
    moments = arrivals(rate, count, random.Random(seed))
    with ExitStack() as stack:
        sink = stack.enter_context(mail_sink())
        port = stack.enter_context(far_away(sink.port, distance))
        callback = stack.enter_context(counting("callback"))
        server = stack.enter_context(serving({}))

        async def submit() -> tuple[list[float], list[float]]:
            taken: list[float] = []
            async with clients(server.url, TOKEN, 40) as many:
                await set_up(many[0], callback, port, ["main"], sessions)
                source = Messages(["main"])
                await many[0].post(PATH, {"messages": source.take(sessions)})  # opens the sessions
                await asyncio.to_thread(wait_for, sink, sessions)
                watching = asyncio.create_task(_watch(sink, sessions, count))
                began = time.monotonic()
                posting = set()
                for n, moment in enumerate(moments):
                    await asyncio.sleep(max(began + moment - time.monotonic(), 0))
                    taken.append(time.monotonic())
                    task = asyncio.create_task(many[n % len(many)].post(PATH, {"messages": source.take(1)}))
                    posting.add(task)
                    task.add_done_callback(posting.discard)
                return taken, await watching

        taken, came = asyncio.run(submit())
    return [after - before for before, after in zip(taken, came, strict=True)]


async def _watch(sink: MailCounter, before: int, count: int) -> list[float]:
    """Return when each message came; they come nearly in their order."""
    came: list[float] = []
    while len(came) < count:
        new = sink.count - before - len(came)
        came += [time.monotonic()] * new
        await asyncio.sleep(0.001)
    return came


def main() -> None:
    """Foretell, and measure where that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.simulate", description=__doc__)
    parser.add_argument("--rate", type=float, default=30.0, help="messages that come a second (default: 30)")
    parser.add_argument("--connections", type=int, default=4, help="of the account (default: 4)")
    parser.add_argument(
        "--seconds", type=float, default=0.1, help="that a message takes a session: two round trips (default: 0.1)"
    )
    parser.add_argument("--per-minute", type=int, help="a rate limit of the account")
    parser.add_argument("--messages", type=int, default=2000, help="(default: 2000)")
    parser.add_argument("--check", action="store_true", help="also measure it")
    options = parser.parse_args()

    model = Model(options.connections, options.seconds, per_minute=options.per_minute)
    moments = arrivals(options.rate, options.messages, random.Random(1))
    found = {"foretold": delays(model, moments)}
    if options.check:
        found["measured"] = measure(options.rate, options.messages, options.connections, options.seconds / 2, 1)
    busy = options.rate * options.seconds / options.connections
    print(f"{options.rate:g} messages a second, {options.connections} sessions, {busy:.0%} busy")
    for name, values in found.items():
        p50, p99 = quantile(values, 0.5), quantile(values, 0.99)
        print(f"  {name}: p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms, the longest {max(values) * 1000:.0f} ms")


if __name__ == "__main__":
    main()
