"""The command log: who asked for which change, when, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One call of the API that may change something. Holds no secret and nothing of a message but ids."""

    key: str
    """Its own, so that it is found again where it is not known whether it was written."""
    ts: float
    """When it was answered, in Unix seconds."""
    by_admin: bool
    """By the admin token; else by the token of `tenant_id`."""
    tenant_id: str | None
    """The tenant that it was about; None: the whole instance, or one that there is not."""
    method: str
    route: str
    """The path with names for ids, as the API's documentation shows it."""
    status: int | None
    """Of the answer; None: the process ended before there was one."""
    code: str | None
    """The stable word of the answer, where it has one."""
    address: str | None
    """The other end of the connection: the client's, or that of a proxy before the service."""
    details: str
    """Path, query, payload and result as far as they may be shown: a JSON object in ASCII, bounded."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the log, which is ordered by time and then by number."""

    ts: float
    pk: int


@dataclass(frozen=True, slots=True)
class Logged:
    """An entry with the place where it stands."""

    at: Position
    entry: Entry


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """Which entries are looked for; None means any. `since` is the first moment, `until` the first one beyond."""

    tenant_id: str | None = None
    since: float | None = None
    until: float | None = None
    method: str | None = None
    route: str | None = None


@dataclass(frozen=True, slots=True)
class LogPage:
    """One page of the log, and where to go on; None at the end."""

    entries: tuple[Logged, ...]
    next_position: Position | None
