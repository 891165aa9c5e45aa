"""What is finished goes when its time has come, and only where nobody is still to be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import anyio
from typing_extensions import override

from mail_proxy.delivery.journal import FlightJournal
from mail_proxy.delivery.maintenance import REMOVED
from mail_proxy.domain.tenant import Tenant
from tests.conformance.steps import ACCEPTED, attempt
from tests.flows.test_delivery import Bench, FlakyQueue, NobodyListens, bench  # noqa: F401 - the fixture
from tests.support.fake_clock import FakeClock
from tests.support.stores import a_message, enqueue, with_account

DAY = 86400.0


class SomeListen(NobodyListens):
    """A sink that goes by what each tenant has."""

    @override
    def has_endpoint(self, tenant: Tenant) -> bool:
        return tenant.client_base_url is not None


async def gets_endpoint(bench: Bench) -> None:  # noqa: F811
    tenant = await bench.store.directory.tenant("acme")
    assert tenant is not None
    await bench.store.directory.put_tenant(replace(tenant, client_base_url="https://acme.example"), None)


class SlowQueue(FlakyQueue):
    """A queue whose retention takes a second for each chunk, of the test's time."""

    clock: FakeClock
    chunks: list[tuple[float, int, int]]

    @override
    async def prune(self, finished_before: float, limit: int, silent_tenants: Sequence[str]) -> int:
        began = self.clock.monotonic()
        count = await super().prune(finished_before, limit, silent_tenants)
        self.clock.skip(1.0)
        self.chunks.append((began, limit, count))
        return count


async def test_age_alone_counts_where_nobody_listens_and_elsewhere_what_was_told(bench: Bench) -> None:  # noqa: F811
    bench.settings = replace(bench.settings, retention=7 * DAY)
    bench.sink = SomeListen()
    maintenance = bench.made(FlightJournal(bench.journal, bench.store.instance_id, "boot")).maintenance
    accounts = [await with_account(bench.store, tenant_id) for tenant_id in ("acme", "zzz")]
    await gets_endpoint(bench)
    for account in accounts:
        await enqueue(bench.store, a_message("M1", account), a_message("M2", account))
        await attempt(bench.store, account, ACCEPTED, now=bench.clock.now())

    async def kept() -> list[tuple[str, str]]:
        pages = [(t, await bench.store.message_changes.find(t, ["M1", "M2"])) for t in ("acme", "zzz")]
        return [(tenant, id_) for tenant, found in pages for id_ in sorted(found)]

    bench.clock.skip(7 * DAY - 1)
    await maintenance.prune()
    assert len(await kept()) == 4
    bench.clock.skip(2)
    first, second = await bench.store.outbox.pending("acme", 10)
    await bench.store.outbox.acknowledge([first.event_id], bench.clock.now())
    await maintenance.prune()
    assert await kept() == [("acme", "M2")]  # G9
    bench.clock.skip(365 * DAY)
    await maintenance.prune()
    assert await kept() == [("acme", "M2")]
    await bench.store.outbox.acknowledge([second.event_id], bench.clock.now())
    await maintenance.prune()
    assert await kept() == []


async def test_retention_goes_in_small_steps_and_rests_as_long_as_each_took(bench: Bench) -> None:  # noqa: F811 # G11
    queue = SlowQueue(bench.store.database, bench.store.instance_id)
    queue.clock, queue.chunks = bench.clock, []
    bench.queue = queue
    maintenance = bench.made(FlightJournal(bench.journal, bench.store.instance_id, "boot")).maintenance
    account = await with_account(bench.store)
    await enqueue(bench.store, *(a_message(f"M{n}", account) for n in range(250)))
    await attempt(bench.store, account, ACCEPTED, limit=250, now=bench.clock.now() - 8 * DAY)

    async def over() -> bool:
        return sum(count for *_, count in queue.chunks) == 250

    async with anyio.create_task_group() as group:
        group.start_soon(maintenance.prune)
        await bench.until(over, seconds=0.5)
    assert all(limit <= REMOVED for _, limit, _ in queue.chunks)
    starts = [began for began, *_ in queue.chunks]
    assert all(later - earlier >= 2.0 for earlier, later in pairwise(starts))


async def test_who_gets_an_endpoint_while_retention_goes_on_is_told_what_is_left(bench: Bench) -> None:  # noqa: F811 # G9
    class Watched(FlakyQueue):
        @override
        async def prune(self, finished_before: float, limit: int, silent_tenants: Sequence[str]) -> int:
            count = await super().prune(finished_before, limit, silent_tenants)
            await gets_endpoint(bench)
            return count

    bench.sink, bench.queue = SomeListen(), Watched(bench.store.database, bench.store.instance_id)
    maintenance = bench.made(FlightJournal(bench.journal, bench.store.instance_id, "boot")).maintenance
    account = await with_account(bench.store)
    await enqueue(bench.store, *(a_message(f"M{n}", account) for n in range(250)))
    await attempt(bench.store, account, ACCEPTED, limit=250, now=bench.clock.now() - 8 * DAY)
    before = len(await bench.store.outbox.pending("acme", 300))
    await maintenance.prune()
    left = len(await bench.store.outbox.pending("acme", 300))
    assert before - left == REMOVED  # the chunk of before
