"""What can be changed of an instance while it runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InstanceSettings:
    """Kept in the database, and so the same for all instances on it."""

    scheduler_active: bool = True
    name: str | None = None
    """For every instance that was not given a name of its own."""
