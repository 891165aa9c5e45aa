"""Taking ready messages to send: by account, priority, age, never past a suspension."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Connection,
    Double,
    Integer,
    Select,
    Text,
    and_,
    bindparam,
    exists,
    false,
    func,
    literal_column,
    not_,
    select,
    true,
    update,
)

from mail_proxy.domain.claim import HELPING, Demand, Limited, Taking
from mail_proxy.domain.message import MessageState
from mail_proxy.domain.rate_limit import LOOK_AGAIN, LimitBehavior
from mail_proxy.domain.report import Event, EventType, Outlook, entry
from mail_proxy.domain.settlement import RATE_LIMITED, subject_of
from mail_proxy.store.loading import Loader
from mail_proxy.store.operation import Transaction
from mail_proxy.store.prepared import Prepared, once
from mail_proxy.store.rows import among, pack, packed, unpack
from mail_proxy.store.schema import accounts, messages, settings, suspended_batches, tenants
from mail_proxy.store.usage import LimitedAccount, Reservations, Usage

PARKED_AT_A_TIME = 1000
"""Messages of suspended batches that one claim sets aside, for all its accounts together."""
REFUSED_AT_A_TIME = 100
"""Messages of an account over its limit that are failed by one claim, where its limit rejects."""
SCHEDULER_ACTIVE = "scheduler_active"


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """One call of the queue's `claim`."""

    demands: tuple[Demand, ...]
    token: str
    instance_id: str
    now: float


class _Candidate(NamedTuple):
    pk: int
    size: int
    batch_code: str | None
    told: bool


@dataclass(slots=True)
class _Chosen:
    """What one claim takes, gathered demand by demand."""

    parking_share: int
    """How many messages of suspended batches may be set aside for each account, so that a claim stays short."""  # G11
    parked: set[int] = field(default_factory=set)
    """Accounts that got less than they asked for because of such messages."""
    free: list[int] = field(default_factory=list)
    reserved: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    limited: dict[int, Limited] = field(default_factory=dict)
    heavy: set[int] = field(default_factory=set)
    """Accounts whose next message is heavier than was asked for."""
    room: int = HELPING

    def fitting(self, candidates: Sequence[_Candidate]) -> list[int]:
        """Return those for which there is room in memory."""  # G11
        pks = []
        for each in candidates:
            if self.room > 0:
                pks.append(each.pk)
                self.room -= each.size
        return pks

    def fitting_for(self, demand: Demand, candidates: Sequence[_Candidate]) -> list[int]:
        """Return those for which there is room, up to the first that is too heavy for the demand."""  # G11
        heaviest = demand.heaviest
        if heaviest is None:
            return self.fitting(candidates)
        light = list(takewhile(lambda each: each.size <= heaviest, candidates))
        if len(light) < len(candidates):
            self.heavy.add(demand.account_pk)
        return self.fitting(light)


def refusal_token(token: str) -> str:
    """Name the claim of what is taken only to be refused, beside what is taken to be sent."""
    return f"{token} refused"


