"""Deleting, sending once more and cleaning up by the API."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from mail_proxy.administration import message_commands
from mail_proxy.store.store import Store
from tests.conformance.steps import ACCEPTED, REFUSED, claim, settle_all
from tests.support.api import Instance, a_submission

both_databases = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)

NOTHING_DELETED: dict[str, Any] = {"ok": True, "removed": 0, "not_found": [], "unauthorized": [], "in_progress": []}


async def command(client: httpx.AsyncClient, name: str, body: object = None, **query: str) -> dict[str, Any]:
    answer = await client.post(f"/commands/{name}", json=body, params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def refused(client: httpx.AsyncClient, name: str, body: object) -> tuple[int, str, str | None]:
    answer = await client.post(f"/commands/{name}", json=body)
    failure = answer.json()
    return answer.status_code, failure["code"], failure["detail"][0]["field"] if "detail" in failure else None


async def submit(client: httpx.AsyncClient, *ids: str, **fields: object) -> None:
    messages = [a_submission(id_, **fields) for id_ in ids]
    assert (await command(client, "add-messages", {"messages": messages}))["queued"] == len(ids)


async def states(client: httpx.AsyncClient) -> dict[str, str]:
    return {each["id"]: each["state"] for each in (await client.get("/messages?limit=1000")).json()["messages"]}


async def failing(store: Store, count: int = 1) -> None:
    """Send so many messages of acme to nobody."""
    (main,) = await store.directory.accounts_of("acme")
    await settle_all(store, await claim(store, main, count), REFUSED)


async def test_each_id_is_answered_once_and_others_are_not_found(
    instance: Instance, admin: httpx.AsyncClient, acme: httpx.AsyncClient
) -> None:
    (main,) = await instance.store.directory.accounts_of("acme")
    await submit(acme, "sent", "sending")
    await settle_all(instance.store, await claim(instance.store, main, 1), ACCEPTED)
    await claim(instance.store, main, 1, token="mine")
    await submit(acme, "waiting")
    await submit(admin, "theirs", tenant_id="other")
    ids = ["sent", "waiting", "sending", "theirs", "nowhere", "waiting", "a\0b", "nowhere"]
    assert await command(acme, "delete-messages", {"ids": ids}) == {
        "ok": True,
        "removed": 2,
        "not_found": ["theirs", "nowhere", "a\0b"],
        "unauthorized": [],
        "in_progress": ["sending"],
    }
    assert await states(acme) == {"sending": "sending", "waiting": "cancelled"}
    assert instance.told.events == ["acme"]
    assert (await admin.get("/messages/theirs?tenant_id=other")).json()["state"] == "waiting"
    for gone in ("", "/events", "/explain"):
        assert (await acme.get(f"/messages/sent{gone}")).status_code == 404
    await submit(acme, "sent")
    assert await command(acme, "delete-messages", {"ids": []}) == NOTHING_DELETED
    surrogate = await acme.post("/commands/delete-messages", content=b'{"ids": ["\\ud800"]}')
    assert surrogate.json() == {**NOTHING_DELETED, "not_found": ["\ud800"]}


async def test_what_is_wrong_is_named_and_nothing_is_done(acme: httpx.AsyncClient) -> None:
    await submit(acme, "M1")
    many = {"ids": ["M1", *(f"N{n}" for n in range(1000))]}
    assert await refused(acme, "delete-messages", many) == (413, "too_large", None)
    assert await refused(acme, "retry-messages", many) == (413, "too_large", None)
    assert await command(acme, "delete-messages", {"ids": ["x" * 255 + str(n) for n in range(1000)]})
    invalid = 422, "invalid"
    for body in (
        {},
        {"ids": None},
        {"ids": "M1"},
        {"ids": ["M1", 1]},
        {"ids": [1] * 4_000},
    ):
        assert await refused(acme, "delete-messages", body) == (*invalid, "ids"), str(body)[:50]
    assert await refused(acme, "delete-messages", {"ids": ["M1"], "force": True}) == (*invalid, "force")
    assert await refused(acme, "retry-messages", {}) == (*invalid, "ids")
    assert await refused(acme, "retry-messages", {"cursor": "5"}) == (*invalid, "ids")
    assert await refused(acme, "retry-messages", {"ids": ["M1"], "state": "failed"}) == (*invalid, "state")
    assert await refused(acme, "retry-messages", {"ids": ["M1"], "cursor": "5"}) == (*invalid, "cursor")
    assert await refused(acme, "retry-messages", {"state": "sent"}) == (*invalid, "state")
    assert await refused(acme, "retry-messages", {"created_from": 1785492000123}) == (*invalid, "created_from")
    assert await refused(acme, "cleanup-messages", {"older_than_seconds": -1}) == (*invalid, "older_than_seconds")
    assert await refused(acme, "cleanup-messages", {"older_than_seconds": True}) == (*invalid, "older_than_seconds")
    assert await refused(acme, "cleanup-messages", {"cursor": "x"}) == (*invalid, "cursor")
    assert await states(acme) == {"M1": "waiting"}


async def test_the_tenant_may_be_named_in_the_query_or_in_the_body(
    admin: httpx.AsyncClient, acme: httpx.AsyncClient
) -> None:
    await submit(acme, "M1")
    assert (await command(admin, "cleanup-messages", {"tenant_id": "acme"}, tenant_id="acme"))["removed"] == 0
    assert await refused(admin, "delete-messages", {"ids": ["M1"]}) == (422, "invalid", "tenant_id")
    assert await refused(acme, "delete-messages", {"ids": ["M1"], "tenant_id": "other"}) == (403, "wrong_tenant", None)
    both = await admin.post("/commands/delete-messages?tenant_id=other", json={"ids": ["M1"], "tenant_id": "acme"})
    assert (both.status_code, both.json()["detail"][0]["field"]) == (422, "tenant_id")
    assert (await command(admin, "delete-messages", {"ids": ["M1"], "tenant_id": "acme"}))["removed"] == 1


@both_databases
async def test_what_failed_is_queued_again_chunk_by_chunk(
    instance: Instance, acme: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_commands, "CHUNK", 3)
    await submit(acme, *(f"M{n}" for n in range(10)), batch_code="July")
    await failing(instance.store, 8)
    instance.told.accounts.clear()
    assert await command(acme, "retry-messages", {"ids": ["M0", "M0", "M1", "M9", "nowhere"]}) == {
        "ok": True,
        "queued": 2,
        "skipped": 2,
        "reasons": {"not_found": 1, "not_failed": 1},
        "next_cursor": None,
    }
    assert len(instance.told.accounts) == 1
    answer = await command(acme, "retry-messages", {"status": "error", "batch_code": "August"})
    assert (answer["queued"], answer["skipped"]) == (0, 0)
    answer = await command(acme, "retry-messages", {"status": "error", "batch_code": "July"})
    assert answer == {"ok": True, "queued": 6, "skipped": 0, "reasons": {}, "next_cursor": None}
    assert set((await states(acme)).values()) == {"waiting"}


async def test_one_call_does_a_bounded_number_and_says_where_to_go_on(
    instance: Instance, acme: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mail_proxy.store.message_changes.LOOK", 4)
    monkeypatch.setattr(message_commands, "MOST", 5)
    await submit(acme, *(f"M{n}" for n in range(10)))
    await failing(instance.store, 10)

    async def all_of(name: str, count: str, body: dict[str, object]) -> list[int]:
        counts, cursor = list[int](), dict[str, object]()
        while True:
            answer = await command(acme, name, {**body, **cursor})
            counts.append(answer[count])
            if answer["next_cursor"] is None:
                return counts
            cursor = {"cursor": answer["next_cursor"]}

    assert await all_of("retry-messages", "queued", {"state": "failed"}) == [8, 2]
    await failing(instance.store, 10)
    assert await all_of("cleanup-messages", "removed", {}) == [8, 2]
    assert await states(acme) == {}


@both_databases
async def test_only_what_is_reported_is_cleaned_up_where_there_is_somebody_to_report_to(
    instance: Instance, admin: httpx.AsyncClient, acme: httpx.AsyncClient
) -> None:
    await admin.put("/tenant/acme", json={"client_base_url": "https://acme.example"})
    await submit(acme, "told", "untold", "waiting")
    await failing(instance.store)
    outbox = instance.store.outbox
    await outbox.acknowledge([each.event_id for each in await outbox.pending("acme", 9)], instance.clock.now())
    await failing(instance.store)
    ended = (await acme.get("/messages/told")).json()["error_ts"]
    instance.clock.time = ended + 100
    assert await command(acme, "cleanup-messages", {"older_than_seconds": 101}) == {
        "ok": True,
        "removed": 0,
        "next_cursor": None,
    }
    assert (await command(acme, "cleanup-messages"))["removed"] == 1
    assert await states(acme) == {"untold": "failed", "waiting": "waiting"}
    await admin.put("/tenant/acme", json={"client_base_url": None})
    assert (await command(acme, "cleanup-messages", {"older_than_seconds": 99.5}))["removed"] == 1
    assert await states(acme) == {"waiting": "waiting"}
