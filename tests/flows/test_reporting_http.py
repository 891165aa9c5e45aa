"""The reporter over real HTTP, with a receiver in this process and one in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import anyio
import pytest

from mail_proxy.domain.tenant import Tenant
from mail_proxy.outbound.callback import HttpReportSink
from mail_proxy.outbound.client import OutboundClient
from mail_proxy.outbound.guard import Trusted
from mail_proxy.ports.observers import Observers
from mail_proxy.reporting.reporter import Reporter
from mail_proxy.reporting.settings import ReportingSettings
from mail_proxy.runtime.clock import SystemClock
from mail_proxy.runtime.tracing import NoTracer
from tests.support.callback_server import CallbackServer, Manner, Reply
from tests.support.reporting import CountingMeter, MemoryDirectory, MemoryLeases, MemoryOutbox, event

ROOT = Path(__file__).parents[2]


@dataclass
class Desk:
    """A reporter whose reports go out by HTTP."""

    client: OutboundClient
    directory: MemoryDirectory
    patience: float = 0.5
    outbox: MemoryOutbox = field(default_factory=MemoryOutbox)
    meter: CountingMeter = field(default_factory=CountingMeter)

    def __post_init__(self) -> None:
        clock = SystemClock()
        sink = HttpReportSink(self.client, clock, timeout=self.patience)
        settings = ReportingSettings(sync_interval=1e6, group_wait=0.01, poll_interval=0.05, shutdown_grace=0)
        self.reporter = Reporter(
            self.outbox,
            self.directory,
            sink,
            clock,
            Observers(self.meter, NoTracer()),
            settings,
            Random(1),
            MemoryLeases().turns(clock),
        )

    async def reported(self, tenant_id: str = "acme") -> None:
        """Return once the tenant has taken everything."""
        with anyio.fail_after(30):
            await self.outbox.all_reported(tenant_id)


@asynccontextmanager
async def at_work(*tenants: Tenant, patience: float = 0.5) -> AsyncIterator[Desk]:
    async with OutboundClient(Trusted()) as client, anyio.create_task_group() as tasks:
        desk = Desk(client, MemoryDirectory(*tenants), patience)
        tasks.start_soon(desk.reporter.run, lambda: None, name="reporter")
        yield desk
        tasks.cancel_scope.cancel()


async def test_a_thousand_events_arrive_once_and_in_order_over_one_connection() -> None:
    async with CallbackServer() as server, at_work(Tenant("acme", client_base_url=server.url)) as desk:
        ids = desk.outbox.write(*(event(n) for n in range(1000)))
        desk.reporter.notify(["acme"] * 1000)
        await desk.reported()
        assert [int(entry["event_id"]) for entry in server.entries] == ids
        assert server.connections == 1


@pytest.mark.parametrize(
    "reply",
    [
        Reply(500),
        Reply(429, headers={"Retry-After": "0"}),
        Reply(302, headers={"Location": "/elsewhere"}),
        Reply(200, b"<html>Welcome</html>"),
        Reply(200, b'{"ok": false}'),
        Reply(200, b'["ok"]'),
        Reply(204, b""),
        Reply(200, b" " * 65536, manner=Manner.ENDLESS),
        Reply(200, manner=Manner.CUT),
        Reply(200, manner=Manner.HANG),
        Reply(200, manner=Manner.RESET),
    ],
)
async def test_what_acknowledges_nothing_is_followed_by_the_same_events(reply: Reply) -> None:
    async with CallbackServer() as server, at_work(Tenant("acme", client_base_url=server.url)) as desk:
        server.script(reply)
        ids = desk.outbox.write(event(1), event(2))
        desk.reporter.notify(["acme"] * 2)
        with anyio.fail_after(10):
            await desk.meter.met_refusal.wait()
        assert desk.reporter.status("acme").consecutive_failures == 1
        assert desk.outbox.unreported() == ids

        desk.reporter.wake("acme")
        await desk.reported()
        assert {int(entry["event_id"]) for entry in server.requests[0].entries} == set(ids)
        assert {int(entry["event_id"]) for request in server.requests[1:] for entry in request.entries} == set(ids)


async def test_a_field_of_a_wrong_type_does_not_spoil_an_acknowledgement() -> None:
    async with CallbackServer() as server, at_work(Tenant("acme", client_base_url=server.url)) as desk:
        server.by_default = Reply(200, b'{"queued": "x", "next_sync_after": [], "error": 0}')
        desk.outbox.write(event(1))
        await desk.reported()
        assert len(server.requests) == 1


async def test_dead_endpoints_cost_another_tenant_nothing() -> None:
    async with CallbackServer() as dead, CallbackServer() as server:
        dead.by_default = Reply(manner=Manner.HANG)
        names = [f"dead{n}" for n in range(30)]
        tenants = [Tenant(name, client_base_url=f"{dead.url}/{name}") for name in names]
        async with at_work(Tenant("acme", client_base_url=server.url), *tenants, patience=60) as desk:
            desk.outbox.write(*(event(n, tenant_id=name) for n, name in enumerate(names)))
            await dead.wait_for(30)
            desk.outbox.write(event(99))
            desk.reporter.notify(["acme"])
            with anyio.fail_after(20):  # the dead ones still hang
                await server.wait_for(1)
            assert not any(desk.reporter.status(name).consecutive_failures for name in names)


@pytest.fixture
def other_process(tmp_path: Path) -> Iterator[Callable[..., tuple[int, Path]]]:
    """Start receivers in processes of their own; each gives its port and the file of what it received."""
    children: list[subprocess.Popen[str]] = []

    def start(*options: str) -> tuple[int, Path]:
        record = tmp_path / f"received-{len(children)}.jsonl"
        command = [sys.executable, "-m", "tests.support.callback_server", "--record", str(record), *options]
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        children.append(child)
        assert child.stdout is not None
        return int(child.stdout.readline()), record

    yield start
    for child in children:
        child.kill()
        child.communicate()


async def test_a_receiver_in_another_process_has_written_down_what_it_acknowledged(
    other_process: Callable[..., tuple[int, Path]],
) -> None:
    port, record = other_process("--fail-first", "1")
    async with at_work(Tenant("acme", client_base_url=f"http://127.0.0.1:{port}")) as desk:
        ids = desk.outbox.write(*(event(n) for n in range(700)))
        await desk.reported()
        received = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
        assert {int(entry["event_id"]) for entry in received} == set(ids)
