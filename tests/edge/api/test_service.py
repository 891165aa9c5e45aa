"""The instance itself by the API."""

from __future__ import annotations

from dataclasses import replace

import httpx

import mail_proxy
from tests.support.api import Instance, a_submission


async def test_it_says_that_it_lives(instance: Instance) -> None:
    async with instance.client(None) as client:
        answer = await client.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"ok": True})


async def test_it_says_why_it_is_not_ready(instance: Instance) -> None:
    instance.reasons += ["The database does not answer.", "The dispatcher does not run."]
    async with instance.client(None) as client:
        answer = await client.get("/ready")
        assert answer.status_code == 503
        assert answer.json() == {
            "ok": False,
            "error": "The database does not answer. The dispatcher does not run.",
            "code": "not_ready",
        }
        instance.reasons.clear()
        assert (await client.get("/ready")).json() == {"ok": True}


async def test_a_probe_that_asks_for_the_head_alone_gets_the_status_without_a_body(instance: Instance) -> None:
    async with instance.client(None) as client:
        lives, ready = await client.head("/health"), await client.head("/ready")
        instance.reasons.append("The database does not answer.")
        not_ready = await client.head("/ready")
        full = await client.get("/ready")
        refused = await client.post("/ready")
    assert [(each.status_code, each.content) for each in (lives, ready, not_ready)] == [
        (200, b""),
        (200, b""),
        (503, b""),
    ]
    own = [each.headers.pop("x-request-id") for each in (not_ready, full)]
    assert own[0] != own[1]
    assert not_ready.headers == full.headers  # RFC 9110 section 9.3.2
    assert refused.headers["allow"] == "GET, HEAD"


async def test_the_status_for_the_admin_has_everything(instance: Instance, admin: httpx.AsyncClient) -> None:
    instance.insight = replace(instance.insight, pending=3, oldest_waiting_ts=5.0, loops={"dispatcher": "running"})
    instance.clock.time += 12.5
    assert (await admin.get("/status")).json() == {
        "ok": True,
        "version": mail_proxy.__version__,
        "instance": "tests",
        "scheduler_active": True,
        "pending_messages": 3,
        "uptime_seconds": 12.5,
        "database": "sqlite",
        "loops": {"dispatcher": "running"},
        "accounts_on_hold": [],
        "servers_left_alone": [],
        "oldest_waiting_ts": 5.0,
        "workers": 1,
    }


async def test_the_status_for_a_tenant_has_what_is_its_own(instance: Instance, acme: httpx.AsyncClient) -> None:
    instance.insight = replace(instance.insight, pending=1000)
    await acme.post("/commands/add-messages", json={"messages": [a_submission("M1"), a_submission("M2")]})
    status = (await acme.get("/status")).json()
    assert status["pending_messages"] == 2
    assert not status.keys() & {"loops", "accounts_on_hold", "oldest_waiting_ts"}


async def test_the_metrics_are_the_meters(instance: Instance) -> None:
    instance.meter.sent("acme", "main")
    instance.meter.pending(4, None)
    async with instance.client(None) as client:
        answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    assert 'gmp_sent_total{account_id="main",tenant_id="acme"} 1.0' in lines
    assert "gmp_pending_messages 4.0" in lines


async def test_the_admin_may_ask_for_the_messages_of_one_tenant(instance: Instance, admin: httpx.AsyncClient) -> None:
    for tenant_id in ("acme", "other"):
        await admin.post("/tenant", json={"id": tenant_id})
        await admin.post("/account", json={"id": "main", "tenant_id": tenant_id, "host": "h.example", "port": 25})
    await admin.post("/commands/add-messages", json={"messages": [a_submission(tenant_id="acme")]})
    answers = [(await admin.get("/status", params={"tenant_id": each})).json() for each in ("acme", "other")]
    assert [each["pending_messages"] for each in answers] == [1, 0]
    assert (await admin.get("/status", params={"tenant_id": "nobody"})).status_code == 404
