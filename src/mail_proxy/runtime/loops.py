"""The loops of an instance, in the form in which the supervisor runs them, and the order in which they end."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import anyio

from mail_proxy.administration.audit import AuditLog
from mail_proxy.administration.key_rotation import KeyRotation
from mail_proxy.attachments.cache import CachedSource
from mail_proxy.delivery.delivery import Delivery
from mail_proxy.ports.clock import Clock
from mail_proxy.reporting.feed import Feed
from mail_proxy.reporting.reporter import Reporter
from mail_proxy.runtime.clock import DatabaseClock
from mail_proxy.runtime.supervisor import Loop
from mail_proxy.store.hints import Hint
from mail_proxy.store.store import Store


def loops(
    delivery: Delivery,
    reporter: Reporter,
    feed: Feed,
    audit: AuditLog,
    store: Store,
    clock: Clock,
    cache: CachedSource,
) -> Mapping[str, Loop]:
    """Return each loop by its name. Delivery is stopped from outside; the others end when it has ended.

    On PostgreSQL there is one more, for what other instances say.
    """
    reporting, auditing, listening = anyio.CancelScope(), anyio.CancelScope(), anyio.CancelScope()

    async def deliver(started: Callable[[], None]) -> None:
        try:
            async with anyio.create_task_group() as group:
                if isinstance(clock, DatabaseClock):
                    group.start_soon(clock.keep_asking, store.time, name="clock")
                group.start_soon(KeyRotation(store.seals, clock).run, name="key rotation")
                group.start_soon(cache.run, name="attachment cache")
                await delivery.run(started)
                group.cancel_scope.cancel()
        finally:
            reporting.cancel()  # the last outcomes are written; what is not told yet waits in the outbox
            auditing.cancel()  # the rest is written when the instance is closed
            listening.cancel()

    async def report(started: Callable[[], None]) -> None:
        with reporting:
            async with anyio.create_task_group() as group:
                group.start_soon(feed.run, name="feed")
                await reporter.run(started)

    async def keep_log(started: Callable[[], None]) -> None:
        with auditing:
            await audit.run(started)

    async def heed(hints: frozenset[Hint]) -> None:
        if Hint.RUN_NOW not in hints:
            delivery.look()
            return
        delivery.run_now()
        reporter.look()

    async def listen(started: Callable[[], None]) -> None:
        from mail_proxy.store.listener import Listener  # noqa: PLC0415 - needs what comes with an extra

        with listening:
            await Listener(store, heed, clock).run(started)

    kept: dict[str, Loop] = {"delivery": deliver, "reporting": report, "audit": keep_log}
    return kept if store.database.dialect == "sqlite" else {**kept, "hints": listen}
