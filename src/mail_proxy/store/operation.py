"""Kinds of writes, and what they write through: who runs them, and with whom, is `store/group_commit.py`'s."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

from sqlalchemy import Connection

from mail_proxy.domain.report import Event

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@dataclass(slots=True)
class Transaction:
    """What an operation writes through. `again` is true when an earlier commit of it may have gone through."""

    connection: Connection
    dialect: str
    again: bool = False
    events: list[Event] = field(default_factory=list)
    hints: set[str] = field(default_factory=set)
    """What other instances should look at once this is committed: values of `hints.Hint`."""

    def emit(self, events: Sequence[Event]) -> None:
        """Write these events at the end of the transaction, where their ids are drawn."""
        self.events.extend(events)


class Company(Enum):
    """What an operation may share a transaction with, where there are several writers.

    Each operation locks messages in one order, but not two of them together: so those that lock messages which others
    may want as well keep to themselves, and nobody waits in a circle.
    """

    ANY = "any"
    OWN = "its own kind"
    NONE = "nothing"


@dataclass(frozen=True, slots=True, eq=False)
class Operation(Generic[ItemT, ResultT]):
    """A kind of write: takes many items in one transaction and answers one result for each, in order.

    It may be run again, with more or fewer items, and must then come to the same end; after a lost connection only if
    it `repeats`. `unanswered` is told, on the event loop, each item that was or may have been committed without its
    caller hearing of it. Those of a lower `rank` run first in their group: so every
    group takes its locks in the same order. `patience`: seconds that an item may wait for others to be committed with,
    where nobody waits for it.
    """

    name: str
    run: Callable[[Transaction, Sequence[ItemT]], Sequence[ResultT]]
    weigh: Callable[[ItemT], int] = lambda _item: 1
    unanswered: Callable[[ItemT], None] = lambda _item: None
    rank: int = 9
    repeats: bool = True
    company: Company = Company.ANY
    patience: float = 0.0
