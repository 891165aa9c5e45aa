"""Putting finished messages back into the queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from sqlalchemy import BigInteger, Connection, Double, Integer, Text, false, select, update

from mail_proxy.domain.message import MessageState
from mail_proxy.domain.requeue import Requeued, Skipped, requeue
from mail_proxy.ports.message_changes import Requeueing
from mail_proxy.store.hints import Hint
from mail_proxy.store.loading import Loader
from mail_proxy.store.operation import Transaction
from mail_proxy.store.prepared import once
from mail_proxy.store.rows import among, pack, packed, unpack, unpacked
from mail_proxy.store.schema import accounts, messages, recipients
from mail_proxy.store.version import hold_version


@dataclass(frozen=True, slots=True)
class RequeueRequest:
    """Messages to send again to those whom they failed to reach."""

    pks: tuple[int, ...]
    now: float

    @property
    def weight(self) -> int:
        """About how many bytes it writes."""
        return 1_000 * len(self.pks)


class Requeue:
    """Makes finished messages ready as if they had never been tried; what was told of them stays."""  # G4, G7, G9

    def __init__(self, dialect: str) -> None:
        # an account that was made anew under the same id will do
        account = (
            select(accounts.c.pk)
            .where(accounts.c.tenant_id == messages.c.tenant_id, accounts.c.id == messages.c.account_id)
            .scalar_subquery()
        )
        standing = (
            select(messages.c.pk, messages.c.state, account.label("account"))
            .where(among(dialect, messages.c.pk))
            .order_by(messages.c.pk)
            .with_for_update(of=messages)
        )
        self.standing = packed(dialect, standing.subquery("standing"))
        self.loader = once(Loader, dialect)
        rows = unpacked(dialect, {"pk": BigInteger(), "account": BigInteger(), "now": Double(), "expires_ts": Double()})
        self.make_ready = (
            update(messages)
            .where(messages.c.pk == rows.c.pk)
            .values(
                state=MessageState.READY.value,
                account_pk=rows.c.account,
                attempts=0,
                due=rows.c.now,  # from when on it waits, where its account is on hold
                expires_ts=rows.c.expires_ts,
                token=None,
                instance_id=None,
                reply=None,
                first_attempt_ts=None,
                finished_ts=None,
                reported_ts=None,
                reserved=false(),
                limit_told=false(),
                crashes=0,
            )
        )
        people = unpacked(dialect, {"message_pk": BigInteger(), "n": Integer(), "state": Text(), "reply": Text()})
        self.make_waiting = (
            update(recipients)
            .where(recipients.c.message_pk == people.c.message_pk, recipients.c.n == people.c.n)
            .values(state=people.c.state, reply=people.c.reply, ts=None)
        )

    def run(self, transaction: Transaction, requests: Sequence[RequeueRequest]) -> Sequence[Requeueing]:
        """Answer each request with what became of its messages."""
        hold_version(transaction.connection)  # no account is deleted meanwhile
        return [self._requeue(transaction, request) for request in requests]

    def _requeue(self, transaction: Transaction, request: RequeueRequest) -> Requeueing:
        connection = transaction.connection
        rows = unpack(connection.execute(self.standing, {"pks": pack(request.pks)}).scalar())
        states = {pk: MessageState(state) for pk, state, _ in rows}
        account_of = {pk: account for pk, _, account in rows}
        skipped = Counter({Skipped.NOT_FOUND: len(request.pks) - len(states)})
        again: list[Requeued] = []
        final = [pk for pk, state in states.items() if state.final]
        for message in chain.from_iterable(self.loader.in_helpings(connection, final)):
            decision = requeue(message, states[message.pk], request.now)
            if isinstance(decision, Skipped):
                skipped[decision] += 1
            elif account_of[message.pk] is None:
                skipped[Skipped.NO_ACCOUNT] += 1
            else:
                again.append(decision)
        skipped[Skipped.NOT_FAILED] += sum(not state.final for state in states.values())
        self._write(connection, again, account_of, request.now)
        if again:
            transaction.hints.add(Hint.READY.value)
        return Requeueing(len(again), +skipped, frozenset(account_of[each.pk] for each in again))

    def _write(self, connection: Connection, again: Sequence[Requeued], account_of: dict[int, int], now: float) -> None:
        if again:
            rows = [(each.pk, account_of[each.pk], now, each.expires_ts) for each in again]
            connection.execute(self.make_ready, {"rows": pack(rows)})
            connection.execute(self.make_waiting, {"rows": pack(_people(again))})


def _people(again: Iterable[Requeued]) -> Iterable[tuple[object, ...]]:
    """Write each recipient: where all of them wait, they share the message's state and have no word of their own."""
    for each in again:
        for r in each.recipients:
            yield each.pk, r.n, None if each.everybody else r.state.value, None if each.everybody else r.reply
