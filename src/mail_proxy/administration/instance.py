"""What can be changed of an instance while it runs: kept in the database, and so the same for all instances on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mail_proxy.administration.requests import InstanceChanges
from mail_proxy.domain.errors import Invalid, Problem
from mail_proxy.domain.instance import InstanceSettings
from mail_proxy.ports.directory import Directory, Registry


@dataclass(frozen=True, slots=True)
class GivenName:
    """The name that an instance was started with; `where` says what gave it, None for the default."""

    name: str
    where: str | None


class InstanceAdministration:
    """The name and whether anything is sent."""

    def __init__(self, registry: Registry, directory: Directory, given: GivenName) -> None:
        self._registry = registry
        self._directory = directory
        self._given = given

    async def settings(self) -> InstanceSettings:
        """Return what holds for this instance; its name is None where it has the default one."""
        await self._directory.refresh()
        kept = await self._registry.instance_settings()
        return kept if self._given.where is None else replace(kept, name=self._given.name)

    async def name(self) -> str:
        """Return the name: its own if it was started with one, else the one in the database, else the default."""
        return (await self.settings()).name or self._given.name

    async def change(self, changes: InstanceChanges) -> bool:
        """Change what is given; True when this made the scheduler active.

        Raises `Invalid` for a name where this instance was started with one of its own: that counts.
        """
        given = changes.model_fields_set
        if "instance_name" in given and self._given.where is not None:
            raise Invalid(Problem("instance_name", f"is set by {self._given.where}, which counts: change it there"))
        if "scheduler_active" in given and changes.scheduler_active is None:
            raise Invalid(Problem("scheduler_active", "must be true or false"))
        was_active = True

        def decide(held: InstanceSettings) -> InstanceSettings:
            nonlocal was_active
            was_active = held.scheduler_active
            after = held
            if "instance_name" in given:
                after = replace(after, name=changes.instance_name)
            if changes.scheduler_active is not None:
                after = replace(after, scheduler_active=changes.scheduler_active)
            return after

        after = await self._registry.change_instance_settings(decide)
        return after.scheduler_active and not was_active


def refuse_what_cannot_change(fields: Mapping[str, object], startup_settings: frozenset[str]) -> None:
    """Raise `Invalid` naming each field that is set somewhere else, and where. Others are left to the model."""
    problems = [
        Problem(name, _set_elsewhere(name))
        for name in fields
        if name in startup_settings and name not in InstanceChanges.model_fields
    ]
    if problems:
        raise Invalid(*problems)


def _set_elsewhere(name: str) -> str:
    if name == "api_token":
        return "cannot be chosen: POST /instance/api-token makes a new one"
    return f"cannot be changed while it runs: set GMP_{name.upper()}, or {name} in config.toml, and restart"