class Claim:
    """Marks messages as being sent by this instance, counts the attempt, and reads them."""  # G5

    def __init__(self, dialect: str, usage: Usage) -> None:
        self._usage = usage
        self.candidates = Prepared(packed(dialect, _candidates(urgent_only=False).subquery("candidates")))
        self.urgent = Prepared(packed(dialect, _candidates(urgent_only=True).subquery("candidates")))
        chosen = among(dialect, messages.c.pk)
        self.take = Prepared(
            update(messages)
            .where(chosen)
            .values(
                state=MessageState.SENDING.value,
                token=bindparam("claim_token", type_=Text),
                instance_id=bindparam("claim_instance", type_=Text),
                attempts=messages.c.attempts + 1,
                first_attempt_ts=func.coalesce(messages.c.first_attempt_ts, bindparam("now", type_=Double)),
                due=None,
                reserved=bindparam("reserving", type_=Boolean),
                limit_told=false(),
            )
        )
        self.mark_told = update(messages).where(chosen).values(limit_told=true())
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
        self.loader = once(Loader, dialect)
        mine = select(messages.c.pk).where(
            messages.c.state == literal_column("'sending'"),
            messages.c.instance_id == bindparam("claim_instance", type_=Text),
            messages.c.token == bindparam("claim_token", type_=Text),
        )
        self.mine = packed(dialect, mine.subquery("mine"))

    def run(self, transaction: Transaction, requests: Sequence[ClaimRequest]) -> Sequence[Taking]:
        """Answer each request with the messages that are now in its hands."""
        wanted = [demand.account_pk for request in requests for demand in request.demands]
        held = self._usage.hold(transaction.connection, wanted)
        return [self._claim(transaction, request, held) for request in requests]

    def _claim(self, transaction: Transaction, request: ClaimRequest, held: Reservations | None) -> Taking:
        connection = transaction.connection
        owner = {"claim_token": request.token, "claim_instance": request.instance_id}
        if transaction.again:  # a commit whose answer was lost may have gone through: those are ours
            both = (owner, {**owner, "claim_token": refusal_token(request.token)})
            already, to_refuse = (
                [pk for (pk,) in unpack(connection.execute(self.mine, whose).scalar())] for whose in both
            )
            if already or to_refuse:
                return Taking(
                    self.loader.load(connection, already),
                    refused=self.loader.load(connection, to_refuse),
                    parked=frozenset(demand.account_pk for demand in request.demands),
                )
        chosen = _Chosen(max(PARKED_AT_A_TIME // (len(request.demands) or 1), 1))
        for demand in request.demands:
            account = None if held is None else held.accounts.get(demand.account_pk)
            if account is None or held is None:
                chosen.free += chosen.fitting_for(demand, self._candidates_of(connection, demand, chosen))
            else:
                self._choose_within_limit(transaction, demand, request.now, chosen, account, held)
        refusing = {**owner, "claim_token": refusal_token(request.token)}
        for pks, whose, reserving in (
            (chosen.free, owner, False),
            (chosen.reserved, owner, True),
            (chosen.refused, refusing, False),
        ):
            if pks:
                names = {**whose, "pks": pack(pks), "now": request.now, "reserving": reserving}
                self.take.run(connection, names)
        return Taking(
            claimed=self.loader.load(connection, [*chosen.free, *chosen.reserved]),
            limited=chosen.limited,
            refused=self.loader.load(connection, chosen.refused),
            parked=frozenset(chosen.parked),
            heavy=frozenset(chosen.heavy),
        )

    def _choose_within_limit(
        self,
        transaction: Transaction,
        demand: Demand,
        now: float,
        chosen: _Chosen,
        account: LimitedAccount,
        held: Reservations,
    ) -> None:
        """Choose as many as the account's limits let through; if none, tell those at its head, or have them refused.

        The messages behind them are not touched: what holds them up is shown from the account.
        """  # G10
        left, shut = held.room(account)
        if left.free > 0:
            within = replace(demand, limit=min(demand.limit, left.free))
            pks = chosen.fitting_for(within, self._candidates_of(transaction.connection, within, chosen))
            chosen.reserved += pks
            held.reserve(account, len(pks))
            return
        rejects = account.behavior is LimitBehavior.REJECT
        wanted = replace(demand, limit=REFUSED_AT_A_TIME) if rejects else demand
        head = self._candidates_of(transaction.connection, wanted, chosen)
        if not head:
            return
        seconds = max((left.next_free or held.now) - held.now, 0.0)
        limit = chosen.limited[account.pk] = Limited(seconds, now + seconds, shut, told=0)
        if (rejects or seconds <= LOOK_AGAIN) and not held.used_up(account):
            return  # what is in flight may come to nothing: nobody fails for that, nor is told a time
        self._usage.say(transaction.connection, account, limit.until, shut)
        if rejects:
            chosen.refused += chosen.fitting(head)
        else:
            limit = replace(
                limit, told=self._tell(transaction, [each.pk for each in head if not each.told], limit, now)
            )
        chosen.limited[account.pk] = limit

    def _tell(self, transaction: Transaction, pks: Sequence[int], limit: Limited, now: float) -> int:
        """Write an event for each message that a limit holds up for the first time; return how many."""
        if pks:
            transaction.connection.execute(self.mark_told, {"pks": pack(pks)})
            outlook = Outlook(deferred_ts=limit.until, deferred_reason=RATE_LIMITED)
            transaction.emit(
                [
                    Event(
                        message.tenant_id,
                        message.pk,
                        EventType.DEFERRED,
                        now,
                        entry(subject_of(message), EventType.DEFERRED, now, message.recipients, outlook),
                    )
                    for message in self.loader.load(transaction.connection, pks)
                ]
            )
        return len(pks)

    def _candidates_of(self, connection: Connection, demand: Demand, chosen: _Chosen) -> list[_Candidate]:
        """Return ready messages; those of suspended batches are set aside on the way."""
        statement = self.urgent if demand.urgent_only else self.candidates
        look, left = demand.limit, chosen.parking_share
        while True:
            parameters = {"account": demand.account_pk, "limit": look}
            found = [_Candidate(*row) for row in statement.rows(connection, parameters)]
            free = found
            if any(each.batch_code is not None for each in found):
                free = self._park_suspended(connection, demand.account_pk, found, left)
            left -= len(found) - len(free)
            if len(free) < min(len(found), demand.limit):
                chosen.parked.add(demand.account_pk)
            if free or not found or left <= 0:
                return free[: demand.limit]
            look = left  # nothing but suspended ones: from now on as many as may still be set aside

    def _park_suspended(
        self, connection: Connection, account_pk: int, candidates: list[_Candidate], most: int
    ) -> list[_Candidate]:
        """Set up to `most` messages of suspended batches aside; answer those of no suspended batch.

        The suspensions stay locked until the commit, so that one that is ending meanwhile finds what was set aside.
        """
        suspended = set(connection.execute(self.lock_suspensions, {"account": account_pk}).scalars())
        parked = [each.pk for each in candidates if each.batch_code in suspended][:most]
        if parked:
            connection.execute(self.park, {"pks": pack(parked)})
        return [each for each in candidates if each.batch_code not in suspended]


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
        select(messages.c.pk, messages.c.size, messages.c.batch_code, messages.c.limit_told)
        .where(messages.c.account_pk == account, messages.c.state == literal_column("'ready'"), may_send(account))
        .order_by(messages.c.priority, messages.c.pk)
        .limit(bindparam("limit", type_=Integer))
        .with_for_update(of=messages, skip_locked=True)
    )
    return statement.where(messages.c.priority == 0) if urgent_only else statement
