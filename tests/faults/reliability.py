"""The page that tells what was broken, how often, and what came of it."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.neighbours import EVERY, Latency
from tests.faults.scenarios import Scenario
from tests.faults.tally import Tally

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"

_HEAD = """# Reliability

What becomes of mail when things break: real processes, a real PostgreSQL and a mail server that keeps a ledger of every
message that it took. `make faults` plays each scenario at length and writes this page; a short form of each runs with
`make test`. What is promised is in [Guarantees](guarantees.md).

```sh
make faults                                     # everything
make faults FAULTS_ARGS="--scale 0.1"           # a tenth of it; the page stays as it is
make faults FAULTS_ARGS="4-instances --seed 7"  # one scenario, with the random moments of a seed
```

Every line holds a scenario's figures against the same demands, and a scenario that does not meet them fails:

- **lost**: messages that were accepted and did not arrive, or of which the database does not say that they were sent.
  Always 0.
- **copies**: arrivals too many. Each belongs to a message whose history says `uncertain`: nobody could know whether its
  final dot had been answered. With the flight journal there is at most one for each open SMTP session and kill; without
  it, or for an instance that never comes back, at most one for each message that it had taken up.
- **uncertain**: messages with such an attempt; most of them turn out not to have been copied.
- **recovery**: the longest time from the fault until messages arrived again, or until the others had taken over. The
  start of a process is part of it.

"""


_NEIGHBOURS = f"""
## Neighbours

One message every {EVERY * 1000:.0f} ms of a tenant with an account of its own, from the request to the final dot at its
mail server, on SQLite, while other tenants keep the instance busy (G11). All of them arrive, once each; these are
figures, not demands: `tests/faults/test_neighbours.py: test_every_message_arrives_beside_others_in_trouble` looks at
the arrivals alone.
"""


@dataclass(frozen=True, slots=True)
class Played:
    """A scenario and its figures; None where it did not hold."""

    scenario: Scenario
    tally: Tally | None


@dataclass(frozen=True, slots=True)
class Measured:
    """What is not a matter of holding or not: latencies, and the part of a processor that an idle instance uses."""

    latencies: tuple[Latency, ...]
    idle: float


def page(played: Sequence[Played], measured: Measured) -> str:
    """Write the page."""
    lines = [
        f"Measured on {machine()}, which services, mail server, PostgreSQL and load shared:\n",
        "| what is broken | guarantees | accepted | lost | copies | uncertain | recovery |",
        "|---|---|---|---|---|---|---|",
        *(_row(each.scenario, each.tally) for each in played if each.tally is not None),
        "",
        "| what is broken | test |",
        "|---|---|",
        *(f"| {each.scenario.what} | `{each.scenario.test}` |" for each in played),
        _NEIGHBOURS,
        "| beside | p50 | p99 |",
        "|---|---|---|",
        *(f"| {each.beside} | {each.p50:.0f} ms | {each.p99:.0f} ms |" for each in measured.latencies),
        "",
        f"An instance with nothing to do uses {measured.idle:.1%} of a processor (G13).",
        "",
    ]
    return _HEAD + "\n".join(lines)


def machine() -> str:
    """Describe what was measured on."""
    cores = len(os.sched_getaffinity(0))
    words = {1: "one core", 2: "two cores", 4: "four cores"}
    return f"{words.get(cores, f'{cores} cores')} with Python {platform.python_version()} on {platform.system()}"


def _row(scenario: Scenario, tally: Tally) -> str:
    recovery = "" if tally.recovery is None else f"{tally.recovery:.1f} s"
    cells = [_what(scenario, tally), scenario.guarantees, tally.accepted, tally.lost, tally.copies, tally.uncertain]
    return f"| {' | '.join(str(cell) for cell in cells)} | {recovery} |"


def _what(scenario: Scenario, tally: Tally) -> str:
    return scenario.what if tally.times is None else f"{scenario.what}: {tally.times} times"
