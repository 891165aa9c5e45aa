"""Writing outcomes down: state, recipients and events together, and only while the claim holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from math import isfinite
from typing import Any

from sqlalchemy import BigInteger, Double, Integer, Text, case, false, func, insert, select, update

from mail_proxy.domain.claim import Claimed
from mail_proxy.domain.message import FINAL_STATES, MessageState
from mail_proxy.domain.settlement import Settlement
from mail_proxy.store.hints import Hint
from mail_proxy.store.operation import Transaction
from mail_proxy.store.prepared import Prepared
from mail_proxy.store.rows import among, one_of, pack, packed, unpack, unpacked
from mail_proxy.store.schema import events, messages, recipients
from mail_proxy.store.usage import Usage

EVENTS_LOCK = 0x6D70_6576
"""PostgreSQL: held from the drawing of event ids to the commit, so that ids become visible in their order."""

_KEEP_TOKEN = (MessageState.READY.value, MessageState.HELD.value)


class Settle:
    """Records what attempts came to. A settlement whose claim was lost changes nothing."""  # G5

    def __init__(self, dialect: str, usage: Usage) -> None:
        self._usage = usage
        standing = (
            select(
                messages.c.pk,
                messages.c.token,
                messages.c.state,
                messages.c.attempts,
                messages.c.due,
                messages.c.finished_ts,
                messages.c.reply,
                messages.c.reserved,
                messages.c.tenant_id,
                messages.c.account_pk,
            )
            .where(among(dialect, messages.c.pk))
            .order_by(messages.c.pk)  # everybody locks messages in this order
            .with_for_update(of=messages)
        )
        self.standing = Prepared(packed(dialect, standing.subquery("standing")))
        rows = unpacked(
            dialect,
            {
                "pk": BigInteger(),
                "state": Text(),
                "attempts": Integer(),
                "due": Double(),
                "finished_ts": Double(),
                "reply": Text(),
                "crashes": Integer(),
                "expires_ts": Double(),
            },
        )
        self.update_messages = Prepared(
            update(messages)
            .where(messages.c.pk == rows.c.pk)
            .values(
                state=rows.c.state,
                attempts=rows.c.attempts,
                due=rows.c.due,
                finished_ts=rows.c.finished_ts,
                reply=rows.c.reply,
                # what goes back to the queue keeps its token until it is claimed anew, so that a late 250 counts
                token=case((one_of(rows.c.state, _KEEP_TOKEN), messages.c.token), else_=None),
                crashes=func.coalesce(rows.c.crashes, messages.c.crashes),
                expires_ts=func.coalesce(rows.c.expires_ts, messages.c.expires_ts),
                instance_id=None,
                reserved=false(),
            )
        )
        people = unpacked(
            dialect,
            {"message_pk": BigInteger(), "n": Integer(), "state": Text(), "reply": Text(), "ts": Double()},
        )
        self.update_recipients = Prepared(
            update(recipients)
            .where(recipients.c.message_pk == people.c.message_pk, recipients.c.n == people.c.n)
            .values(state=people.c.state, reply=people.c.reply, ts=people.c.ts)
        )

    def run_groups(self, transaction: Transaction, groups: Sequence[Sequence[Settlement]]) -> Sequence[Sequence[bool]]:
        """Write several callers' settlements together."""
        written = iter(self.run(transaction, [settlement for group in groups for settlement in group]))
        return [list(islice(written, len(group))) for group in groups]

    def run(self, transaction: Transaction, settlements: Sequence[Settlement]) -> Sequence[bool]:
        """Answer for each settlement whether it was written."""
        connection = transaction.connection
        pks = pack(s.pk for s in settlements)
        rows = {row[0]: row for row in self.standing.rows(connection, {"pks": pks})}
        written: dict[int, Settlement] = {}
        answers = []
        for s in settlements:
            row = rows.get(s.pk)
            if row is not None and s.pk not in written and _holds(row, s):
                written[s.pk] = s
            answers.append(written.get(s.pk) == s or (row is not None and _stands_already(row, s)))
        if written:
            outcomes = pack((*_row(s), s.crashes, s.expires_ts) for s in written.values())
            self.update_messages.run(connection, {"rows": outcomes})
            people = [(s.pk, r.n, r.state.value, r.reply, r.ts) for s in written.values() for r in s.recipients]
            if people:
                self.update_recipients.run(connection, {"rows": pack(people)})
            for s in written.values():
                transaction.emit(s.events)
            self._usage.spend(connection, _spent(rows, written.values()))
        return answers


