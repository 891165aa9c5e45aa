"""What a scenario comes to: the ledger of the sink, compared with what the database says."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg

from tests.faults.sink import Sink


@dataclass(frozen=True, slots=True)
class Tally:
    """One line of figures. `recovery` is the longest time in seconds until things went on, where something stopped."""

    scenario: str
    seed: int
    accepted: int
    lost: int
    copies: int
    uncertain: int
    recovery: float | None = None
    times: int | None = None
    """How often something was broken, where it was often."""

    def __str__(self) -> str:
        recovery = "-" if self.recovery is None else f"{self.recovery:.1f} s"
        return (
            f"{self.scenario}: seed {self.seed}, {self.accepted} accepted, {self.lost} lost, {self.copies} copies, "
            f"{self.uncertain} uncertain, recovery {recovery}"
        )


@dataclass(frozen=True, slots=True)
class Books:
    """What a database says about its messages when everything is over."""

    states: dict[str, str]
    attempts: dict[str, int]
    uncertain: frozenset[str]
    """Messages whose history says that an attempt's end is not known."""


def rows(url: str, statement: str, *parameters: object) -> Sequence[Sequence[Any]]:
    """Read from the database of a test, SQLite by its path, past the service; `?` stands for a parameter."""
    if url.startswith("postgresql:"):
        with psycopg.connect(url) as connection:
            return connection.execute(statement.replace("?", "%s"), parameters).fetchall()
    with closing(sqlite3.connect(f"file:{url}?mode=ro", uri=True, timeout=10)) as file:
        return file.execute(statement, parameters).fetchall()


def in_hand(url: str, instance: str = "") -> frozenset[str]:
    """Messages that are being sent, by an instance of this name if one is given."""
    found = rows(url, "SELECT id, instance_id FROM messages WHERE state = 'sending'")
    return frozenset(id_ for id_, owner in found if (owner or "").startswith(instance))


def books(url: str) -> Books:
    """Read what became of all messages."""
    messages = rows(url, "SELECT id, state, attempts FROM messages")
    doubtful = rows(
        url, "SELECT DISTINCT m.id FROM events e JOIN messages m ON m.pk = e.message_pk WHERE e.type = 'uncertain'"
    )
    return Books(
        {id_: state for id_, state, _ in messages},
        {id_: attempts for id_, _, attempts in messages},
        frozenset(id_ for (id_,) in doubtful),
    )


def lost(accepted: Collection[str], kept: Books, sink: Sink) -> list[str]:
    """Return accepted messages that did not come, or of which the database does not say so."""
    return [id_ for id_ in accepted if sink.copies[id_] == 0 or kept.states.get(id_) != "sent"]


def copied(sink: Sink) -> dict[str, int]:
    """Return how many copies too many came of each message."""
    return {id_: count - 1 for id_, count in sink.copies.items() if count > 1}


def unexplained(kept: Books, sink: Sink) -> list[str]:
    """Return messages that came twice although their history never says `uncertain`."""  # G4
    return sorted(copied(sink).keys() - kept.uncertain)


def tally(
    scenario: str,
    seed: int,
    accepted: Collection[str],
    kept: Books,
    sink: Sink,
    recovery: float | None = None,
    times: int | None = None,
) -> Tally:
    """Sum up."""
    return Tally(
        scenario,
        seed,
        len(accepted),
        len(lost(accepted, kept, sink)),
        sum(copied(sink).values()),
        len(kept.uncertain),
        recovery,
        times,
    )
