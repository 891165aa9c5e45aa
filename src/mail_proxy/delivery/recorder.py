"""Writing outcomes down, many at a time, and not going on while they cannot be written."""  # G12

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import NamedTuple

import structlog

from mail_proxy.domain.claim import Claimed
from mail_proxy.domain.errors import StoreBroken, StoreUnavailable
from mail_proxy.domain.message import MessageState
from mail_proxy.domain.poison import reduced
from mail_proxy.domain.report import EventType
from mail_proxy.domain.settlement import Settlement
from mail_proxy.ports.clock import Clock
from mail_proxy.ports.observers import Meter
from mail_proxy.ports.queue import Queue

LONGEST_PAUSE = 5.0
MOST_TOGETHER = 500
MOST_UNRECORDED = 1000
"""Outcomes that may wait for their commit before no further dot goes out."""  # G12

log = structlog.get_logger(__name__)


class _Waiting(NamedTuple):
    claimed: Claimed
    settlement: Settlement
    written: asyncio.Future[bool]
    reduced: bool = False
    """True when the store has refused it already for what was in it."""


class Recorder:
    """Takes settlements from the senders and has them committed together.

    A settlement whose commit fails because the store is away is tried again until it is written: what a server has
    answered is never forgotten while this process lives. `on_events` is told
    the tenant of each new event, `on_settled` pk and token of each settlement that the database has judged, `on_ready`
    the account of each message that is to go on at once.
    """

    def __init__(
        self,
        queue: Queue,
        clock: Clock,
        meter: Meter,
        on_events: Callable[[Iterable[str]], None],
        on_settled: Callable[[int, str], None],
        on_ready: Callable[[int], None],
    ) -> None:
        self._queue = queue
        self._clock = clock
        self._meter = meter
        self._on_events = on_events
        self._on_settled = on_settled
        self._on_ready = on_ready
        self._waiting: list[_Waiting] = []
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._room = asyncio.Event()
        self._room.set()

    def record(self, claimed: Claimed, settlement: Settlement) -> asyncio.Future[bool]:
        """Hand a settlement over; the future tells whether it was written (False: the claim was lost)."""
        written: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(claimed, settlement, written))
        self._idle.clear()
        self._news.set()
        if len(self._waiting) >= MOST_UNRECORDED:
            self._room.clear()
        return written

    def submit(self, claimed: Claimed, settlement: Settlement) -> None:
        """Hand a settlement over whose writing nobody waits for, but `drained`."""
        _ = self.record(claimed, settlement)

    def told_of_limit(self, tenant_id: str, account_id: str, *, events: int) -> None:
        """Take note that a claim has told so many messages, by events, that a rate limit holds them up."""
        for _ in range(events):
            self._meter.deferred(tenant_id, account_id)
        if events:
            self._on_events([tenant_id] * events)

    @property
    def available(self) -> bool:
        """False while the store does not take settlements, or has to catch up."""
        return self._room.is_set()

    async def room(self) -> None:
        """Return when another outcome can be taken: no final dot goes out before."""  # G12
        await self._room.wait()

    async def run(self) -> None:
        """Write what is handed over until cancelled."""
        pause = 0.0
        most = MOST_TOGETHER
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                taken, self._waiting = self._waiting[:most], self._waiting[most:]
                try:
                    written = await self._queue.settle([each.settlement for each in taken])
                except StoreUnavailable as error:
                    self._waiting[:0] = taken
                    self._room.clear()
                    pause = min(max(pause * 2, 0.1), LONGEST_PAUSE)
                    log.warning("outcomes cannot be recorded", reason=error.sentence, waiting=len(self._waiting))
                    await self._clock.sleep(pause)
                except StoreBroken:
                    raise
                except Exception as error:  # noqa: BLE001 - it belongs to one of them, which is found out
                    most = max(len(taken) // 2, 1)
                    self._refused(taken, error)
                else:
                    pause = 0.0
                    most = min(most * 2, MOST_TOGETHER)
                    if len(self._waiting) < MOST_UNRECORDED:
                        self._room.set()
                    self._answer(taken, list(written))
            self._idle.set()

    def _refused(self, taken: list[_Waiting], error: Exception) -> None:
        """Take apart what the store refused for what is in it, until the one at fault is alone; reduce that one.

        What cannot be written at all stays claimed, for the next start to judge. Nothing is tried for ever.
        """  # G13
        one, *others = taken
        if others:
            self._waiting[:0] = taken
            return
        who = {"tenant_id": one.claimed.tenant_id, "id": one.claimed.identity.mail_id}
        if one.reduced:
            log.error("an outcome cannot be recorded at all", **who, reason=repr(error)[:500])
            if not one.written.done():
                one.written.set_result(False)
            return
        log.error("an outcome is refused by the store", **who, exc_info=error)
        settlement = reduced(one.claimed, one.settlement, error, self._clock.now())
        self._waiting.insert(0, one._replace(settlement=settlement, reduced=True))

    async def drained(self) -> None:
        """Return when everything that was handed over is written."""
        await self._idle.wait()

    def _answer(self, taken: list[_Waiting], written: list[bool]) -> None:
        news: list[str] = []
        for each, ok in zip(taken, written, strict=True):
            self._on_settled(each.claimed.pk, each.claimed.token)
            if ok:
                self._count(each.claimed, each.settlement)
                news += [each.claimed.tenant_id] * len(each.settlement.events)
                if each.settlement.state is MessageState.READY:
                    self._on_ready(each.claimed.account_pk)
            else:
                log.warning(
                    "claim lost, its outcome is not recorded",
                    tenant_id=each.claimed.tenant_id,
                    id=each.claimed.identity.mail_id,
                    outcome=each.settlement.state.value,
                )
            if not each.written.done():
                each.written.set_result(ok)
        if news:
            self._on_events(news)

    def _count(self, claimed: Claimed, settlement: Settlement) -> None:
        who = (claimed.tenant_id, claimed.account_id)
        if any(event.type is EventType.UNCERTAIN for event in settlement.events):
            self._meter.uncertain(*who)
        match settlement.state:
            case MessageState.SENT:
                self._meter.sent(*who)
            case MessageState.FAILED | MessageState.EXPIRED:
                self._meter.failed(*who)
                log.warning(
                    "message ended unsent",
                    tenant_id=claimed.tenant_id,
                    account_id=claimed.account_id,
                    id=claimed.identity.mail_id,
                    state=settlement.state.value,
                    attempts=settlement.attempts,
                    reply=settlement.reply,
                )
            case MessageState.SCHEDULED:
                self._meter.deferred(*who)
            case MessageState.HELD:  # G13
                self._meter.poison(*who)
                log.error(
                    "message held as poison",
                    tenant_id=claimed.tenant_id,
                    account_id=claimed.account_id,
                    id=claimed.identity.mail_id,
                    crashes=settlement.crashes,
                    reply=settlement.reply,
                )
            case _:
                pass
