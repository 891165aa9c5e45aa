"""Any order of the queue's verbs, on each database, beside a model of a page: they never come to differ."""  # G4, G5

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from mail_proxy.domain.account import Account, OnUncertain
from mail_proxy.domain.attempt import Answer, Attempt
from mail_proxy.domain.claim import Claimed, Demand
from mail_proxy.domain.retry import RetrySchedule
from mail_proxy.domain.settlement import Policy, Settlement, expire, give_back, recover, settle
from mail_proxy.domain.tenant import Suspension
from mail_proxy.ports.message_changes import Deletion
from mail_proxy.store.queue import StoreQueue
from mail_proxy.store.store import Store
from tests.conformance.steps import ACCEPTED, LATER, REFUSED
from tests.support.stores import a_message, enqueue, open_test_store, with_account

POLICY = Policy(RetrySchedule(delays=(60.0,), max_attempts=3, jitter=0.0))
BATCHES = ("spring", "autumn")
ANSWERS = {"sent": ACCEPTED, "failed": REFUSED, "later": LATER}
ALL = 1000
# Making a failure smaller would take minutes on a real database; forty steps can be read as they are.
BOUNDED = settings(
    max_examples=15,
    stateful_step_count=40,
    deadline=None,
    phases=[Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
_EMPTY = ("events", "recipients", "contents", "messages", "suspended_batches", "instances")


@dataclass
class Kept:
    """What the model knows of one message."""

    id: str
    age: int
    account: int
    priority: int
    batch: str | None
    due: float | None
    expires: float | None
    state: str
    attempts: int = 0
    token: str | None = None
    owner: str | None = None
    told: Counter[str] = field(default_factory=Counter)
    """Its events, by type."""

    @property
    def final(self) -> bool:
        return self.state in {"sent", "failed", "expired", "cancelled"}

    def settled(self, settlement: Settlement) -> None:
        """Become what a settlement says."""
        self.state, self.attempts, self.due = settlement.state.value, settlement.attempts, settlement.due
        self.owner = None
        if self.state != "ready":  # what goes back keeps its token, so that a late 250 counts
            self.token = None
        self.told.update(event.type.value for event in settlement.events)


class QueueBesideModel(RuleBasedStateMachine):
    """Two instances on one queue, whose clock is moved by the rules."""

    def __init__(self, store: Store, accounts: Sequence[Account], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.store, self.accounts, self.loop = store, accounts, loop
        self.now = 1_800_000_000.0
        self.kept: dict[str, Kept] = {}
        self.deleted: list[Kept] = []
        self.claims: list[Claimed] = []
        """Every claim that somebody ever had, also what was settled or lost: anybody may come late with one."""
        self.rescued: list[Claimed] = []
        self.suspended: set[str] = set()
        self.ending: set[str] = set()
        self.whole_tenant = False
        self.tokens = 0
        self.names = ["a0", "b0"]
        self.queues = [StoreQueue(store.database, name) for name in self.names]
        self.changes = store.message_changes
        self.dead: list[str] = []
        with store.database.engine.begin() as connection:
            for table in _EMPTY:
                connection.execute(text(f"DELETE FROM {table}"))  # noqa: S608 - names of our own
        self._suspend()

    def run_(self, awaitable: Any) -> Any:
        return self.loop.run_until_complete(awaitable)

    def tick(self) -> float:
        """No two things happen at one time."""
        self.now += 0.01
        return self.now

    # What clients and operators do

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        """Some of everything, and some of it in somebody's hands, so that every rule finds something to do."""
        for number in range(8):
            self._enqueue(number % 2, data.draw(st.integers(0, 3)), (*BATCHES, None, None)[number % 4], None, None)
        self.claim(0, 0, 2, urgent=False)
        self.claim(1, 1, 2, urgent=False)

    @rule(
        account=st.integers(0, 1),
        priority=st.integers(0, 3),
        batch=st.sampled_from([None, *BATCHES]),
        wait=st.sampled_from([None, None, 60.0]),
        lasts=st.sampled_from([None, None, 90.0]),
        messages=st.integers(1, 4),
    )
    def enqueue(
        self, account: int, priority: int, batch: str | None, wait: float | None, lasts: float | None, messages: int
    ) -> None:
        for _ in range(messages):
            self._enqueue(account, priority, batch, wait, lasts)

    def _enqueue(self, account: int, priority: int, batch: str | None, wait: float | None, lasts: float | None) -> None:
        now, number = self.tick(), len(self.kept) + len(self.deleted)
        due, expires = wait and now + wait, lasts and now + lasts
        id_ = f"m{number}"
        wanted = {"priority": priority, "batch_code": batch, "due": due, "expires_ts": expires}
        assert self.run_(enqueue(self.store, a_message(id_, self.accounts[account], **wanted))) == ["queued"]
        state = "ready" if due is None else "scheduled"
        token = self._rows()[id_][2]  # of the insert, which nobody else knows
        self.kept[id_] = Kept(id_, number, account, priority, batch, due, expires, state, token=token)

    @rule(seconds=st.sampled_from([1.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        """What waits is cancelled and told, what is being sent is left alone, what is finished is gone but told."""
        kept, now = self._any_of(data), self.tick()
        became = self.run_(self.changes.delete([self._pk(kept)], now, silent=False))
        if kept.final:
            self.deleted.append(self.kept.pop(kept.id))
            assert list(became.values()) == [Deletion.REMOVED]
        elif kept.state == "sending":
            assert list(became.values()) == [Deletion.IN_PROGRESS]
        else:
            assert list(became.values()) == [Deletion.CANCELLED]
            kept.state, kept.token, kept.due = "cancelled", None, None
            kept.told["cancelled"] += 1

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def requeue(self, data: st.DataObject) -> None:
        """What failed begins anew; a late settlement of what was before has nothing to do with it."""
        kept, now = self._any_of(data), self.tick()
        again = kept.state in {"failed", "expired"} and not (kept.expires is not None and kept.expires <= now)
        assert self.run_(self.changes.requeue([self._pk(kept)], now)).queued == again
        if again:
            kept.state, kept.attempts, kept.token, kept.due = "ready", 0, None, now

    def _any_of(self, data: st.DataObject) -> Kept:
        """Choose a message, rather one that is finished."""
        final = [k.id for k in self.kept.values() if k.final]
        return self.kept[data.draw(st.sampled_from(sorted(final or self.kept)))]

    def _pk(self, kept: Kept) -> int:
        pk: int = self.run_(self.changes.find("acme", [kept.id]))[kept.id]
        return pk

    @rule(batch=st.sampled_from(BATCHES))
    def suspend(self, batch: str) -> None:
        self.suspended.add(batch)
        self.ending.discard(batch)
        self._suspend()

    @precondition(lambda self: self.suspended)
    @rule(data=st.data())
    def activate(self, data: st.DataObject) -> None:
        batch = data.draw(st.sampled_from(sorted(self.suspended)))
        self.suspended.discard(batch)
        self.ending.add(batch)
        self._suspend()

    @rule(account=st.integers(0, 1))
    def hold_the_tenant_for_a_while(self, account: int) -> None:
        self.whole_tenant = True
        self._suspend()
        self.claim(0, account, ALL, urgent=False)
        self.whole_tenant = False
        self._suspend()

    def _suspend(self) -> None:
        suspension = Suspension(whole_tenant=self.whole_tenant, batches=frozenset(self.suspended))
        self.run_(self.store.directory.change_suspension("acme", lambda _: suspension))

    # What instances do

    @rule(who=st.integers(0, 1), account=st.integers(0, 1), limit=st.integers(1, 4), urgent=st.booleans())
    def claim(self, who: int, account: int, limit: int, *, urgent: bool) -> None:
        ready = sorted(
            (k for k in self.kept.values() if k.state == "ready" and k.account == account),
            key=lambda k: (k.priority, k.age),
        )
        ready = [k for k in ready if not urgent or k.priority == 0]
        free = [k for k in ready if k.batch not in self.suspended]
        taken = self._claim(who, account, limit, urgent)
        ids = [claimed.identity.mail_id for claimed in taken]
        if self.whole_tenant:
            assert ids == []
            return
        assert ids == [k.id for k in free[: len(ids)]]  # by priority, then age
        if len(free) == len(ready):  # else it may end where it meets what has to be set aside
            assert len(ids) == min(limit, len(free))
        for claimed in taken:
            kept = self.kept[claimed.identity.mail_id]
            kept.state, kept.owner, kept.token, kept.due = "sending", self.names[who], claimed.token, None
            kept.attempts += 1
            assert claimed.attempts == kept.attempts
        self.claims += taken
        rows = self._rows()
        for kept in ready:
            if kept.batch in self.suspended and rows[kept.id][0] == "held":
                kept.state = "held"

    def _claim(self, who: int, account: int, limit: int, urgent: bool) -> list[Claimed]:
        self.tokens += 1
        demand = Demand(self.accounts[account].pk, limit, urgent)
        taking = self.run_(self.queues[who].claim([demand], f"token {self.tokens}", self.tick()))
        return list(getattr(taking, "claimed", taking))

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), answer=st.sampled_from(sorted(ANSWERS)))
    def settle(self, data: st.DataObject, answer: str) -> None:
        """Also long after the claim was settled, rescued, or made anew by somebody else."""
        claimed = data.draw(st.sampled_from(self.claims))
        answers: dict[int, Answer] = {0: ANSWERS[answer]}
        self._settle(claimed, settle(claimed, Attempt(answers), POLICY, self.tick(), Random(1)))

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        claimed = data.draw(st.sampled_from(self.claims))
        self.run_(self.queues[0].release([claimed]))
        kept = self.kept.get(claimed.identity.mail_id)
        if kept is not None and kept.state == "sending" and kept.token == claimed.token:
            kept.state, kept.owner, kept.token = "ready", None, None
            kept.attempts -= 1

    @rule(who=st.integers(0, 1))
    def crash(self, who: int) -> None:
        self.dead.append(self.names[who])
        self.names[who] = f"{self.names[who][0]}{len(self.dead)}"
        self.queues[who] = StoreQueue(self.store.database, self.names[who])

    @precondition(lambda self: self.dead)
    @rule(who=st.integers(0, 1), limit=st.integers(1, 4))
    def rescue(self, who: int, limit: int) -> None:
        orphans = [k for k in self.kept.values() if k.owner in self.dead]
        taken = self.run_(self.queues[who].rescue(self.dead, limit))
        assert len(taken) == min(limit, len(orphans))
        assert {claimed.identity.mail_id for claimed in taken} <= {k.id for k in orphans}
        for claimed in taken:
            kept = self.kept[claimed.identity.mail_id]
            assert claimed.token == kept.token  # so that a journal, or a late reply, still fits
            kept.owner = self.names[who]
        self.rescued += taken

    @precondition(lambda self: self.rescued)
    @rule(data=st.data(), known=st.booleans(), choice=st.sampled_from(OnUncertain))
    def decide_on_a_rescued_one(self, data: st.DataObject, known: bool, choice: OnUncertain) -> None:
        claimed = self.rescued.pop(data.draw(st.integers(0, len(self.rescued) - 1)))
        now = self.tick()
        self._settle(claimed, give_back(claimed, now) if known else recover(claimed, choice, now))

    @rule(who=st.integers(0, 1))
    def crash_and_be_taken_over(self, who: int) -> None:
        """As it mostly goes; the dead one's claims may still be settled late."""
        self.crash(who)
        self.rescue(1 - who, ALL)
        while self.rescued:
            claimed, now = self.rescued.pop(), self.tick()
            self._settle(claimed, recover(claimed, OnUncertain.RESEND, now))

    @rule(who=st.integers(0, 1))
    def expire(self, who: int) -> None:
        now = self.tick()
        late = {
            k.id
            for k in self.kept.values()
            if k.state in {"ready", "scheduled", "held"} and k.expires is not None and k.expires <= now
        }
        self.tokens += 1
        taken = self.run_(self.queues[who].claim_expired(now, ALL, f"token {self.tokens}"))
        assert {claimed.identity.mail_id for claimed in taken} == late
        for claimed in taken:
            kept = self.kept[claimed.identity.mail_id]
            kept.state, kept.token = "sending", claimed.token
            self._settle(claimed, expire(claimed, now))
            assert kept.state == "expired"

    @rule()
    def promote(self) -> None:
        now = self.tick()
        self.run_(self.queues[0].promote(now, ALL))
        for kept in self.kept.values():
            if kept.state == "scheduled" and kept.due is not None and kept.due <= now:
                kept.state = "ready"

    @rule()
    def unhold(self) -> None:
        while self.run_(self.queues[0].unhold(1)).more:
            pass
        for kept in self.kept.values():
            if kept.state == "held" and kept.batch in self.ending:
                kept.state = "ready"
        self.ending.clear()

    def _settle(self, claimed: Claimed, settlement: Settlement) -> None:
        (written,) = self.run_(self.queues[0].settle([settlement]))
        kept = self.kept.get(claimed.identity.mail_id)
        if kept is None:
            assert not written
            return
        holds = kept.token == claimed.token and not kept.final
        stands = kept.state == settlement.state.value == "ready" and kept.attempts == settlement.attempts
        stands = stands and kept.due == settlement.due
        assert written == (holds or (stands and kept.token is None))
        if holds and not stands:
            kept.settled(settlement)

    # What is always so

    @invariant()
    def the_queue_is_as_the_model_says(self) -> None:
        """Every message in one place, with one owner, its attempts, and every outcome told once."""
        rows = self._rows()
        expected = {k.id: (k.state, k.attempts, k.token, k.owner) for k in self.kept.values()}
        assert {id_: tuple(row) for id_, row in rows.items()} == expected
        with self.store.database.engine.connect() as connection:
            told = connection.execute(
                text("SELECT m.id, e.type, count(*) FROM events e JOIN messages m ON m.pk = e.message_pk GROUP BY 1, 2")
            ).all()
            left = connection.execute(
                text("SELECT type, count(*) FROM events WHERE message_pk NOT IN (SELECT pk FROM messages) GROUP BY 1")
            ).all()
        assert {(id_, type_): n for id_, type_, n in told} == {
            (k.id, type_): n for k in self.kept.values() for type_, n in k.told.items()
        }
        assert Counter(dict(map(tuple, left))) == sum((k.told for k in self.deleted), Counter())  # G9

    def _rows(self) -> dict[str, list[Any]]:
        with self.store.database.engine.connect() as connection:
            found = connection.execute(text("SELECT id, state, attempts, token, instance_id FROM messages")).all()
        return {id_: list(rest) for id_, *rest in found}


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that the rules run their calls on, one after the other."""
    made = asyncio.new_event_loop()
    yield made
    made.close()


def test_any_order_of_verbs_leaves_the_queue_as_the_model_has_it(
    store_url: str, loop: asyncio.AbstractEventLoop
) -> None:
    store = loop.run_until_complete(open_test_store(store_url))
    accounts = [loop.run_until_complete(with_account(store, account_id=f"a{n}")) for n in range(2)]

    class Bound(QueueBesideModel):
        def __init__(self) -> None:
            super().__init__(store, accounts, loop)

    try:
        run_state_machine_as_test(Bound, settings=BOUNDED)
    finally:
        loop.run_until_complete(store.close())
