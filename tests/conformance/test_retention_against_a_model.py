"""Whatever is sent, told, removed and retained, in whatever order: no outcome is lost before it is told."""  # G9

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random

from mail_proxy.domain.account import Account
from mail_proxy.domain.attempt import Answer
from mail_proxy.domain.report import StoredEvent
from mail_proxy.ports.message_changes import Deletion
from mail_proxy.store.store import Store
from tests.conformance.steps import ACCEPTED, LATER, NOW, REFUSED, attempt
from tests.support.stores import a_message, enqueue, with_account

TENANTS = ("acme", "zzz")
SEEDS = range(5)
STEPS = 120
ALL = 1000
WANTED = {"sent", "failed", "deferred", "cancelled", "requeued", "pruned", "kept untold", "removed untold"}
"""What has to have come about, for the histories to say something."""
ANSWERS = ((ACCEPTED, "sent"), (REFUSED, "failed"), (LATER, "deferred"))


@dataclass(eq=False)
class Kept:
    """A message that the model says is there. Its id may have been another's before."""

    tenant: str
    id: str
    state: str = "waiting"
    finished: float | None = None


@dataclass(eq=False)
class Outcome:
    """Something that its tenant is to be told, and was not yet."""

    of: Kept
    type: str
    ts: float
    left: bool = False
    """Somebody has removed its message by hand."""


