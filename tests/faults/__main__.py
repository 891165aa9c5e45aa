"""`python -m tests.faults`: every scenario at length; writes docs/reliability.md when all of them have held."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path

from tests.faults.neighbours import DISTURBANCES, idle_cpu, watched
from tests.faults.reliability import PAGE, Measured, Played, page
from tests.faults.scenarios import SCENARIOS, Scenario, Stage
from tests.faults.tally import Tally
from tests.faults.told import Reported
from tests.support.instance import Instance
from tests.support.postgres import PostgresServer, running_postgres
from tests.support.postgres_installation import preferred_installation

NEIGHBOURS = "neighbours"
"""The measurements beside the scenarios, by a name that can be asked for like theirs."""


def main() -> int:
    """Play all scenarios, or those that are named, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help="play only these; the page is not written then"
    )
    parser.add_argument("--seed", type=int, default=int(time.time()), help="where the random moments come from")
    parser.add_argument("--scale", type=float, default=1.0, help="0.1: a tenth of kills and messages, and no page")
    parser.add_argument("--list", action="store_true", help="show the names of the scenarios")
    arguments = parser.parse_args()
    chosen = [each for each in SCENARIOS if not arguments.scenarios or each.name in arguments.scenarios]
    if arguments.list:
        sys.stdout.write("".join(f"{name}\n" for name in (*(each.name for each in SCENARIOS), NEIGHBOURS)))
        return 0
    with running_postgres(preferred_installation()) as postgres:
        results = [play(each, postgres, arguments.seed, arguments.scale) for each in chosen]
        asked = not arguments.scenarios or NEIGHBOURS in arguments.scenarios
        measured = measure(arguments.seed, arguments.scale) if asked else None
    if any(each.tally is None for each in results):
        return 1
    if measured is not None and not arguments.scenarios and arguments.scale == 1.0:
        PAGE.write_text(page(results, measured), encoding="utf-8")
        say(f"{PAGE} is written")
    return 0


def play(scenario: Scenario, postgres: PostgresServer, seed: int, scale: float) -> Played:
    """Play one scenario in a folder of its own and print its line."""
    say(f"{scenario.name}: {scenario.what}")
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, ExitStack() as cleaning:
        stage = Stage(Path(folder), postgres, seed, scale, lambda text: say(f"  {text}"), cleaning)
        try:
            tally = asyncio.run(played(scenario, stage))
        except AssertionError as error:
            sys.stdout.write(f"{scenario.name}: seed {seed}, DID NOT HOLD: {error}\n")
            return Played(scenario, None)
    sys.stdout.write(f"{tally}\n")
    sys.stdout.flush()
    return Played(scenario, tally)


def measure(seed: int, scale: float) -> Measured:
    """Measure how neighbours fare, and what an idle instance uses."""
    latencies = []
    for beside, (_, usual) in DISTURBANCES.items():
        with tempfile.TemporaryDirectory(prefix="faults-") as folder, closing(Instance(Path(folder))) as instance:
            say(f"a tenant beside {beside}")
            size = max(10, round(usual * scale))
            latencies.append(asyncio.run(watched(instance, beside, max(20, round(500 * scale)), size)))
        sys.stdout.write(f"neighbours: seed {seed}, {latencies[-1]}\n")
    # With the interval that the service has by itself, not the quick one of the tests.
    with (
        tempfile.TemporaryDirectory(prefix="faults-") as folder,
        closing(Instance(Path(folder), SEND_LOOP_INTERVAL="2")) as instance,
    ):
        idle = asyncio.run(idle_cpu(instance, 10))
    sys.stdout.write(f"idle: {idle:.1%} of a processor\n")
    sys.stdout.flush()
    return Measured(tuple(latencies), idle)


async def played(scenario: Scenario, stage: Stage) -> Tally | Reported:
    """Play a scenario."""
    return await scenario.run(stage)


def say(text: str) -> None:
    """Tell how far it is."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
