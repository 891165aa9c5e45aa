"""Stand-ins for what the reporter meets, in memory, each keeping the promises of its port."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, TypeAlias

import anyio
from typing_extensions import override

from mail_proxy.domain.account import Account
from mail_proxy.domain.attempt import Phase
from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.domain.message import Priority
from mail_proxy.domain.report import Event, EventType, StoredEvent
from mail_proxy.domain.sync_lease import Behind, SyncLease, SyncMemory, SyncStanding, Waiting
from mail_proxy.domain.tenant import Tenant
from mail_proxy.ports.clock import Clock
from mail_proxy.ports.observers import Meter, Observers
from mail_proxy.ports.outbox import Outbox, SyncLeases
from mail_proxy.ports.report_sink import ReportSink, SinkAnswer
from mail_proxy.reporting.reporter import Reporter, Roster
from mail_proxy.reporting.settings import ReportingSettings
from mail_proxy.reporting.turns import Turns
from mail_proxy.runtime.tracing import NoTracer

OK = SinkAnswer(200, b'{"ok": true}')


def answer(
    fields: Mapping[str, object] | None = None, status: int = 200, retry_after: float | None = None
) -> SinkAnswer:
    """An answer with a JSON body."""
    return SinkAnswer(status, json.dumps({"ok": True} if fields is None else fields).encode(), retry_after)


def event(message: int, type_: EventType = EventType.SENT, tenant_id: str = "acme", text: str = "") -> Event:
    """An event of message `M<number>`."""
    entry = {"tenant_id": tenant_id, "id": f"M{message}", "pk": str(message), "event": type_.value, "text": text}
    return Event(tenant_id, message, type_, 1_760_000_000.0, json.dumps(entry))


class MemoryOutbox(Outbox):
    """Keeps events in a list; can be made unavailable, or to hang in `acknowledge`."""

    def __init__(self) -> None:
        self.stored: list[StoredEvent] = []
        self.reported: dict[int, float] = {}
        self.broken: set[str] = set()
        """Names of methods that raise `StoreUnavailable`."""
        self.before_acknowledge: Callable[[], Awaitable[None]] | None = None
        self.lost: set[str] = set()
        """Tenants whose turn another instance has by now."""
        self.after_poll: Callable[[], Awaitable[None]] | None = None
        """Awaited once the tenants with events are known, before they are told."""
        self.memories: dict[str, SyncMemory] = {}
        """What the database knows of reporting to each tenant."""
        self.reads = 0
        self._acknowledged = asyncio.Event()

    def write(self, *events: Event) -> list[int]:
        """Store events as a settlement does; return their ids."""
        new = [StoredEvent(len(self.stored) + n + 1, each) for n, each in enumerate(events)]
        self.stored += new
        return [each.event_id for each in new]

    def unreported(self, tenant_id: str = "acme") -> list[int]:
        return [each.event_id for each in self._open(tenant_id)]

    async def all_reported(self, tenant_id: str = "acme") -> None:
        """Return once the tenant has taken everything."""
        while self.unreported(tenant_id):
            self._acknowledged.clear()
            await self._acknowledged.wait()

    @override
    async def tenants_with_events(self) -> Sequence[Waiting]:
        self._check("tenants_with_events")
        waiting = sorted({each.event.tenant_id for each in self.stored if each.event_id not in self.reported})
        found = [Waiting(id_, self._open(id_)[0].event.ts, self.memories.get(id_)) for id_ in waiting]
        if self.after_poll is not None:
            await self.after_poll()
        return found

    @override
    async def pending(self, tenant_id: str, limit: int, after: int = 0) -> Sequence[StoredEvent]:
        self._check("pending")
        self.reads += 1
        return [each for each in self._open(tenant_id) if each.event_id > after][:limit]

    @override
    async def acknowledge(self, event_ids: Sequence[int], now: float, lease: SyncLease | None = None) -> bool:
        if self.before_acknowledge is not None:
            await self.before_acknowledge()
        self._check("acknowledge")
        if lease is not None and lease.tenant_id in self.lost:
            return False
        for event_id in event_ids:
            self.reported.setdefault(event_id, now)
        self._acknowledged.set()
        return True

    def _open(self, tenant_id: str) -> list[StoredEvent]:
        return [s for s in self.stored if s.event.tenant_id == tenant_id and s.event_id not in self.reported]

    def _check(self, method: str) -> None:
        if method in self.broken:
            raise StoreUnavailable("the disk is full")


class MemoryLeases(SyncLeases):
    """Turns of this one reporter; another instance can be given a tenant's."""

    def __init__(self) -> None:
        self.elsewhere: set[str] = set()
        self.memory: SyncMemory | None = None
        """What is handed on with the next turn."""
        self.term: int | None = 0
        """What the others think of this instance."""
        self.asked = 0
        """How often a turn was wanted."""
        self.given_back: list[SyncMemory] = []

    @override
    async def take(self, tenant_id: str) -> SyncLease | None:
        self.asked += 1
        memory, self.memory = self.memory, None
        return None if tenant_id in self.elsewhere else SyncLease(tenant_id, "token", memory)

    @override
    async def release(self, lease: SyncLease, memory: SyncMemory) -> None:
        self.given_back.append(memory)

    def turns(self, clock: Clock) -> Turns:
        return Turns(self, lambda: self.term, clock, Random(7), lambda place: f"mark of {place}")


