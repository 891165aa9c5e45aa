"""What reporting comes to: what the endpoint and a reader of the feed were told, held against the database."""  # G9

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from tests.faults.endpoint import Telling
from tests.faults.tally import rows

FINAL = frozenset({"sent", "failed", "expired", "cancelled"})


@dataclass(frozen=True, slots=True)
class Reported:
    """One line of figures. What comes after `again` has to be 0."""

    scenario: str
    seed: int
    times: int
    """How often something was broken."""
    before_mark: int
    """How often a report had been taken, and whoever had sent it did not come to note that."""
    accepted: int
    outcomes: int
    """Messages with exactly one last word, which is theirs."""
    events: int
    told: int
    """Events that the endpoint took, at least once."""
    again: int
    """Events that it took more than once."""
    never: int
    misordered: int
    """Events that came, or were taken, for the first time before an earlier one of their message."""
    two_ids: int
    """Events that came under two ids, or ids that stood for two events."""
    unknown: int
    """Ids that the database does not have."""
    gaps: int
    """Events that a reader of the feed did not see."""
    repeats: int
    """Events that it saw more than once, out of order, or otherwise than the endpoint."""

    def __str__(self) -> str:
        figures = [f"{value} {name}" for name, value in asdict(self).items() if name not in {"scenario", "seed"}]
        return f"{self.scenario}: seed {self.seed}, {', '.join(figures)}"

    @property
    def wrong(self) -> int:
        """How much of what must not be there is."""
        return (
            (self.never + self.misordered + self.two_ids + self.unknown + self.gaps + self.repeats)
            + (self.events - self.told)
            + (self.accepted - self.outcomes)
        )


@dataclass(frozen=True, slots=True)
class Written:
    """An event as the database has it."""

    event_id: int
    message: str
    type: str


def written(url: str) -> list[Written]:
    """Read all events, in their order."""
    statement = (
        "SELECT e.event_id, m.id, e.type FROM events e JOIN messages m ON m.pk = e.message_pk ORDER BY e.event_id"
    )
    return [Written(*row) for row in rows(url, statement)]


def misordered(tellings: Sequence[Telling], events: Sequence[Written]) -> int:
    """Count events that are told for the first time although an earlier one of their message was not told yet."""
    expected: dict[str, list[int]] = defaultdict(list)
    for event in events:
        expected[event.message].append(event.event_id)
    first: dict[str, list[int]] = defaultdict(list)
    for telling in tellings:
        came = first[telling.entry["id"]]
        if telling.event_id not in came:
            came.append(telling.event_id)
    return sum(
        event_id not in expected[message][: n + 1] for message, came in first.items() for n, event_id in enumerate(came)
    )


def two_ids(entries: Sequence[Mapping[str, Any]]) -> int:
    """Count events with several ids, and ids with several events."""
    ids: dict[str, set[str]] = defaultdict(set)
    contents: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        content = json.dumps({name: value for name, value in entry.items() if name != "event_id"}, sort_keys=True)
        ids[content].add(entry["event_id"])
        contents[entry["event_id"]].add(content)
    return sum(len(each) > 1 for each in (*ids.values(), *contents.values()))


def repeats(entries: Sequence[Mapping[str, Any]], told: Mapping[int, Mapping[str, Any]]) -> int:
    """Count what a reader of the feed should not have seen so."""
    ids = [int(entry["event_id"]) for entry in entries]
    backwards = sum(later <= earlier for earlier, later in pairwise(ids))
    return backwards + sum(told.get(event_id, entry) != entry for event_id, entry in zip(ids, entries, strict=True))


def reported(
    scenario: str,
    seed: int,
    url: str,
    accepted: Collection[str],
    tellings: Sequence[Telling],
    feed: Sequence[Mapping[str, Any]],
    caught: Sequence[Collection[int]],
    times: int,
) -> Reported:
    """Sum up."""
    events = written(url)
    known = {event.event_id for event in events}
    taken = Counter(telling.event_id for telling in tellings if telling.taken)
    last_words = Counter(event.message for event in events if event.type in FINAL)
    states: dict[str, str] = dict(map(tuple, rows(url, "SELECT id, state FROM messages")))
    endings = {event.message: event.type for event in events}
    return Reported(
        scenario=scenario,
        seed=seed,
        times=times,
        before_mark=len(caught),
        accepted=len(accepted),
        outcomes=sum(last_words[id_] == 1 and endings[id_] == states[id_] for id_ in accepted),
        events=len(events),
        told=len(known & taken.keys()),
        again=sum(count > 1 for count in taken.values()),
        never=len(known - taken.keys()),
        misordered=misordered(tellings, events)
        + misordered([telling for telling in tellings if telling.taken], events),
        two_ids=two_ids([telling.entry for telling in tellings]),
        unknown=len({telling.event_id for telling in tellings} - known),
        gaps=len(known - {int(entry["event_id"]) for entry in feed}),
        repeats=repeats(feed, {telling.event_id: telling.entry for telling in tellings}),
    )