def _holds(row: Sequence[Any], settlement: Settlement) -> bool:
    """True while the claim holds, and until the next one where the message went back to the queue."""
    _, token, state, *_ = row
    return token == settlement.token and not (MessageState(state).final or _stands_already(row, settlement))


def _stands_already(row: Sequence[Any], settlement: Settlement) -> bool:
    """True when an earlier commit of it went through whose answer was lost. Times to the millisecond."""
    _, token, *outcome, _reserved, _tenant_id, _account_pk = row
    if outcome[0] != settlement.state.value or token not in (None, settlement.token):
        return False
    return [_rounded(value) for value in outcome] == [_rounded(value) for value in _row(settlement)[1:]]


def _rounded(value: object) -> object:
    return round(value, 3) if isinstance(value, float) else value


def _row(settlement: Settlement) -> tuple[object, ...]:
    due, finished = settlement.due, settlement.ts if settlement.state in FINAL_STATES else None
    if not isfinite(settlement.ts if due is None else due):  # it would be written as null, and never be due
        raise ValueError(f"a message cannot be settled for {due} at {settlement.ts}")
    return settlement.pk, settlement.state.value, settlement.attempts, due, finished, settlement.reply


def _spent(rows: Mapping[int, Sequence[Any]], written: Iterable[Settlement]) -> Mapping[tuple[str, int], int]:
    """Count the transactions of those whose claim had reserved one, by (tenant, account)."""  # G10
    spent: Counter[tuple[str, int]] = Counter()
    for settlement in written:
        *_, reserved, tenant_id, account_pk = rows[settlement.pk]
        if reserved:
            spent[tenant_id, account_pk] += settlement.transactions
    return spent


class Release:
    """Gives claimed messages back untried, with their attempt."""

    def __init__(self, dialect: str) -> None:
        chosen = (among(dialect, messages.c.pk), messages.c.state == MessageState.SENDING.value)
        taken = (
            select(messages.c.pk, messages.c.token).where(*chosen).order_by(messages.c.pk).with_for_update(of=messages)
        )
        self.taken = packed(dialect, taken.subquery("taken"))
        self.give_back = (
            update(messages)
            .where(*chosen)
            .values(
                state=MessageState.READY.value,
                attempts=messages.c.attempts - 1,
                token=None,
                instance_id=None,
                reserved=false(),
            )
        )

    def run(self, transaction: Transaction, groups: Sequence[Sequence[Claimed]]) -> Sequence[None]:
        """Release the messages of each group that are still held by its claims."""
        # of one message several claims may come together: one that was lost, and the one that holds
        claims = {(claimed.pk, claimed.token) for group in groups for claimed in group}
        pks = {pk for pk, _ in claims}
        taken = unpack(transaction.connection.execute(self.taken, {"pks": pack(pks)}).scalar())
        ours = [pk for pk, token in taken if (pk, token) in claims]
        if ours:
            transaction.hints.add(Hint.READY.value)
            transaction.connection.execute(self.give_back, {"pks": pack(ours)})
        return [None] * len(groups)


class WriteEvents:
    """Writes a transaction's events as its last statement."""  # G9

    def __init__(self, dialect: str) -> None:
        self._locked = dialect == "postgresql"
        self.lock = Prepared(select(func.pg_advisory_xact_lock(EVENTS_LOCK)))
        rows = unpacked(
            dialect,
            {"tenant_id": Text(), "message_pk": BigInteger(), "type": Text(), "ts": Double(), "entry": Text()},
        )
        self.statement = Prepared(insert(events).from_select(list(rows.c.keys()), select(*rows.c)))

    def __call__(self, transaction: Transaction) -> None:
        """Draw ids for the transaction's events, in order, and write them."""
        if self._locked:
            self.lock.run(transaction.connection, {})
        rows = pack((e.tenant_id, e.message_pk, e.type.value, e.ts, e.entry) for e in transaction.events)
        self.statement.run(transaction.connection, {"rows": rows})
        transaction.events.clear()