class MemoryDirectory(Roster):
    """Keeps tenants in a dict."""

    def __init__(self, *tenants: Tenant) -> None:
        self._tenants = {tenant.id: tenant for tenant in tenants}
        self._version = 1
        self.unavailable = False

    def put(self, tenant: Tenant) -> None:
        self._tenants[tenant.id] = tenant
        self._version += 1

    def change(self, tenant_id: str, **fields: Any) -> None:
        self.put(replace(self._tenants[tenant_id], **fields))

    def remove(self, tenant_id: str) -> None:
        del self._tenants[tenant_id]
        self._version += 1

    @property
    @override
    def version(self) -> int:
        return self._version

    @override
    async def refresh(self) -> int:
        if self.unavailable:
            raise StoreUnavailable("the database went away")
        return self._version

    @override
    async def tenant(self, tenant_id: str) -> Tenant | None:
        if self.unavailable:
            raise StoreUnavailable("the database went away")
        return self._tenants.get(tenant_id)

    @override
    async def tenants(self) -> Sequence[Tenant]:
        return list(self._tenants.values())

    @override
    async def account(self, account_pk: int) -> Account | None:
        return None

    @override
    async def owners_of(self, account_pks: Sequence[int]) -> Mapping[int, str]:
        return {}

    @override
    async def accounts_of(self, tenant_id: str) -> Sequence[Account]:
        return ()

    @override
    async def account_named(self, tenant_id: str, account_id: str) -> Account | None:
        return None

    @override
    async def account_owners(self, account_id: str) -> Sequence[str]:
        return ()

    @override
    async def only_tenant(self) -> str | None:
        return next(iter(self._tenants)) if len(self._tenants) == 1 else None


@dataclass(frozen=True, slots=True)
class Delivery:
    """A report that reached the sink."""

    at: float
    """By the monotonic clock."""
    tenant_id: str
    entries: list[dict[str, Any]]

    @property
    def event_ids(self) -> list[int]:
        return [int(entry["event_id"]) for entry in self.entries]

    @property
    def message_ids(self) -> list[str]:
        return [entry["id"] for entry in self.entries]


Scripted: TypeAlias = "SinkAnswer | Callable[[], Awaitable[SinkAnswer]]"


