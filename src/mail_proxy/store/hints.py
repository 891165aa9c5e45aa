"""Hints from one instance to the others that there is something to look at, by LISTEN and NOTIFY of PostgreSQL.

Nothing depends on them: every loop looks by itself now and then, and that is what makes it right. A hint may be lost (a
pooler that shares connections by the transaction loses all of them) and may come for nothing.

A commit that notifies takes a lock that all such commits take, one after the other. So an instance that is alone
sends none, and one that is not says only so often that messages are ready.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from sqlalchemy import Text, bindparam, func, select

from mail_proxy.ports import Clock
from mail_proxy.store.database import Database, Operation, Transaction

CHANNEL = "mail_proxy"
TELL_EVERY = 0.1
"""Seconds between two hints that messages are ready."""

_NOTIFY = select(func.pg_notify(CHANNEL, bindparam("payload", type_=Text)))


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
        self._run_now_op = Operation("run_now_hint", _ask_to_run)
        if database.dialect == "postgresql":
            database.before_commit = self.tell

    def tell(self, transaction: Transaction) -> None:
        """Send what a transaction wants to be known, with its commit. Runs in a writer's thread."""
        if not self.others:
            return
        now = self._clock.monotonic()
        if transaction.hints == {Hint.READY.value} and now - self._told_at < TELL_EVERY:
            return
        self._told_at = now
        payload = " ".join((self._instance_id, *sorted(transaction.hints)))
        transaction.connection.execute(_NOTIFY, {"payload": payload})

    async def run_now(self) -> None:
        """Ask the others to look at once for what is due. Raises `StoreUnavailable`."""
        if self.others:
            await self._database.write(self._run_now_op, None)


def understood(payload: str, instance_id: str) -> frozenset[Hint]:
    """Return what a notification says, without words of later versions; nothing where it is this instance's own."""
    sender, *words = payload.split(" ")
    known = {hint.value for hint in Hint}
    return frozenset() if sender == instance_id else frozenset(Hint(word) for word in words if word in known)


def _ask_to_run(transaction: Transaction, asked: Sequence[None]) -> Sequence[None]:
    transaction.hints.add(Hint.RUN_NOW.value)
    return [None] * len(asked)
