"""Hearing the hints of other instances, on a connection of its own. Needs psycopg, which comes with an extra."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import psycopg
import structlog
from psycopg import AsyncConnection

from mail_proxy.ports.clock import Clock
from mail_proxy.store.engines import CONNECT_ARGUMENTS
from mail_proxy.store.hints import CHANNEL, Hint, understood
from mail_proxy.store.store import Store

GATHER = 0.15
"""Seconds from the first hint to acting on it: what was committed without a hint after it is there by then."""
LOOK_AROUND = 5.0
"""Seconds between looks whether there are others."""
LONGEST_PAUSE = 30.0

_NOTIFY = "SELECT pg_notify(%s, %s)"
_OTHERS = "SELECT EXISTS (SELECT 1 FROM instances WHERE id <> %s)"

log = structlog.get_logger(__name__)

Heed = Callable[[frozenset[Hint]], Awaitable[None]]


class Listener:
    """Tells of what other instances hint at, and keeps it known whether there are any."""

    def __init__(self, store: Store, heed: Heed, clock: Clock) -> None:
        self._hints = store.hints
        self._instance_id = store.instance_id
        self._conninfo = store.database.url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._heed = heed
        self._clock = clock
        self._looked_at = 0.0

    async def run(self, started: Callable[[], None]) -> None:
        """Listen until cancelled, and tell what nobody was told at a commit.

        A lost connection is replaced, with growing pauses. Calls `started` once it listens, or cannot: nothing
        depends on it.
        """
        async with anyio.create_task_group() as group:
            group.start_soon(self._hints.tell_the_rest, name="hints of messages")
            await self._listen(started)

    async def _listen(self, started: Callable[[], None]) -> None:
        failures = 0
        while True:
            try:
                connection = await AsyncConnection.connect(self._conninfo, autocommit=True, **CONNECT_ARGUMENTS)
                try:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    await connection.execute(_NOTIFY, (CHANNEL, f"{self._instance_id} {Hint.HERE.value}"))
                    await self._look_around(connection)
                    failures = 0
                    started()
                    await self._heed(frozenset({Hint.READY, Hint.DIRECTORY}))  # whatever was missed
                    await self._hear(connection)
                finally:
                    with anyio.CancelScope(shield=True):  # closed also when nobody waits any more
                        await connection.close()
            except psycopg.Error as error:
                started()
                failures += 1
                pause = min(2.0 ** (failures - 1), LONGEST_PAUSE)
                reason = str(error).strip().partition("\n")[0]
                log.info("hints are not heard", reason=reason, retry_in=pause)
                await self._clock.sleep(pause)

    async def _hear(self, connection: AsyncConnection) -> None:
        while True:
            pause = self._looked_at + LOOK_AROUND - self._clock.monotonic()
            if pause <= 0:
                await self._look_around(connection)
            elif hints := await self._next(connection, pause):
                self._hints.others = True
                await self._clock.sleep(GATHER)
                while more := await self._next(connection, 0):
                    hints |= more
                await self._heed(hints)

    async def _look_around(self, connection: AsyncConnection) -> None:
        found = await (await connection.execute(_OTHERS, (self._instance_id,))).fetchone()
        self._hints.others = bool(found and found[0])
        self._looked_at = self._clock.monotonic()

    async def _next(self, connection: AsyncConnection, seconds: float) -> frozenset[Hint]:
        """Return what others say within that time, as soon as somebody has said something."""
        heard: frozenset[Hint] = frozenset()
        async for notify in connection.notifies(timeout=seconds, stop_after=1):  # with all that came with the first
            heard |= understood(notify.payload, self._instance_id)
        return heard
