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
from tests.faults.told import Reported

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


_REPORTS = """
## Reports

Whoever reports is broken, and so is whoever is told (G9): an endpoint that is slow, says 500 or `"ok": false`, leaves
single messages for later, and writes down all that comes before it answers. Beside it somebody reads the feed, through
every kill, from one instance after the other, and keeps the last cursor alone. Most messages have several events: put
off once or twice and then sent, sent to one recipient and refused by another. Always 0, or the scenario fails:

- **never told**: events that the endpoint never took. What it only received, and answered otherwise, does not count.
- **out of order**: events received, or taken, for the first time before an earlier one of the same message.
- **two ids**: events that came under two ids, ids that stood for two events, and ids that the database does not have.
- **feed**: events that its reader missed, saw twice, saw out of order, or saw otherwise than the endpoint.

**Before the mark** is how often a report was caught between the positive answer and the commit that notes it: its
events come again, under the same ids. So do those of answers that were lost with a killed endpoint.
"""
_REPORTS_HEADS = (
    "| what is broken | before the mark | accepted | events | told again | never told | out of order | two ids | feed |"
)

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
    tally: Tally | Reported | None


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
        *(_row(each.scenario, each.tally) for each in played if isinstance(each.tally, Tally)),
        "",
        "| what is broken | test |",
        "|---|---|",
        *(f"| {each.scenario.what} | `{each.scenario.test}` |" for each in played),
        _REPORTS,
        _REPORTS_HEADS,
        "|---|---|---|---|---|---|---|---|---|",
        *(_reports_row(each.scenario, each.tally) for each in played if isinstance(each.tally, Reported)),
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


def _reports_row(scenario: Scenario, figures: Reported) -> str:
    cells = [
        _what(scenario, figures),
        figures.before_mark,
        figures.accepted,
        figures.events,
        figures.again,
        figures.never,
        figures.misordered,
        figures.two_ids + figures.unknown,
        figures.gaps + figures.repeats,
    ]
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _what(scenario: Scenario, tally: Tally | Reported) -> str:
    return scenario.what if tally.times is None else f"{scenario.what}: {tally.times} times"
