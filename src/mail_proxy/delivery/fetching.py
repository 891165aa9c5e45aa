"""Fetching attachments before their messages get a sender: no SMTP session and no sending slot waits for a web server.

    lane ──▶ messages whose attachments are elsewhere ──▶ a place, tenants in turn ──▶ fetched ──▶ lane

A place is kept until the message is sent or put back, so that there is a bound to what lies fetched.
"""  # G11

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from enum import Enum
from functools import partial

import anyio
import structlog

from mail_proxy.delivery.files import Files
from mail_proxy.delivery.in_hand import Room
from mail_proxy.delivery.journal import JournalUnwritable
from mail_proxy.delivery.lane import Job, Lane
from mail_proxy.delivery.outages import Start
from mail_proxy.delivery.sender import Sender
from mail_proxy.delivery.settings import DeliverySettings
from mail_proxy.delivery.shares import Slots
from mail_proxy.domain.claim import Claimed
from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.ports.clock import Clock

MOST_WAITING = 100
"""Messages of one tenant that wait for a place; with more, nothing is claimed for it until they are fewer."""

log = structlog.get_logger(__name__)


class FetchEnd(Enum):
    """What became of a message whose attachments were to be fetched."""

    FETCHED = "fetched"
    SETTLED = "settled"
    """Its outcome is handed over: it has expired, or an attachment cannot be had."""
    UNTOUCHED = "untouched"
    """It is to be given back."""


Done = Callable[[Lane, Job, FetchEnd], Awaitable[None]]


class Fetching:
    """Fetches what lanes hand over, and tells `done` what became of each.

    `start` runs some work beside the caller. A hung server of one tenant takes its share of the places, and no more.
    """

    def __init__(
        self,
        sender: Sender,
        settings: DeliverySettings,
        clock: Clock,
        start: Start,
        done: Done,
        want: Callable[[int], None],
    ) -> None:
        """`want` says that an account that was turned away may be claimed for again."""
        self._sender = sender
        self._clock = clock
        self._start = start
        self._done = done
        self._want = want
        self._turned_away: dict[str, dict[int, None]] = {}
        self._places = Slots(settings.max_fetches)
        self._room = Room(settings.max_fetched)
        self._waiting: dict[str, deque[tuple[Lane, Job]]] = {}
        self._running: set[anyio.CancelScope] = set()
        self._idle = anyio.Event()
        self._stopping = False

    def put(self, lane: Lane, job: Job) -> None:
        """Fetch the attachments of a message as soon as its tenant has a place."""
        lane.fetching += 1
        self._waiting.setdefault(lane.account.tenant_id, deque()).append((lane, job))
        self._go_on()

    def crowded(self, tenant_id: str) -> bool:
        """True while so much of a tenant waits that no more of it should be claimed."""
        return len(self._waiting.get(tenant_id, ())) >= MOST_WAITING

    def turn_away(self, tenant_id: str, account_pk: int) -> None:
        """Remember an account that is to be claimed for when its tenant has fewer waiting."""
        self._turned_away.setdefault(tenant_id, {})[account_pk] = None

    def take_back(self, lane: Lane) -> Sequence[Claimed]:
        """Take back what has not been begun for a lane, to give it back."""
        waiting = self._waiting.pop(lane.account.tenant_id, deque())
        mine = [job.claimed for each, job in waiting if each is lane]
        others = deque((each, job) for each, job in waiting if each is not lane)
        if others:
            self._waiting[lane.account.tenant_id] = others
        lane.fetching -= len(mine)
        self._let_in(lane.account.tenant_id)
        return mine

    async def stop(self) -> None:
        """Break off what is being fetched; returns when all of it has been handed back."""  # G6
        self._stopping = True
        for scope in list(self._running):
            scope.cancel()
        while self._running:
            self._idle = anyio.Event()
            await self._idle.wait()

    def _go_on(self) -> None:
        given = True
        while given and self._places.any_free and not self._stopping:
            given = False
            for tenant_id in list(self._waiting):
                given = self._begin_one_of(tenant_id) or given

    def _begin_one_of(self, tenant_id: str) -> bool:
        """Give a place to the next message of a tenant; False if there is none, or its share is used up."""
        waiting = self._waiting.get(tenant_id)
        if not waiting or not self._room.open_to(tenant_id) or not self._places.take(tenant_id):
            return False
        lane, job = waiting.popleft()
        if not waiting:
            del self._waiting[tenant_id]
        scope = anyio.CancelScope()
        self._running.add(scope)
        self._start(partial(self._fetch, job=job, scope=scope), lane, "fetch for")
        self._let_in(tenant_id)
        return True

    def _let_in(self, tenant_id: str) -> None:
        if len(self._waiting.get(tenant_id, ())) <= MOST_WAITING // 2:
            for account_pk in self._turned_away.pop(tenant_id, {}):
                self._want(account_pk)

    async def _fetch(self, lane: Lane, *, job: Job, scope: anyio.CancelScope) -> None:
        held = _Held(self._room, lane.account.tenant_id)
        files: Files | None = None
        end = FetchEnd.UNTOUCHED
        try:
            with scope:
                files = await self._sender.prepare(lane.account, job.claimed, held.grown)
                end = FetchEnd.SETTLED if files is None else FetchEnd.FETCHED
        except (StoreUnavailable, JournalUnwritable) as error:
            log.warning("nothing can be fetched for now", reason=str(error))
            with scope:
                await self._clock.sleep(1.0)
        finally:
            lane.fetching -= 1
            if files is None:
                self._free(held)
            else:
                files.on_close = partial(self._free, held)
                job = replace(job, files=files)
            with anyio.CancelScope(shield=True):  # it is in nobody else's hands
                await self._done(lane, job, end)
            self._running.discard(scope)
            self._idle.set()

    def _free(self, held: _Held) -> None:
        held.give_back()
        self._places.give_back(held.tenant_id)
        self._go_on()


class _Held:
    """The bytes that one message's attachments take."""

    def __init__(self, room: Room, tenant_id: str) -> None:
        self._room = room
        self.tenant_id = tenant_id
        self._size = 0

    def grown(self, size: int) -> None:
        """Count bytes in."""
        self._size += size
        self._room.take(self.tenant_id, size)

    def give_back(self) -> None:
        """Count all of them out."""
        self._room.give_back(self.tenant_id, self._size)
