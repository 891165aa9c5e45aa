"""Killed at random moments under load; the journal may be gone or worthless at the next start."""  # G1, G4

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.acceptance.tenants import new_tenant
from tests.faults.load import all_ended, running_load
from tests.faults.sink import running_sink
from tests.faults.tally import Tally, books, copied, in_hand, lost, tally, unexplained
from tests.support.instance import Instance

SESSIONS = 4
"""SMTP sessions of the account: so many final dots can be without an answer at each kill."""
PAUSE = 0.005
"""Seconds that each final dot waits for its reply, so that kills meet some that wait."""
Tamper = Callable[[Path], None]
"""What is done to the journal between a kill and the next start."""


def keep(journal: Path) -> None:
    """Leave it as it is."""
    assert journal.exists()


def delete(journal: Path) -> None:
    """Take it away."""
    journal.unlink()


def age(journal: Path) -> None:
    """Make it one of an earlier run of the machine."""
    head, _, flights = journal.read_bytes().partition(b"\n")
    journal.write_bytes(json.dumps(json.loads(head) | {"boot": "another"}).encode() + b"\n" + flights)


JOURNALS: dict[str, Tamper] = {"kept": keep, "deleted": delete, "of another boot": age}


async def killed(
    instance: Instance, journal: str, kills: int, seed: int, tell: Callable[[str], None] = lambda _: None
) -> Tally:
    """Kill an instance so often, start it again each time, and hold what came against what was accepted."""
    rng, url = Random(seed), instance.settings["DB_PATH"]
    recovery, taken = 0.0, 0
    await instance.start()
    with running_sink(instance.folder, PAUSE) as sink:
        async with (
            new_tenant(instance, sink.port, max_connections=SESSIONS) as acme,
            running_load([instance], acme, sink) as load,
        ):
            for n in range(kills):
                await sink.wait_for_more(10)
                await asyncio.sleep(rng.uniform(0.0, 0.3))
                instance.kill()
                dead = time.monotonic()
                taken += len(in_hand(url))
                JOURNALS[journal](instance.folder / "flight-0.log")
                await instance.start()
                await sink.wait_for_more(1)
                recovery = max(recovery, (sink.first_after(dead + 0.05) or time.monotonic()) - dead)
                tell(f"kill {n + 1} of {kills}: {len(load.accepted)} accepted, {sum(copied(sink).values())} copies")
        await sink.wait_for(load.accepted)
        await all_ended(url)
        kept = books(url)
        database = "PostgreSQL" if url.startswith("postgresql:") else "SQLite"
        result = tally(
            f"{kills} kills, {database}, journal {journal}", seed, load.accepted, kept, sink, recovery, kills
        )
        assert not lost(load.accepted, kept, sink)  # G1, G4
        assert not unexplained(kept, sink)
        # With the journal only a dot without an answer can lead to a copy, without it whatever was taken up.
        most = kills * SESSIONS if journal == "kept" else taken
        assert result.copies <= result.uncertain <= most, (result, most)
    return result