class History:
    """A random history of one database, and what has been promised of it."""

    def __init__(self, store: Store, accounts: dict[str, Account], rng: Random) -> None:
        self.store, self.accounts, self.rng = store, accounts, rng
        self.now = NOW
        self.kept: list[Kept] = []
        self.untold: list[Outcome] = []
        self.silent: set[str] = set()
        self.submitted = 0
        self.took_place: set[str] = set()
        self.steps: list[Callable[[], Awaitable[None]]] = [
            *(self.submit, self.submit, self.submit_again, self.attempt, self.attempt, self.attempt),
            *(self.acknowledge, self.acknowledge, self.requeue, self.requeue, self.delete, self.delete, self.clean),
            *(self.prune_some, self.prune_all, self.turn_endpoint, self.remove_bodies),
        ]

    async def step(self) -> None:
        """Do one thing, some time after the last one, and look whether all is as promised."""
        self.now += self.rng.choice((0.01, 1.0, 100.0))
        await self.rng.choice(self.steps)()
        await self.look()

    # What becomes of messages

    async def submit(self) -> None:
        """New messages, for one tenant."""
        tenant = self.rng.choice(TENANTS)
        for _ in range(self.rng.randint(1, 4)):
            self.submitted += 1
            await self._enqueue(tenant, f"m{self.submitted}", "queued")

    async def submit_again(self) -> None:
        """An id that was there before: the same message while it is kept, another one when it has gone."""
        if self.submitted:
            tenant, id_ = self.rng.choice(TENANTS), f"m{self.rng.randint(1, self.submitted)}"
            there = any((each.tenant, each.id) == (tenant, id_) for each in self.kept)
            await self._enqueue(tenant, id_, "duplicate" if there else "queued")

    async def _enqueue(self, tenant: str, id_: str, verdict: str) -> None:
        assert await enqueue(self.store, a_message(id_, self.accounts[tenant])) == [verdict]
        if verdict == "queued":
            self.kept.append(Kept(tenant, id_))

    async def attempt(self) -> None:
        """All that waits of a tenant gets one answer; what is put off is due again at once."""
        tenant = self.rng.choice(TENANTS)
        answer: Answer
        answer, word = self.rng.choice(ANSWERS)
        await self.store.queue.promote(math.inf, ALL)
        await attempt(self.store, self.accounts[tenant], answer, limit=ALL, now=self.now)
        tried = [each for each in self.kept if each.tenant == tenant and each.finished is None]
        found = {each.id: each for each in tried}
        news = [(told.id, told.word) for told in await self._pending(tenant)][self._count(tenant) :]
        assert {id_ for id_, _ in news} == set(found)
        assert len(news) == len(found)
        for id_, became in news:  # the last of its attempts ends it
            assert became in {word, "failed"}
            self._happened(found[id_], became)

    def _happened(self, kept: Kept, word: str) -> None:
        self.untold.append(Outcome(kept, word, self.now))
        kept.state = word
        if word != "deferred":
            kept.finished = self.now
        self.took_place.add(word)

    async def requeue(self) -> None:
        """One that failed is sent again: it is as unfinished as a new one; what is untold of it stays so."""
        failed = [each for each in self.kept if each.state == "failed"]
        if self.kept:
            kept = self.rng.choice(failed or self.kept)
            done = await self.store.message_changes.requeue([await self._pk(kept)], self.now)
            if done.queued:
                assert kept.state == "failed"
                kept.state, kept.finished = "waiting", None
                self.took_place.add("requeued")

    # What is told

    async def acknowledge(self) -> None:
        """A tenant takes some of what it was told, in any order, and some of it twice."""
        tenant = self.rng.choice(TENANTS)
        pending = await self.store.outbox.pending(tenant, ALL)
        mine = [each for each in self.untold if each.of.tenant == tenant]
        share = self.rng.choice((0.2, 0.5, 1.0))
        chosen = [n for n in range(len(pending)) if self.rng.random() < share]
        self.rng.shuffle(chosen)
        ids = [pending[n].event_id for n in chosen]
        await self.store.outbox.acknowledge(ids, self.now)
        await self.store.outbox.acknowledge(ids[:1], self.now)
        told = {id(mine[n]) for n in chosen}
        self.untold = [each for each in self.untold if id(each) not in told]

    async def turn_endpoint(self) -> None:
        """A tenant gets an endpoint, or has none any more."""
        self.silent = set(self.rng.choice(((), (), TENANTS[:1], TENANTS[1:])))

    # What is removed

    async def delete(self) -> None:
        """By hand, whatever it is: what waits is cancelled and told, what is finished goes, but is told."""
        if self.kept:
            kept = self.rng.choice(self.kept)
            silent = kept.tenant in self.silent
            became = await self.store.message_changes.delete([await self._pk(kept)], self.now, silent=silent)
            if kept.finished is None:
                assert list(became.values()) == [Deletion.CANCELLED]
                self._happened(kept, "cancelled")
            else:
                assert list(became.values()) == [Deletion.REMOVED]
                self._removed_by_hand([kept])

    async def clean(self) -> None:
        """By hand, what is finished and has nothing left to be told."""
        tenant, before = self.rng.choice(TENANTS), self._some_time_ago()
        changes, silent = self.store.message_changes, tenant in self.silent
        found = await changes.told(tenant, before, 0, silent=silent)
        gone = [each for each in self._may_go(before) if each.tenant == tenant]
        some = [await self._pk(each) for each in self.kept if each.tenant == tenant]  # found a while ago
        pks = self.rng.choice((found.pks, some))
        assert await changes.clean(pks, before, silent=silent) == len(gone)
        self._removed_by_hand(gone)

    def _removed_by_hand(self, gone: Sequence[Kept]) -> None:
        self._removed(gone)
        self.took_place.update({"removed untold"} if any(each.of in gone for each in self.untold) else set())
        self.untold = [each for each in self.untold if each.of not in gone or each.of.tenant not in self.silent]
        for outcome in self.untold:
            outcome.left = outcome.left or outcome.of in gone

    async def prune_all(self) -> None:
        """Retention, until nothing is left to do."""
        before = self._some_time_ago()
        while await self.store.queue.prune(before, self.rng.choice((2, ALL)), sorted(self.silent)):
            pass
        self._pruned(self._may_go(before), before)
        self.untold = [each for each in self.untold if not self._left_for_nobody(each, before)]

    async def prune_some(self) -> None:
        """Retention that ends early: what has gone was allowed to."""
        before, limit = self._some_time_ago(), self.rng.randint(1, 4)
        may_go = self._may_go(before)
        count = await self.store.queue.prune(before, limit, sorted(self.silent))
        assert count <= limit
        assert count >= min(limit, len(may_go))
        there = {key for tenant in TENANTS for key in await self._there(tenant)}
        gone = [each for each in may_go if (each.tenant, each.id) not in there]
        assert len(gone) <= count
        self._pruned(gone, before)
        left = {told for tenant in TENANTS for told in await self._pending(tenant)}
        self.untold = [
            each
            for each in self.untold
            if not self._left_for_nobody(each, before)
            or Told(each.of.tenant, each.of.id, each.type, round(each.ts, 2)) in left
        ]

    def _some_time_ago(self) -> float:
        return self.now - self.rng.choice((-1.0, 50.0, 500.0))

    def _may_go(self, before: float) -> list[Kept]:
        untold = {id(each.of) for each in self.untold}
        return [
            each
            for each in self.kept
            if each.finished is not None
            and each.finished < before
            and (each.tenant in self.silent or id(each) not in untold)
        ]

    def _left_for_nobody(self, outcome: Outcome, before: float) -> bool:
        return outcome.left and outcome.ts < before and outcome.of.tenant in self.silent

    def _pruned(self, gone: Sequence[Kept], before: float) -> None:
        self._removed(gone)
        self.took_place.update({"pruned"} if gone else set())
        if any(each.of.finished is not None and each.ts < before and each.of not in gone for each in self.untold):
            self.took_place.add("kept untold")
        self.untold = [each for each in self.untold if each.of not in gone]

    def _removed(self, gone: Sequence[Kept]) -> None:
        self.kept = [each for each in self.kept if each not in gone]

    async def remove_bodies(self) -> None:
        """What messages say is nobody's outcome."""
        await self.store.queue.remove_bodies(self._some_time_ago(), self.now, self.rng.choice((1, ALL)))

    async def end(self) -> None:
        """Once all is over and told, nothing stays."""
        for tenant in TENANTS:
            for _ in range(3):
                await self.store.queue.promote(math.inf, ALL)
                await attempt(self.store, self.accounts[tenant], REFUSED, limit=ALL, now=self.now)
            pending = await self.store.outbox.pending(tenant, ALL)
            await self.store.outbox.acknowledge([each.event_id for each in pending], self.now)
        while await self.store.queue.prune(math.inf, ALL, ()):
            pass
        self.kept, self.untold = [], []
        await self.look()

    # What is always so

    async def look(self) -> None:
        """Every outcome is told, in order, until it is acknowledged; what is to stay is there, and nothing else."""
        for tenant in TENANTS:
            pending = [(told.id, told.word) for told in await self._pending(tenant)]
            assert pending == [(each.of.id, each.type) for each in self.untold if each.of.tenant == tenant]
            assert await self._there(tenant) == {(tenant, each.id) for each in self.kept if each.tenant == tenant}

    async def _there(self, tenant: str) -> set[tuple[str, str]]:
        ids = [f"m{n}" for n in range(1, self.submitted + 1)]
        return {(tenant, id_) for id_ in await self.store.message_changes.find(tenant, ids)}

    async def _pk(self, kept: Kept) -> int:
        return (await self.store.message_changes.find(kept.tenant, [kept.id]))[kept.id]

    def _count(self, tenant: str) -> int:
        return sum(each.of.tenant == tenant for each in self.untold)

    async def _pending(self, tenant: str) -> list[Told]:
        return [Told.of(each) for each in await self.store.outbox.pending(tenant, ALL)]


@dataclass(frozen=True)
class Told:
    """What a report would say of an outcome."""

    tenant: str
    id: str
    word: str
    ts: float
    """A store gives it to the millisecond."""

    @classmethod
    def of(cls, stored: StoredEvent) -> Told:
        """Read its entry, as its tenant does."""
        entry = json.loads(stored.event.entry)
        return cls(stored.event.tenant_id, entry["id"], stored.event.type.value, round(stored.event.ts, 2))


async def test_no_outcome_is_lost_untold_and_nothing_goes_that_should_stay(store: Store) -> None:
    took_place: set[str] = set()
    accounts = {tenant: await with_account(store, tenant) for tenant in TENANTS}
    for seed in SEEDS:
        history = History(store, accounts, Random(seed))
        for _ in range(STEPS):
            await history.step()
        took_place |= history.took_place
        await history.end()
    assert took_place >= WANTED
