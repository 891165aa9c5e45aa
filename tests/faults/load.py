"""Clients that go on submitting whatever happens to the service, and know what was accepted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count

import httpx

from tests.acceptance.tenants import Tenant
from tests.faults.sink import Sink
from tests.faults.tally import rows
from tests.support.instance import Client, Instance, a_message, eventually

BATCH = 25
PAUSE = 0.02
"""Seconds before a client that heard no answer asks the next instance."""


class Load:
    """Submits batches to instances in turn, and repeats each until it is answered; `ahead` bounds the backlog."""

    def __init__(self, clients: Sequence[Client], sink: Sink, accounts: Sequence[str], ahead: int) -> None:
        self.accepted: set[str] = set()
        self.refused: list[float] = []
        """When a request was answered 503, by the loop's clock."""
        self.silent = 0
        """So many requests had no answer."""
        self._clients = clients
        self._sink = sink
        self._accounts = accounts
        self._ahead = ahead
        self._numbers = count()
        self._enough: int | None = None
        self.eager = False
        """True: go on submitting however many messages are waiting."""

    def stop_after(self, messages: int) -> None:
        """Begin no further batch once so many messages are accepted."""
        self._enough = messages

    async def run(self) -> None:
        """Submit until `stop_after` is reached."""
        while self._enough is None or len(self.accepted) < self._enough:
            self._sink.look()
            if not self.eager and len(self.accepted) - len(self._sink.first) >= self._ahead:
                await asyncio.sleep(0.005)
                continue
            numbers = [next(self._numbers) for _ in range(BATCH)]
            await self._submit(
                [
                    a_message(f"m{n}", f"u{n}@example.net", account_id=self._accounts[n % len(self._accounts)])
                    for n in numbers
                ]
            )

    async def _submit(self, batch: Sequence[dict[str, object]]) -> None:
        for turn in count(len(self.accepted) // BATCH):
            client = self._clients[turn % len(self._clients)]
            try:
                response = await client.ask("POST", "/commands/add-messages", json={"messages": batch})
            except httpx.TransportError:
                self.silent += 1  # whatever became of it, it may be sent again  G2
            else:
                if response.status_code == 200:
                    receipt = response.json()
                    assert receipt["rejected"] == receipt["replaced"] == [], receipt
                    assert receipt["queued"] + len(receipt["duplicates"]) == len(batch), receipt  # G3
                    self.accepted |= {str(message["id"]) for message in batch}
                    return
                assert response.status_code == 503, response.text  # G12
                self.refused.append(asyncio.get_running_loop().time())
            await asyncio.sleep(PAUSE)


@asynccontextmanager
async def running_load(
    instances: Sequence[Instance],
    tenant: Tenant,
    sink: Sink,
    *,
    accounts: Sequence[str] = ("main",),
    ahead: int = 200,
    at_least: int = 0,
) -> AsyncIterator[Load]:
    """Submit through these instances meanwhile, and on until there are `at_least` so many messages.

    At the end every message that was ever submitted is accepted.
    """
    async with AsyncExitStack() as clients:
        chosen = [await clients.enter_async_context(each.client(tenant.token)) for each in instances]
        load = Load(chosen, sink, accounts, ahead)
        task = asyncio.create_task(load.run())
        try:
            yield load
        except BaseException:
            task.cancel()
            raise
        load.stop_after(at_least)
        await asyncio.wait_for(task, 600)


async def all_ended(url: str, seconds: float = 60.0) -> None:
    """Return once no message is waiting or being sent."""
    unfinished = "SELECT count(*) FROM messages WHERE finished_ts IS NULL"
    await eventually(lambda: rows(url, unfinished)[0][0] == 0, "every message has ended", seconds)
