"""The queue's verbs on one page; each is a module of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, bindparam, func, select

from mail_proxy.domain.backlog import Survey
from mail_proxy.domain.claim import Claimed, Demand, Taking
from mail_proxy.domain.message import NewMessage
from mail_proxy.domain.settlement import Settlement
from mail_proxy.ports.queue import Promotion, Stale, Taken
from mail_proxy.ports.secrets import Cipher
from mail_proxy.store import rescue
from mail_proxy.store.bodies import BodiesRequest, RemoveBodies
from mail_proxy.store.claim import Claim, ClaimRequest, refusal_token
from mail_proxy.store.database import Database
from mail_proxy.store.divert import Diversion, Divert
from mail_proxy.store.enqueue import Batch, Enqueue
from mail_proxy.store.operation import Company, Operation, Transaction
from mail_proxy.store.prepared import once
from mail_proxy.store.prune import Prune, PruneRequest
from mail_proxy.store.rescue import Registration
from mail_proxy.store.rows import among, pack, unpack
from mail_proxy.store.schedule import ClaimExpired, Due, ExpiryRequest, Promote, Unhold, ready_accounts
from mail_proxy.store.schema import messages
from mail_proxy.store.settle import Release, Settle
from mail_proxy.store.survey import Surveying
from mail_proxy.store.unanswered import PutBack, Remembered, Unanswered
from mail_proxy.store.usage import Usage, UsageSettings
from mail_proxy.store.waited_out import WaitedOut

OUTCOMES_WAIT = 0.005
"""Seconds: the flight journal has them meanwhile, and what is enqueued or claimed just then shares their commit."""
ENQUEUES, CLAIMS = 1, 2
"""Ranks of operations: enqueues share the directory's lock, claims lock the accounts that are limited."""