class ScriptedSink(ReportSink):
    """Answers each tenant from its script, then as `by_default` says (or 200). A script may also be awaited."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._scripts: dict[str, deque[Scripted]] = {}
        self.by_default: dict[str, Scripted] = {}
        self.deliveries: list[Delivery] = []
        self.at_once = 0
        self.most_at_once = 0

    def script(self, *answers: Scripted, tenant_id: str = "acme") -> None:
        self._scripts.setdefault(tenant_id, deque()).extend(answers)

    def to(self, tenant_id: str) -> list[Delivery]:
        return [each for each in self.deliveries if each.tenant_id == tenant_id]

    @override
    def has_endpoint(self, tenant: Tenant) -> bool:
        return tenant.sync_url is not None

    @override
    def place(self, tenant: Tenant) -> str:
        return tenant.sync_url or ""

    @override
    async def deliver(self, tenant: Tenant, payload: bytes, report_id: str) -> SinkAnswer:
        entries = json.loads(payload)["delivery_report"]
        self.deliveries.append(Delivery(self._clock.monotonic(), tenant.id, entries))
        script = self._scripts.get(tenant.id)
        scripted = script.popleft() if script else self.by_default.get(tenant.id, OK)
        if isinstance(scripted, SinkAnswer):
            return scripted
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await scripted()
        finally:
            self.at_once -= 1


class CountingMeter(Meter):
    """Counts reported events."""

    def __init__(self) -> None:
        self.acknowledged = 0
        self.refused = 0
        self.met_refusal = asyncio.Event()
        self.lag: Mapping[SyncStanding, Behind] = {}

    @override
    def reported(self, events: int, *, ok: bool) -> None:
        if ok:
            self.acknowledged += events
        else:
            self.refused += events
            self.met_refusal.set()

    @override
    def sent(self, tenant_id: str, account_id: str) -> None: ...

    @override
    def failed(self, tenant_id: str, account_id: str) -> None: ...

    @override
    def deferred(self, tenant_id: str, account_id: str) -> None: ...

    @override
    def rate_limited(self, tenant_id: str, account_id: str) -> None: ...

    @override
    def uncertain(self, tenant_id: str, account_id: str) -> None: ...

    @override
    def poison(self, tenant_id: str, account_id: str) -> None: ...

    @override
    def behind(self, tenants: Mapping[SyncStanding, Behind]) -> None:
        self.lag = tenants

    @override
    def pending(self, messages: int, oldest: float | None) -> None: ...

    @override
    def reports_took(self, seconds: float, *, answered: bool) -> None: ...

    @override
    def waited(self, priority: Priority, seconds: float) -> None: ...

    @override
    def phases(self, seconds: Mapping[Phase, float]) -> None: ...

    @override
    def in_hand(self, messages: int, sessions: int, journal: int) -> None: ...

    @override
    def outages(self, on_hold: int, left_alone: int) -> None: ...


def tenant(tenant_id: str = "acme", **fields: Any) -> Tenant:
    """A tenant with an endpoint."""
    return Tenant(tenant_id, **{"client_base_url": f"https://{tenant_id}.example", **fields})


@dataclass
class Office:
    """A reporter and all that it meets. `write` does what a settlement does: store, then tell."""

    clock: Any
    directory: MemoryDirectory
    settings: ReportingSettings = field(default_factory=ReportingSettings)
    outbox: MemoryOutbox = field(default_factory=MemoryOutbox)
    meter: CountingMeter = field(default_factory=CountingMeter)
    leases: MemoryLeases = field(default_factory=MemoryLeases)

    def __post_init__(self) -> None:
        self.sink = ScriptedSink(self.clock)
        self.reporter = self.new_reporter()

    def new_reporter(self) -> Reporter:
        """A reporter that knows nothing yet, as after a restart."""
        return Reporter(
            self.outbox,
            self.directory,
            self.sink,
            self.clock,
            Observers(self.meter, NoTracer()),
            self.settings,
            Random(7),
            self.leases.turns(self.clock),
        )

    def write(self, *events: Event) -> list[int]:
        ids = self.outbox.write(*events)
        self.reporter.notify([each.tenant_id for each in events])
        return ids

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the reporter until the block ends."""
        async with anyio.create_task_group() as tasks:
            started = anyio.Event()
            tasks.start_soon(self.reporter.run, started.set, name="reporter")
            await started.wait()
            await self.clock.advance(0)
            yield
            tasks.cancel_scope.cancel()
