"""The loops of an instance, by name: started together, ended together, their state told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import anyio
import structlog

log = structlog.get_logger(__name__)

Loop = Callable[[Callable[[], None]], Awaitable[None]]
"""Runs until it is stopped; calls its argument once it works. An exception that it raises ends the process."""


class Supervisor:
    """Runs loops until one is told to stop, or fails. No task outlives it."""

    def __init__(self, loops: Mapping[str, Loop]) -> None:
        self._loops = dict(loops)
        self._states = dict.fromkeys(loops, "starting")
        self._all_started = asyncio.Event()

    def add(self, name: str, loop: Loop) -> None:
        """Take in another loop, before `run`."""
        self._loops[name] = loop
        self._states[name] = "starting"

    @property
    def states(self) -> Mapping[str, str]:
        """`starting`, `running` or `ended`, for each loop."""
        return dict(self._states)

    @property
    def not_running(self) -> list[str]:
        """The loops that do not work, one sentence each."""
        return [f"The {name} loop is {state}." for name, state in self._states.items() if state != "running"]

    async def started(self) -> None:
        """Return when every loop works."""
        await self._all_started.wait()

    async def run(self) -> None:
        """Run every loop to its end. The first exception cancels the others and is raised."""
        async with anyio.create_task_group() as group:
            for name in self._loops:
                group.start_soon(self._run_one, name, name=f"loop {name}")

    async def _run_one(self, name: str) -> None:
        def started() -> None:
            self._states[name] = "running"
            log.debug("loop running", loop=name)
            if all(state == "running" for state in self._states.values()):
                self._all_started.set()

        try:
            await self._loops[name](started)
        finally:
            self._states[name] = "ended"
