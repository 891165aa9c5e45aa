"""Hints from one instance to the others that there is something to look at, by LISTEN and NOTIFY of PostgreSQL.

Nothing depends on them: every loop looks by itself now and then, and that is what makes it right. A hint may be lost (a
pooler that shares connections by the transaction loses all of them) and may come for nothing.

A commit that notifies takes a lock that all such commits take, one after the other. So an instance that is alone
sends none, and one that is not says only so often that messages are ready: those that come in between are told of
together, a little later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import Enum

import structlog
from sqlalchemy import Text, bindparam, func, select

from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.ports.clock import Clock
from mail_proxy.store.database import Database
from mail_proxy.store.operation import Operation, Transaction

CHANNEL = "mail_proxy"
TELL_EVERY = 0.1
"""Seconds between two hints that messages are ready."""

_NOTIFY = select(func.pg_notify(CHANNEL, bindparam("payload", type_=Text)))


log = structlog.get_logger(__name__)


class Hint(str, Enum):
    """What there is to look at."""

    READY = "ready"
    """Messages can be sent."""
    DIRECTORY = "directory"
    """Tenants, accounts or suspensions have changed."""
    RUN_NOW = "run-now"
    """Somebody asked for it."""
    HERE = "here"
    """Another instance has begun to listen."""


class Hints:
    """Sends hints inside transactions."""

    def __init__(self, database: Database, instance_id: str, clock: Clock) -> None:
        self._database = database
        self._instance_id = instance_id
        self._clock = clock
        self._told_at = -TELL_EVERY
        self.others = False
        """Whether there was another instance when somebody last looked."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._untold = asyncio.Event()
        self._ready_op = Operation("ready_hint", _say_ready)
        self._run_now_op = Operation("run_now_hint", _ask_to_run)
        if database.dialect == "postgresql":
            database.commits.before_commit = self.tell

    def tell(self, transaction: Transaction) -> None:
        """Send what a transaction wants to be known, with its commit. Runs in a writer's thread."""
        if not self.others:
            return
        now = self._clock.monotonic()
        if transaction.hints == {Hint.READY.value} and now - self._told_at < TELL_EVERY:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._untold.set)
            return
        self._told_at = now
        payload = " ".join((self._instance_id, *sorted(transaction.hints)))
        transaction.connection.execute(_NOTIFY, {"payload": payload})

    async def tell_the_rest(self) -> None:
        """Say now and then, until cancelled, that messages are ready of which nothing was said at their commit."""
        self._loop = asyncio.get_running_loop()
        while True:
            await self._untold.wait()
            await self._clock.sleep(TELL_EVERY)
            self._untold.clear()
            if self.others:
                try:
                    await self._database.write(self._ready_op, None)
                except StoreUnavailable as error:  # others find them by themselves
                    log.info("messages are not told of", reason=error.sentence)

    async def run_now(self) -> None:
        """Ask the others to look at once for what is due. Raises `StoreUnavailable`."""
        if self.others:
            await self._database.write(self._run_now_op, None)


def understood(payload: str, instance_id: str) -> frozenset[Hint]:
    """Return what a notification says, without words of later versions; nothing where it is this instance's own."""
    sender, *words = payload.split(" ")
    known = {hint.value for hint in Hint}
    return frozenset() if sender == instance_id else frozenset(Hint(word) for word in words if word in known)


def _say_ready(transaction: Transaction, asked: Sequence[None]) -> Sequence[None]:
    transaction.hints.add(Hint.READY.value)
    return [None] * len(asked)


def _ask_to_run(transaction: Transaction, asked: Sequence[None]) -> Sequence[None]:
    transaction.hints.add(Hint.RUN_NOW.value)
    return [None] * len(asked)
