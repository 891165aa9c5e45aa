"""Suspending, activating and running now by the API."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx

from mail_proxy.administration.scheduling import MAX_BATCHES
from mail_proxy.domain.backlog import MANY, Survey
from mail_proxy.domain.claim import Demand
from mail_proxy.domain.tenant import Suspension
from tests.support.api import Instance, a_submission
from tests.support.backlog import fill


async def command(client: httpx.AsyncClient, name: str, **query: str) -> dict[str, Any]:
    answer = await client.post(f"/commands/{name}", params=query)
    return {"status": answer.status_code, **answer.json()}


async def test_batches_and_tenant_add_up(acme: httpx.AsyncClient) -> None:
    await acme.post(
        "/commands/add-messages",
        json={"messages": [a_submission("M1", batch_code="July"), a_submission("M2"), a_submission("M3")]},
    )
    held = {"status": 200, "ok": True, "tenant_id": "acme"}
    assert await command(acme, "suspend", batch_code="July") == {
        **held,
        "suspended": False,
        "suspended_batches": ["July"],
        "pending_messages": 1,
    }
    assert await command(acme, "suspend", batch_code="August") == {
        **held,
        "suspended": False,
        "suspended_batches": ["August", "July"],
        "pending_messages": 0,
    }
    assert await command(acme, "suspend") == {
        **held,
        "suspended": True,
        "suspended_batches": ["August", "July"],
        "pending_messages": 3,
    }
    refused = await command(acme, "activate", batch_code="July")
    assert (refused["status"], refused["code"]) == (409, "tenant_suspended")
    assert await command(acme, "activate") == {
        **held,
        "suspended": False,
        "suspended_batches": [],
        "pending_messages": 3,
    }


async def test_many_messages_are_told_as_they_were_last_counted(instance: Instance, acme: httpx.AsyncClient) -> None:
    (main,) = await instance.store.directory.accounts_of("acme")
    fill(instance.store, main, MANY + 500, batch_code="July")
    fill(instance.store, main, 3, prefix="few-", batch_code="August")

    async def pending(**query: str) -> list[int]:
        held = [(await command(acme, name, **query))["pending_messages"] for name in ("suspend", "activate")]
        return [*held, (await acme.get("/status")).json()["pending_messages"]]

    assert await pending() == [MANY] * 3  # nothing has been counted in the background yet
    instance.surveyed = Survey(MANY + 503, {"acme": MANY + 503}, {("acme", "July"): MANY + 500}, None)
    assert await pending() == [MANY + 503] * 3
    assert await pending(batch_code="July") == [MANY + 500, MANY + 500, MANY + 503]
    assert await pending(batch_code="August") == [3, 3, MANY + 503]


async def test_activating_one_batch_leaves_the_others(acme: httpx.AsyncClient) -> None:
    await command(acme, "suspend", batch_code="July")
    await command(acme, "suspend", batch_code="August")
    assert (await command(acme, "activate", batch_code="July"))["suspended_batches"] == ["August"]
    assert (await command(acme, "activate", batch_code="never-held"))["suspended_batches"] == ["August"]
    shown = (await acme.get("/tenant/acme")).json()
    assert (shown["suspended"], shown["suspended_batches"]) == (False, ["August"])


async def test_what_is_held_is_not_claimed_and_what_is_freed_is_told(
    instance: Instance, acme: httpx.AsyncClient
) -> None:
    (main,) = await instance.store.directory.accounts_of("acme")
    await acme.post("/commands/add-messages", json={"messages": [a_submission()]})
    await command(acme, "suspend")
    assert not (await instance.store.queue.claim([Demand(main.pk, 1)], "t", instance.clock.now())).claimed
    instance.told.accounts.clear()
    await command(acme, "activate")
    assert instance.told.accounts == [frozenset({main.pk})]
    assert len((await instance.store.queue.claim([Demand(main.pk, 1)], "t", instance.clock.now())).claimed) == 1


async def test_the_admin_holds_everything_by_naming_nobody(
    instance: Instance, admin: httpx.AsyncClient, acme: httpx.AsyncClient
) -> None:
    instance.insight = replace(instance.insight, pending=7)
    assert await command(admin, "suspend") == {
        "status": 200,
        "ok": True,
        "scheduler_active": False,
        "suspended_batches": [],
        "pending_messages": 7,
    }
    for client in (admin, acme):
        assert (await client.get("/status")).json()["scheduler_active"] is False
    assert (await acme.get("/tenant/acme")).json()["suspended"] is False
    assert (await command(admin, "activate"))["scheduler_active"] is True
    assert (await admin.get("/status")).json()["scheduler_active"] is True


async def test_a_batch_needs_its_tenant(admin: httpx.AsyncClient, acme: httpx.AsyncClient) -> None:
    refused = await command(admin, "suspend", batch_code="July")
    assert (refused["status"], refused["detail"][0]["field"]) == (422, "tenant_id")
    assert (await command(admin, "suspend", batch_code="July", tenant_id="acme"))["suspended_batches"] == ["July"]


async def test_batches_that_are_held_have_a_limit(instance: Instance, acme: httpx.AsyncClient) -> None:
    full = Suspension(batches=frozenset(f"B{n}" for n in range(MAX_BATCHES)))
    await instance.store.directory.change_suspension("acme", lambda _: full)
    refused = await command(acme, "suspend", batch_code="one-more")
    assert (refused["status"], refused["code"]) == (409, "too_many_batches")
    assert (await command(acme, "suspend", batch_code="B1"))["status"] == 200


async def test_run_now_is_for_a_tenant_or_for_all(
    instance: Instance, admin: httpx.AsyncClient, acme: httpx.AsyncClient
) -> None:
    assert await command(acme, "run-now") == {"status": 200, "ok": True}
    assert await command(admin, "run-now", tenant_id="other") == {"status": 200, "ok": True}
    assert await command(admin, "run-now") == {"status": 200, "ok": True}
    assert instance.told.run_now == ["acme", "other", None]
