"""Cancelling what waits, and telling its tenant; removing what is finished, because somebody said so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Connection, Double, bindparam, select, text, update

from mail_proxy.domain.message import WAITING_STATES, MessageState
from mail_proxy.domain.settlement import cancel
from mail_proxy.ports.message_changes import Deletion
from mail_proxy.store.loading import Loader
from mail_proxy.store.operation import Transaction
from mail_proxy.store.prepared import once
from mail_proxy.store.prune import Remove
from mail_proxy.store.rows import among, pack, packed, unpack
from mail_proxy.store.schema import IS_WAITING, messages
from mail_proxy.store.settle import Settle
from mail_proxy.store.usage import Usage, UsageSettings

CHUNK = 500
TOKEN = "cancelled"  # noqa: S105 - the name of a claim, not a secret


class Cancel:
    """Cancels messages that wait, and are locked by this transaction; each is reported."""  # G9

    def __init__(self, dialect: str) -> None:
        self.mark = update(messages).where(among(dialect, messages.c.pk)).values(token=TOKEN)
        self.loader = once(Loader, dialect)
        self.settle = Settle(dialect, Usage(dialect, UsageSettings()))  # what waits has nothing reserved

    def __call__(self, transaction: Transaction, pks: Sequence[int], now: float, reason: str) -> None:
        """Cancel these."""
        if pks:
            connection = transaction.connection
            connection.execute(self.mark, {"pks": pack(pks)})
            for claims in self.loader.in_helpings(connection, pks):
                self.settle.run(transaction, [cancel(claimed, now, reason) for claimed in claims])


class CancelWaiting:
    """Cancels waiting messages of an account that is being deleted, a chunk at a time."""

    def __init__(self, dialect: str) -> None:
        self.waiting = (
            select(messages.c.pk)
            .where(messages.c.account_pk == bindparam("account", type_=BigInteger))
            .where(messages.c.finished_ts.is_(None))
            .where(text(IS_WAITING))
            .limit(CHUNK)
            .with_for_update()
        )
        self.cancel = once(Cancel, dialect)

    def run(self, transaction: Transaction, wanted: Sequence[tuple[int, float]]) -> Sequence[int]:
        """Cancel one chunk for each (account, time); answer how many were cancelled."""
        return [self._cancel(transaction, account_pk, now) for account_pk, now in wanted]

    def _cancel(self, transaction: Transaction, account_pk: int, now: float) -> int:
        pks = list(transaction.connection.execute(self.waiting, {"account": account_pk}).scalars())
        self.cancel(transaction, pks, now, "the account was deleted")
        return len(pks)


@dataclass(frozen=True, slots=True)
class DeleteRequest:
    """Messages to delete, of one tenant; `silent`: it has no endpoint, so nothing of theirs is to be told."""

    pks: tuple[int, ...]
    now: float
    silent: bool

    @property
    def weight(self) -> int:
        """About how many bytes it writes."""
        return 1_000 * len(self.pks)


class Delete:
    """Cancels, removes, or leaves alone.

    Of a finished message nothing stays but its events: to be told where they are not yet, and in the feed until
    retention takes them.
    """  # G9

    def __init__(self, dialect: str) -> None:
        standing = (
            select(messages.c.pk, messages.c.state)
            .where(among(dialect, messages.c.pk))
            .order_by(messages.c.pk)
            .with_for_update(of=messages)
        )
        self.standing = packed(dialect, standing.subquery("standing"))
        self.cancel = once(Cancel, dialect)
        self.remove = once(Remove, dialect)

    def run(self, transaction: Transaction, requests: Sequence[DeleteRequest]) -> Sequence[Mapping[int, Deletion]]:
        """Answer each request with what became of its messages."""
        return [self._delete(transaction, request) for request in requests]

    def _delete(self, transaction: Transaction, request: DeleteRequest) -> Mapping[int, Deletion]:
        connection = transaction.connection
        rows = unpack(connection.execute(self.standing, {"pks": pack(request.pks)}).scalar())
        became = {pk: _became(MessageState(state)) for pk, state in rows}
        waiting, finished = (
            [pk for pk, outcome in became.items() if outcome is wanted]
            for wanted in (Deletion.CANCELLED, Deletion.REMOVED)
        )
        self.cancel(transaction, waiting, request.now, "deleted by request")
        self.remove.leaving_events(connection, finished, silent=request.silent)
        return became


def _became(state: MessageState) -> Deletion:
    if state in WAITING_STATES:
        return Deletion.CANCELLED
    return Deletion.REMOVED if state.final else Deletion.IN_PROGRESS


@dataclass(frozen=True, slots=True)
class CleanRequest:
    """Messages to remove that ended before that time and have nothing left to report."""

    pks: tuple[int, ...]
    finished_before: float
    silent: bool

    @property
    def weight(self) -> int:
        """About how many bytes it writes."""
        return 1_000 * len(self.pks)


class Clean:
    """Removes messages that are still as they were found, and leaves their events to retention."""  # G9

    def __init__(self, dialect: str) -> None:
        finished = (
            select(messages.c.pk)
            .where(among(dialect, messages.c.pk))
            .where(messages.c.finished_ts < bindparam("finished_before", type_=Double))
            .order_by(messages.c.pk)
            .with_for_update(of=messages)
        )
        self.silent = packed(dialect, finished.subquery("finished"))
        self.reported = packed(dialect, finished.where(messages.c.reported_ts.is_not(None)).subquery("finished"))
        self.remove = once(Remove, dialect)

    def run(self, transaction: Transaction, requests: Sequence[CleanRequest]) -> Sequence[int]:
        """Answer each request with the number of messages that went."""
        return [self._clean(transaction.connection, request) for request in requests]

    def _clean(self, connection: Connection, request: CleanRequest) -> int:
        wanted = {"pks": pack(request.pks), "finished_before": request.finished_before}
        which = self.silent if request.silent else self.reported
        pks = [pk for (pk,) in unpack(connection.execute(which, wanted).scalar())]
        self.remove.leaving_events(connection, pks, silent=request.silent)
        return len(pks)
