"""An account that is removed by force while its tenant goes on submitting."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import chain

from tests.acceptance.sinks import running_sink
from tests.acceptance.tenants import Tenant, new_tenant
from tests.support.instance import Instance, a_message, eventually

ENDS = {"sent", "cancelled"}
SUBMITTERS = 8


async def submitting(acme: Tenant, who: int, taken: set[str]) -> Sequence[int]:
    """Submit messages for `main` until it is not known any more; return the status codes."""
    codes = []
    for n in range(10_000):
        ids = [f"{who}-{n}-{each}" for each in range(5)]
        answer = await acme.client.ask(
            "POST", "/commands/add-messages", json={"messages": [a_message(id_, account_id="main") for id_ in ids]}
        )
        codes.append(answer.status_code)
        refused = {each["id"] for each in answer.json().get("rejected", [])} if answer.status_code == 200 else set(ids)
        taken |= set(ids) - refused
        if refused:
            return codes
    raise AssertionError("the account is still there")


async def test_an_account_goes_by_force_under_steady_traffic_and_each_message_has_an_outcome(
    on_each_database: Instance,
) -> None:
    async with running_sink() as sink, new_tenant(on_each_database, sink.port) as acme:
        taken: set[str] = set()
        submitters = [asyncio.create_task(submitting(acme, who, taken)) for who in range(SUBMITTERS)]
        await eventually(lambda: len(sink.arrivals) > 100, "it sends")
        answer = await acme.client.ask("DELETE", "/account/main", params={"force": "true"})
        assert (answer.status_code, answer.json()) == (200, {"ok": True})
        assert set(chain.from_iterable(await asyncio.gather(*submitters))) == {200}
        assert (await acme.client.get("/accounts"))["accounts"] == []
        shown = await acme.client.messages()
        assert shown.keys() == taken
        assert {each["state"] for each in shown.values()} <= ENDS
        arrived = {each.mail_id for each in sink.arrivals}
        assert {id_ for id_, each in shown.items() if each["state"] == "sent"} == arrived
