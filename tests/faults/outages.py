"""The database goes away under load, and connections break in the middle of whatever they carry."""  # G4, G12

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from random import Random
from urllib.parse import urlsplit

from tests.acceptance.tenants import new_tenant
from tests.faults.load import Load, all_ended, running_load
from tests.faults.sink import Sink, running_sink
from tests.faults.tally import Tally, books, copied, lost, tally, unexplained
from tests.support.instance import Instance, eventually
from tests.support.postgres import PostgresServer
from tests.support.tcp_proxy import running_proxy

SESSIONS = 4
PAUSE = 0.005
Tell = Callable[[str], None]


def say_nothing(_: str) -> None:
    """Tell nobody."""


async def database_killed(
    instance: Instance, postgres: PostgresServer, times: int, seed: int, tell: Tell = say_nothing
) -> Tally:
    """End PostgreSQL as in a crash and start it again, so often; the instance is never restarted."""
    rng, url = Random(seed), instance.settings["DB_PATH"]
    recovery = 0.0
    await instance.start()
    with running_sink(instance.folder, PAUSE) as sink:
        async with (
            new_tenant(instance, sink.port, max_connections=SESSIONS) as acme,
            running_load([instance], acme, sink) as load,
        ):
            for n in range(times):
                await sink.wait_for_more(20)
                await asyncio.sleep(rng.uniform(0.0, 0.3))
                recovery = max(recovery, await _outage(postgres, load, sink, rng.uniform(0.0, 0.5)))
                tell(f"restart {n + 1} of {times}: {len(load.accepted)} accepted, {len(load.refused)} times 503")
        await sink.wait_for(load.accepted)
        await all_ended(url)
        kept = books(url)
        result = tally(f"PostgreSQL killed {times} times", seed, load.accepted, kept, sink, recovery, times)
        assert not lost(load.accepted, kept, sink)  # G1, G12
        assert not copied(sink)  # the instance lived, and forgot nothing that a server had said
        assert not kept.uncertain
    return result


async def _outage(postgres: PostgresServer, load: Load, sink: Sink, seconds: float) -> float:
    """Return how long it took, once PostgreSQL was back, until a message was accepted and one came."""
    refused = len(load.refused)
    await asyncio.to_thread(postgres.stop, "immediate")
    load.eager = True
    await eventually(lambda: len(load.refused) > refused, "it says 503")
    await asyncio.sleep(seconds)
    accepted = len(load.accepted)
    await asyncio.to_thread(postgres.start)
    back = time.monotonic()
    await eventually(lambda: len(load.accepted) > accepted, "it accepts messages again", 60)
    load.eager = False
    await sink.wait_for_more(1)
    return time.monotonic() - back


async def database_cut(instance: Instance, times: int, seed: int, tell: Tell = say_nothing) -> Tally:
    """Cut all connections to PostgreSQL at random moments: commits go through whose answer nobody hears."""
    rng, url = Random(seed), instance.settings["DB_PATH"]
    port = urlsplit(url).port
    assert port is not None
    async with running_proxy(port) as proxy:
        instance.settings["DB_PATH"] = url.replace(f":{port}/", f":{proxy.port}/")
        await instance.start()
        with running_sink(instance.folder, PAUSE) as sink:
            async with (
                new_tenant(instance, sink.port, max_connections=SESSIONS) as acme,
                running_load([instance], acme, sink) as load,
            ):
                for n in range(times):
                    await sink.wait_for_more(5)
                    await asyncio.sleep(rng.uniform(0.0, 0.1))
                    proxy.cut()
                    tell(f"cut {n + 1} of {times}: {len(load.accepted)} accepted, {len(load.refused)} times 503")
            await sink.wait_for(load.accepted)
            await all_ended(url)
            kept = books(url)
            result = tally(f"connections to PostgreSQL cut {times} times", seed, load.accepted, kept, sink, times=times)
            assert not lost(load.accepted, kept, sink)  # G1, G5
            assert not copied(sink)
            assert not kept.uncertain
        assert await instance.stop() == 0
    return result


async def mail_cut(instance: Instance, times: int, seed: int, tell: Tell = say_nothing) -> Tally:
    """Cut all SMTP sessions at random moments, and let them stall for a while now and then."""
    rng, url = Random(seed), instance.settings["DB_PATH"]
    await instance.start()
    with running_sink(instance.folder, PAUSE) as sink:
        async with (
            running_proxy(sink.port) as proxy,
            new_tenant(instance, proxy.port, max_connections=SESSIONS) as acme,
            running_load([instance], acme, sink) as load,
        ):
            for n in range(times):
                await sink.wait_for_more(5)
                await asyncio.sleep(rng.uniform(0.0, 0.1))
                if n % 3 == 2:
                    proxy.stall()
                    await asyncio.sleep(rng.uniform(0.0, 0.3))
                    proxy.resume()
                else:
                    proxy.cut()
                tell(f"cut {n + 1} of {times}: {len(load.accepted)} accepted, {sum(copied(sink).values())} copies")
            load.stop_after(0)
            await sink.wait_for(load.accepted)
            await all_ended(url)
            kept = books(url)
        result = tally(f"SMTP sessions cut {times} times", seed, load.accepted, kept, sink, times=times)
        assert not lost(load.accepted, kept, sink)  # G4
        assert not unexplained(kept, sink)
        assert result.copies <= result.uncertain <= times * SESSIONS
    return result
