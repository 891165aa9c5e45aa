"""Whoever reports is killed or frozen, and so is whoever is told: each event is told all the same, in order."""  # G9

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any

import httpx

from tests.acceptance.tenants import Tenant, new_tenant
from tests.faults.endpoint import Endpoint, running_endpoint
from tests.faults.load import all_ended, running_load
from tests.faults.sink import running_sink
from tests.faults.tally import rows
from tests.faults.told import Reported, reported
from tests.support.instance import Client, Instance, eventually

SESSIONS = 4
PAUSE = 0.005
AHEAD = 100
"""Messages that are accepted and not told to the end, at most."""
QUIET = 0.3
"""Seconds without news after which the tenant asks for its reports, so that no test waits for long pauses to pass."""
ANSWERED = 0.25
"""Seconds after which the endpoint has answered, as a rule."""
UNTOLD = "SELECT count(*) FROM events WHERE reported_ts IS NULL"
SETTINGS = {"MAX_RETRIES": "50"}
"""Of the instances: no kill is to cost a message its last attempt."""
Tell = Callable[[str], None]


def recipients(number: int) -> Sequence[str]:
    """Return recipients of whom there is more than one thing to report, for most messages."""
    return (
        [f"u{number}@example.net"],
        [f"once{number}@example.net"],
        [f"u{number}@example.net", f"never{number}@example.net", f"once{number}@example.net"],
        [f"never{number}@example.net"],
        [f"twice{number}@example.net"],
    )[number % 5]


@dataclass
class Play:
    """Those who can be broken, and those who must not notice."""

    instances: Sequence[Instance]
    endpoint: Endpoint
    tenant: Tenant
    rng: Random
    caught: list[Collection[int]] = field(default_factory=list)
    """Events that were taken, and not noted as such by the instance that had sent them: they have to come again."""

    @property
    def url(self) -> str:
        """The database."""
        return self.instances[0].settings["DB_PATH"]

    def reporting(self) -> Instance | None:
        """Return who has the turn to report."""
        if len(self.instances) == 1:
            return self.instances[0]
        statement = "SELECT instance_id FROM sync_leases WHERE token IS NOT NULL AND tenant_id = ?"
        holders = [holder for (holder,) in rows(self.url, statement, self.tenant.id)]
        return next(
            (
                each
                for each in self.instances
                for holder in holders
                if each.running and holder.startswith(f"{each.settings['INSTANCE_NAME']}-{each.pid}-")
            ),
            None,
        )

    async def freeze_before_the_mark(self) -> Instance:
        """Freeze who reports between the endpoint's positive answer and the commit that notes it."""
        while True:
            news = await self.endpoint.more(1)
            reporting = self.reporting()
            if reporting is None:
                continue
            reporting.freeze()
            await asyncio.sleep(ANSWERED)
            told = {telling.event_id for telling in news if telling.taken}
            untold = "SELECT event_id FROM events WHERE reported_ts IS NULL"
            again = told & {event_id for (event_id,) in rows(self.url, untold)}
            if again and self.reporting() is reporting:
                self.caught.append(again)
                return reporting
            reporting.thaw()

    async def quiet(self) -> None:
        """Give the scenario a moment that nobody has chosen."""
        await self.endpoint.more(3, 60)
        await asyncio.sleep(self.rng.uniform(0.0, 0.3))


async def killed_at_random(play: Play) -> None:
    """Kill an instance."""
    await play.quiet()
    instance = play.rng.choice(play.instances)
    instance.kill()
    await instance.start()


async def killed_before_the_mark(play: Play) -> None:
    """Kill who reports, when the endpoint has taken the report."""
    instance = await play.freeze_before_the_mark()
    instance.kill()
    await instance.start()


async def frozen_before_the_mark(play: Play) -> None:
    """Freeze who reports beyond its lease; it goes on when another one has told more, and hears its late answer."""
    instance = await play.freeze_before_the_mark()
    await eventually(lambda: play.reporting() not in {None, instance}, "another instance reports", 60)
    await play.endpoint.more(3, 60)
    instance.thaw()


async def endpoint_killed(play: Play) -> None:
    """Kill the endpoint, and start it again."""
    await play.quiet()
    play.endpoint.kill()
    await asyncio.sleep(play.rng.uniform(0.0, 0.3))
    await asyncio.to_thread(play.endpoint.start)


Fault = Callable[[Play], Awaitable[None]]


