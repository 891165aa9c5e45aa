"""Taking ready messages to send: by account, priority, age, never past a suspension."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Double,
    Integer,
    Select,
    Text,
    and_,
    bindparam,
    exists,
    func,
    literal_column,
    not_,
    select,
    update,
)

from mail_proxy.domain.claim import HELPING, Claimed, Demand, Taking
from mail_proxy.domain.message import FINAL_STATES, Identity, MessageState
from mail_proxy.domain.recipient import Recipient, RecipientKind, RecipientState
from mail_proxy.store.database import Transaction
from mail_proxy.store.rows import among, pack, packed, unpack
from mail_proxy.store.schema import accounts, contents, messages, recipients, settings, suspended_batches, tenants

PARKED_AT_A_TIME = 1000
"""Messages of suspended batches that one claim sets aside, for all its accounts together."""
SCHEDULER_ACTIVE = "scheduler_active"


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """One call of the queue's `claim`."""

    demands: tuple[Demand, ...]
    token: str
    instance_id: str
    now: float


@dataclass(slots=True)
class Parking:
    """How many messages of suspended batches may be set aside for each account, so that a claim stays short."""  # G11

    share: int
    met: set[int] = field(default_factory=set)
    """Accounts that got less than they asked for because of such messages."""


class Claim:
    """Marks messages as being sent by this instance, counts the attempt, and reads them."""  # G5

    def __init__(self, dialect: str) -> None:
        self.candidates = packed(dialect, _candidates(urgent_only=False).subquery("candidates"))
        self.urgent = packed(dialect, _candidates(urgent_only=True).subquery("candidates"))
        chosen = among(dialect, messages.c.pk)
        self.take = (
            update(messages)
            .where(chosen)
            .values(
                state=MessageState.SENDING.value,
                token=bindparam("claim_token", type_=Text),
                instance_id=bindparam("claim_instance", type_=Text),
                attempts=messages.c.attempts + 1,
                first_attempt_ts=func.coalesce(messages.c.first_attempt_ts, bindparam("now", type_=Double)),
                due=None,
            )
        )
        self.lock_suspensions = (
            select(suspended_batches.c.batch_code)
            .where(
                suspended_batches.c.tenant_id
                == select(accounts.c.tenant_id).where(accounts.c.pk == bindparam("account")).scalar_subquery(),
                not_(suspended_batches.c.ending),
            )
            .with_for_update(read=True, of=suspended_batches)
        )
        self.park = update(messages).where(chosen).values(state=MessageState.HELD.value)
        self.loader = Loader(dialect)
        mine = select(messages.c.pk).where(
            messages.c.state == literal_column("'sending'"),
            messages.c.instance_id == bindparam("claim_instance", type_=Text),
            messages.c.token == bindparam("claim_token", type_=Text),
        )
        self.mine = packed(dialect, mine.subquery("mine"))

    def run(self, transaction: Transaction, requests: Sequence[ClaimRequest]) -> Sequence[Taking]:
        """Answer each request with the messages that are now in its hands."""
        return [self._claim(transaction, request) for request in requests]

    def _claim(self, transaction: Transaction, request: ClaimRequest) -> Taking:
        connection = transaction.connection
        owner = {"claim_token": request.token, "claim_instance": request.instance_id}
        if transaction.again:  # a commit whose answer was lost may have gone through: those are ours
            already = [pk for (pk,) in unpack(connection.execute(self.mine, owner).scalar())]
            if already:
                return Taking(self.loader.load(connection, already), frozenset(d.account_pk for d in request.demands))
        taken: list[int] = []
        room = HELPING
        parking = Parking(max(PARKED_AT_A_TIME // (len(request.demands) or 1), 1))
        for demand in request.demands:
            for pk, size in self._candidates_of(connection, demand, parking):
                if room > 0:
                    taken.append(pk)
                    room -= size
        if not taken:
            return Taking(parked=frozenset(parking.met))
        connection.execute(self.take, {"pks": pack(taken), "now": request.now, **owner})
        return Taking(self.loader.load(connection, taken), frozenset(parking.met))

    def _candidates_of(self, connection: Connection, demand: Demand, parking: Parking) -> list[tuple[int, int]]:
        """Return (pk, size) of ready messages; those of suspended batches are set aside on the way."""
        statement = self.urgent if demand.urgent_only else self.candidates
        look, left = demand.limit, parking.share
        while True:
            found = unpack(connection.execute(statement, {"account": demand.account_pk, "limit": look}).scalar())
            free = found
            if any(batch is not None for _, _, batch in found):
                free = self._park_suspended(connection, demand.account_pk, found, left)
            left -= len(found) - len(free)
            if len(free) < min(len(found), demand.limit):
                parking.met.add(demand.account_pk)
            if free or not found or left <= 0:
                return [(pk, size) for pk, size, _ in free[: demand.limit]]
            look = left  # nothing but suspended ones: from now on as many as may still be set aside

    def _park_suspended(
        self, connection: Connection, account_pk: int, candidates: list[list[Any]], most: int
    ) -> list[list[Any]]:
        """Set up to `most` messages of suspended batches aside; answer those of no suspended batch.

        The suspensions stay locked until the commit, so that one that is ending meanwhile finds what was set aside.
        """
        suspended = set(connection.execute(self.lock_suspensions, {"account": account_pk}).scalars())
        parked = [pk for pk, _, batch in candidates if batch in suspended][:most]
        if parked:
            connection.execute(self.park, {"pks": pack(parked)})
        return [row for row in candidates if row[2] not in suspended]


def may_send(account: ColumnElement[int]) -> ColumnElement[bool]:
    """The condition under which an account's messages may be claimed at all; looked at once for a statement."""
    allowed = (
        exists()
        .where(accounts.c.pk == account)
        .where(accounts.c.hold_since.is_(None))
        .where(tenants.c.id == accounts.c.tenant_id)
        .where(tenants.c.active, not_(tenants.c.suspended))
        .correlate(None)
    )
    stopped = exists().where(settings.c.name == SCHEDULER_ACTIVE, settings.c.value == "false").correlate(None)
    return and_(allowed, not_(stopped))


def _candidates(*, urgent_only: bool) -> Select[Any]:
    account = bindparam("account", type_=BigInteger)
    statement = (
        select(messages.c.pk, messages.c.size, messages.c.batch_code)
        .where(messages.c.account_pk == account, messages.c.state == literal_column("'ready'"), may_send(account))
        .order_by(messages.c.priority, messages.c.pk)
        .limit(bindparam("limit", type_=Integer))
        .with_for_update(of=messages, skip_locked=True)
    )
    return statement.where(messages.c.priority == 0) if urgent_only else statement


class Loader:
    """Reads claimed messages with all that sending needs."""

    def __init__(self, dialect: str) -> None:
        rows = (
            select(
                messages.c.pk,
                messages.c.token,
                messages.c.tenant_id,
                messages.c.id,
                messages.c.account_pk,
                messages.c.account_id,
                messages.c.priority,
                messages.c.batch_code,
                messages.c.state,
                messages.c.attempts,
                messages.c.created_ts,
                messages.c.first_attempt_ts,
                messages.c.expires_ts,
                messages.c.reply,
                contents.c.message_id,
                contents.c.date,
                contents.c.fields,
            )
            .join(contents, contents.c.message_pk == messages.c.pk)
            .where(among(dialect, messages.c.pk))
            .order_by(messages.c.priority, messages.c.pk)
        )
        self.rows = packed(dialect, rows.subquery("loaded"))
        to = (
            select(
                recipients.c.message_pk,
                recipients.c.n,
                recipients.c.address,
                recipients.c.kind,
                recipients.c.state,
                recipients.c.reply,
                recipients.c.ts,
            )
            .where(among(dialect, recipients.c.message_pk))
            .order_by(recipients.c.message_pk, recipients.c.n)
        )
        self.recipients = packed(dialect, to.subquery("loaded"))

    def load(self, connection: Connection, pks: Sequence[int]) -> list[Claimed]:
        """Return the messages, urgent ones first, then by age."""
        chosen = {"pks": pack(pks)}
        people: dict[int, list[list[Any]]] = {}
        for row in unpack(connection.execute(self.recipients, chosen).scalar()):
            people.setdefault(row[0], []).append(row[1:])
        return [_claimed(row, people.get(row[0], [])) for row in unpack(connection.execute(self.rows, chosen).scalar())]


def recipient_of(row: Sequence[Any], message_state: MessageState, reply: str | None, ts: float | None) -> Recipient:
    """Build a recipient from (n, address, kind, state, reply, ts); what is NULL is the message's."""
    n, address, kind, state, own_reply, own_ts = row
    if state is None:
        return Recipient(n, address, RecipientKind(kind), _inherited(message_state), reply, ts)
    return Recipient(n, address, RecipientKind(kind), RecipientState(state), own_reply, own_ts)


def _inherited(state: MessageState) -> RecipientState:
    return RecipientState(state.value) if state in FINAL_STATES else RecipientState.WAITING


def _claimed(row: Sequence[Any], people: Sequence[Sequence[Any]]) -> Claimed:
    (
        pk,
        token,
        tenant_id,
        id_,
        account_pk,
        account_id,
        priority,
        batch_code,
        state,
        attempts,
        created_ts,
        first_attempt_ts,
        expires_ts,
        reply,
        message_id,
        date,
        fields,
    ) = row
    return Claimed(
        pk=pk,
        token=token,
        tenant_id=tenant_id,
        account_pk=account_pk,
        account_id=account_id,
        priority=priority,
        batch_code=batch_code,
        attempts=attempts,
        created_ts=created_ts,
        first_attempt_ts=first_attempt_ts if first_attempt_ts is not None else created_ts,
        expires_ts=expires_ts,
        fields=fields,
        identity=Identity(id_, message_id, date),
        recipients=tuple(recipient_of(person, MessageState(state), reply, None) for person in people),
    )
