"""How far the secrets in the database have come on their way to another encryption key."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SealStanding:
    """Which key is whose. Keys are named by their ids, which tell nothing about them."""

    own_key: str
    """The key that this instance was given as its own."""
    old_keys: frozenset[str]
    """Other keys that it opens with."""
    key_in_use: str
    """The key that the database goes by: what is written now is sealed with it."""
    with_old_keys: int
    """Sealed texts, the database's check value counted, that this instance needs another key for than its own."""
    awaited: tuple[str, ...]
    """Instances that have another key as their own: the database's changes when there are none."""


@dataclass(frozen=True, slots=True)
class SealCursor:
    """A place among all sealed texts: so far they have been looked at."""

    column: int
    after: int | str


@dataclass(frozen=True, slots=True)
class Resealed:
    """What came of a step. `next` is None at the end."""

    count: int
    next: SealCursor | None
    broken: tuple[str, ...] = ()
    """Places of texts that no key opens; they stay as they are."""