async def told_all_the_same(
    instances: Sequence[Instance], faults: Sequence[Fault], messages: int, seed: int, tell: Tell = lambda _: None
) -> Reported:
    """Break what these say, one after the other, under load, and hold what was told against what became of the mail."""
    url = instances[0].settings["DB_PATH"]
    await asyncio.gather(*(each.start() for each in instances))
    async with AsyncExitStack() as stack:
        sink = stack.enter_context(running_sink(instances[0].folder, PAUSE))
        endpoint = stack.enter_context(running_endpoint(instances[0].folder, seed * 1000))
        acme = await stack.enter_async_context(
            new_tenant(instances[0], sink.port, callback=endpoint.url, max_connections=SESSIONS)
        )
        play = Play(instances, endpoint, acme, Random(seed))
        feed = await stack.enter_async_context(_reading(instances, acme))

        def told() -> int:
            endpoint.look()
            return len(endpoint.ended)

        async with (
            _asking(play),
            running_load(
                instances, acme, sink, ahead=AHEAD, at_least=messages, to=recipients, came=told, patience=2.0
            ) as load,
        ):
            for n, fault in enumerate(faults):
                await fault(play)
                tell(f"{n + 1} of {len(faults)}, {fault.__name__}: {len(load.accepted)} accepted, {told()} told")
            load.stop_after(messages)
            await eventually(lambda: len(load.accepted) >= messages, "so many are accepted", 120)
        async with _asking(play):
            await all_ended(url)
            await eventually(lambda: rows(url, UNTOLD)[0][0] == 0, "nothing is left to be told", 60)
        last: int = rows(url, "SELECT max(event_id) FROM events")[0][0]
        await eventually(lambda: feed and int(feed[-1]["event_id"]) >= last, "the feed has been read to its end")
        endpoint.look()
        database = "PostgreSQL" if url.startswith("postgresql:") else "SQLite"
        name = f"reports, {len(instances)} on {database}"
        result = reported(name, seed, url, load.accepted, endpoint.tellings, feed, play.caught, len(faults))
        assert not result.wrong, str(result)
        # What the endpoint took and nobody noted came a second time, and under the ids of the first time.
        taken = Counter(telling.event_id for telling in endpoint.tellings if telling.taken)
        assert [event_id for events in play.caught for event_id in events if taken[event_id] < 2] == []
    return result


@asynccontextmanager
async def _reading(instances: Sequence[Instance], tenant: Tenant) -> AsyncIterator[list[Mapping[str, Any]]]:
    """Read the feed meanwhile, from one instance after the other, as they are there; it keeps the last cursor alone."""
    found: list[Mapping[str, Any]] = []

    async def read(clients: Sequence[Client]) -> None:
        query: dict[str, str | int] = {"limit": 50, "wait": 1}
        for turn in count():
            try:
                answer = await clients[turn % len(clients)].ask("GET", "/events", params=query)
            except httpx.TransportError:
                await asyncio.sleep(0.02)
                continue
            if answer.status_code != 503:
                assert answer.status_code == 200, answer.text
                found.extend(answer.json()["events"])
                query["after"] = answer.json()["next_cursor"]

    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(each.client(tenant.token)) for each in instances]
        for client in clients:
            client.http.timeout = 3.0
        await stack.enter_async_context(_meanwhile(read(clients)))
        yield found


@asynccontextmanager
async def _asking(play: Play) -> AsyncIterator[None]:
    """Have the tenant ask for its reports meanwhile, whenever there was no news for a while."""

    async def ask(clients: Sequence[Client]) -> None:
        seen = -1
        for turn in count():
            await asyncio.sleep(QUIET)
            play.endpoint.look()
            if len(play.endpoint.tellings) == seen:
                try:
                    await clients[turn % len(clients)].ask("POST", "/commands/run-now")
                except httpx.TransportError:
                    continue
            seen = len(play.endpoint.tellings)

    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(each.client(play.tenant.token)) for each in play.instances]
        for client in clients:
            client.http.timeout = 2.0
        await stack.enter_async_context(_meanwhile(ask(clients)))
        yield


@asynccontextmanager
async def _meanwhile(work: Awaitable[None]) -> AsyncIterator[None]:
    """Do something without end for the length of the block; what goes wrong in it comes out at the end."""
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        ended = task.done()
        task.cancel()
        if ended:
            task.result()
        await asyncio.gather(task, return_exceptions=True)
