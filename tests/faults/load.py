"""Clients that go on submitting whatever happens to the service, and know what was accepted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
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
To = Callable[[int], Sequence[str]]
"""The recipients of a message, by its number."""


def one_recipient(number: int) -> Sequence[str]:
    """Return a recipient that is accepted."""
    return [f"u{number}@example.net"]


class Load:
    """Submits batches to instances in turn, and repeats each until it is answered; `ahead` bounds the backlog."""

    def __init__(
        self, clients: Sequence[Client], came: Callable[[], int], accounts: Sequence[str], ahead: int, to: To
    ) -> None:
        """`came` tells with how many of the messages nothing is left to be done."""
        self.accepted: set[str] = set()
        self.refused: list[float] = []
        """When a request was answered 503, by the loop's clock."""
        self.silent = 0
        """So many requests had no answer."""
        self._clients = clients
        self._came = came
        self._to = to
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
            if not self.eager and len(self.accepted) - self._came() >= self._ahead:
                await asyncio.sleep(0.005)
                continue
            numbers = [next(self._numbers) for _ in range(BATCH)]
            await self._submit(
                [a_message(f"m{n}", self._to(n), account_id=self._accounts[n % len(self._accounts)]) for n in numbers]
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
    to: To = one_recipient,
    came: Callable[[], int] | None = None,
    patience: float | None = None,
) -> AsyncIterator[Load]:
    """Submit through these instances meanwhile, and on until there are `at_least` so many messages.

    At the end every message that was ever submitted is accepted. `patience` is how many seconds an answer may take.
    """

    def arrived() -> int:
        sink.look()
        return len(sink.first)

    async with AsyncExitStack() as clients:
        chosen = [await clients.enter_async_context(each.client(tenant.token)) for each in instances]
        for client in chosen:
            client.http.timeout = client.http.timeout if patience is None else patience
        load = Load(chosen, came or arrived, accounts, ahead, to)
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