class StoreQueue:
    """Keeps the `Queue` port on SQLite and PostgreSQL."""

    def __init__(
        self, database: Database, instance_id: str, usage: UsageSettings | None = None, cipher: Cipher | None = None
    ) -> None:
        """`cipher` has the encryption key that the instance has as its own."""
        dialect = database.dialect
        self._database = database
        self._instance_id = instance_id
        self._key_id = None if cipher is None else cipher.key_id
        self._promote = once(Promote, dialect)
        self._unhold = once(Unhold, dialect)
        self._divert = once(Divert, dialect)
        self._claim_expired = once(ClaimExpired, dialect)
        self._digests = select(messages.c.id, messages.c.digest).where(
            messages.c.tenant_id == bindparam("tenant"), among(dialect, messages.c.id, "ids")
        )
        self._ready = ready_accounts(dialect)
        self._surveying = once(Surveying, dialect)
        counted = Usage(dialect, usage or UsageSettings())
        enqueue, claim = Enqueue(dialect, cipher), Claim(dialect, counted)
        settle, release = Settle(dialect, counted), once(Release, dialect)
        self._enqueue_op = Operation("enqueue", enqueue.run, lambda batch: batch.weight, rank=ENQUEUES)
        self._unanswered = Remembered()
        self._claim_op = Operation(
            "claim",
            claim.run,
            unanswered=lambda request: self._unanswered.claim(request.token, refusal_token(request.token)),
            rank=CLAIMS,
        )
        self._settle_op = Operation(
            "settle",
            settle.run_groups,
            lambda settlements: 1_000 * len(settlements),
            company=Company.OWN,
            patience=OUTCOMES_WAIT,
        )
        self._release_op = Operation("release", release.run, company=Company.OWN)
        self._promote_op = Operation("promote", self._promote.run)
        self._unhold_op = Operation("unhold", self._unhold.run)
        self._divert_op = Operation("divert", self._divert.run)
        self._claim_expired_op = Operation(
            "claim_expired",
            self._claim_expired.run,
            unanswered=lambda request: self._unanswered.expiry(request.token),
            repeats=False,  # it would not find again what it has taken
        )
        self._rescue_op = Operation(
            "rescue",
            once(rescue.RescueClaims, dialect).run,
            unanswered=lambda request: self._unanswered.rescue(request.taken),
            repeats=False,
        )
        self._waited_out = once(WaitedOut, dialect)
        self._claim_waited_out_op = Operation(
            "claim_waited_out",
            self._waited_out.run,
            unanswered=lambda request: self._unanswered.expiry(request.token),
            repeats=False,  # as claim_expired
        )
        self._put_back_op = Operation("put_back", once(PutBack, dialect).run)
        self._prune_op = Operation("prune", once(Prune, dialect).run)
        self._bodies = once(RemoveBodies, dialect)
        self._remove_bodies_op = Operation("remove_bodies", self._bodies.run)
        self._beat_op = Operation("beat", _beat)

    async def enqueue(self, new: Sequence[NewMessage], directory_version: int) -> Sequence[Taken]:
        """See `Queue.enqueue`."""
        taken = await self._database.write(self._enqueue_op, Batch(tuple(new), directory_version))
        if taken is None:
            raise Stale
        return taken

    async def digests(self, tenant_id: str, ids: Sequence[str]) -> Mapping[str, str]:
        """See `Queue.digests`."""
        asked = {"tenant": tenant_id, "ids": pack(ids)}

        def look(connection: Connection) -> dict[str, str]:
            return {row.id: row.digest for row in connection.execute(self._digests, asked)}

        return await self._database.read(look)

    async def claim(self, demands: Sequence[Demand], token: str, now: float) -> Taking:
        """See `Queue.claim`."""
        request = ClaimRequest(tuple(demands), token, self._instance_id, now)
        return await self._database.write(self._claim_op, request)

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        """See `Queue.settle`."""
        return await self._database.write(self._settle_op, settlements)

    async def release(self, claims: Sequence[Claimed]) -> None:
        """See `Queue.release`."""
        await self._database.write(self._release_op, claims)

    async def promote(self, now: float, limit: int) -> Promotion:
        """See `Queue.promote`. Writes only when something is due."""
        next_due = await self._database.read(self._promote.next_due)
        if next_due is None or next_due > now:
            return Promotion(frozenset(), more=False, next_due=next_due)
        return await self._database.write(self._promote_op, Due(now, limit))

    async def unhold(self, limit: int) -> Promotion:
        """See `Queue.unhold`. Writes only when a suspension is ending."""
        if not await self._database.read(self._unhold.any_ending):
            return Promotion(frozenset(), more=False, next_due=None)
        return await self._database.write(self._unhold_op, Due(0.0, limit))

    async def claim_expired(self, now: float, limit: int, token: str) -> Sequence[Claimed]:
        """See `Queue.claim_expired`. Writes only when something has expired."""
        if not await self._database.read(lambda connection: self._claim_expired.any_expired(connection, now)):
            return ()
        request = ExpiryRequest(now, limit, token, self._instance_id)
        return await self._database.write(self._claim_expired_op, request)

    async def divert(self, account_pk: int, fallback_pk: int, limit: int) -> int:
        """See `Queue.divert`. Writes only when something is ready."""
        if not await self._database.read(lambda connection: self._divert.any_ready(connection, account_pk)):
            return 0
        return await self._database.write(self._divert_op, Diversion(account_pk, fallback_pk, limit))

    async def claim_waited_out(self, before: float, limit: int, token: str) -> Sequence[Claimed]:
        """See `Queue.claim_waited_out`. Writes only when something has waited too long."""
        if not await self._database.read(lambda connection: self._waited_out.any(connection, before, limit)):
            return ()
        request = ExpiryRequest(before, limit, token, self._instance_id)
        return await self._database.write(self._claim_waited_out_op, request)

    async def ready_accounts(self) -> Sequence[int]:
        """See `Queue.ready_accounts`."""
        return await self._database.read(
            lambda connection: [pk for (pk,) in unpack(connection.execute(self._ready).scalar())]
        )

    async def instances(self) -> Mapping[str, int]:
        """See `Queue.instances`."""
        return await self._database.read(rescue.counters)

    async def beat(self, now: float) -> bool:
        """See `Queue.beat`. Also puts back what calls without an answer have taken."""
        known = await self._database.write(self._beat_op, Registration(self._instance_id, now, self._key_id))
        await self.put_back_unanswered()
        return known

    async def put_back_unanswered(self) -> None:
        """Put back what was claimed by calls whose answer reached nobody."""
        known = self._unanswered.all()
        if known != Unanswered():
            await self._database.write(self._put_back_op, (self._instance_id, known))
            self._unanswered.were_put_back(known)

    async def rescue(self, dead: Sequence[str], limit: int) -> Sequence[Claimed]:
        """See `Queue.rescue`."""
        request = rescue.Rescue(tuple(dead), self._instance_id, limit)
        return await self._database.write(self._rescue_op, request)

    async def prune(self, finished_before: float, limit: int, silent_tenants: Sequence[str]) -> int:
        """See `Queue.prune`."""
        return await self._database.write(self._prune_op, PruneRequest(finished_before, limit, tuple(silent_tenants)))

    async def remove_bodies(self, finished_before: float, now: float, limit: int) -> int:
        """See `Queue.remove_bodies`. Writes only when there is something to remove."""
        if not await self._database.read(lambda connection: self._bodies.any(connection, finished_before)):
            return 0
        return await self._database.write(self._remove_bodies_op, BodiesRequest(finished_before, now, limit))

    async def count_pending(self) -> int:
        """See `Queue.count_pending`. Reads an index, on a reader's connection."""
        return await self._database.read(_count_pending)

    async def survey(self, many: int) -> Survey:
        """See `Queue.survey`."""
        return await self._database.read(lambda connection: self._surveying.run(connection, many))


def _beat(transaction: Transaction, beats: Sequence[Registration]) -> Sequence[bool]:
    known = {}
    for beat in {each.id: each for each in beats}.values():
        known[beat.id] = bool(transaction.connection.execute(rescue.BEAT, {"instance": beat.id}).rowcount)
        if not known[beat.id]:
            rescue.register(transaction.connection, beat)
    return [known[beat.id] for beat in beats]


_PENDING = select(func.count()).select_from(messages).where(messages.c.finished_ts.is_(None))


def _count_pending(connection: Connection) -> int:
    return connection.execute(_PENDING).scalar_one()
