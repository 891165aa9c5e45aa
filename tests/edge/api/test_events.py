"""The feed by HTTP: pages in order, cursors that can and cannot be gone on from, and a wait for what comes."""

from __future__ import annotations

import asyncio
import math

import httpx
import pytest

from tests.conformance.steps import ACCEPTED, NOW, attempt
from tests.support.api import Instance, a_submission
from tests.support.stores import SetClock


async def sent(instance: Instance, client: httpx.AsyncClient, *ids: str, **fields: object) -> None:
    """Have messages of acme sent, by a store that nobody hears of."""
    batch = {"messages": [a_submission(id_, **fields) for id_ in ids]}
    assert (await client.post("/commands/add-messages", json=batch)).json()["queued"] == len(ids)
    (account,) = await instance.store.directory.accounts_of("acme")
    await attempt(instance.store, account, ACCEPTED, limit=len(ids))


async def test_pages_follow_each_other_and_have_entries_as_reports_have(
    instance: Instance, acme: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    metadata = {"order": "№ 7 \U0001f4e6"}
    await sent(instance, acme, *(f"M{n}" for n in range(5)), metadata=metadata)
    first = (await acme.get("/events", params={"limit": 2})).json()
    assert [each["id"] for each in first["events"]] == ["M0", "M1"]
    assert (first["ok"], first["more"], first["next_cursor"]) == (True, True, first["events"][-1]["event_id"])
    rest = (await acme.get("/events", params={"after": first["next_cursor"]})).json()
    assert [each["id"] for each in rest["events"]] == ["M2", "M3", "M4"]
    assert rest["more"] is False
    end = {"ok": True, "events": [], "next_cursor": rest["next_cursor"], "more": False}
    assert (await acme.get("/events", params={"after": rest["next_cursor"], "wait": 30})).json() == end
    assert (await acme.get("/events", params={"after": "latest"})).json() == end
    entry = rest["events"][0]
    assert next(iter(entry)) == "event_id"
    assert entry["metadata"] == metadata
    history = (await acme.get("/messages/M2/events")).json()["events"][1]
    assert entry == {"event_id": history["event_id"], **history["report"]}
    everything = (await admin.get("/events", params={"tenant_id": "acme"})).json()["events"]
    assert everything == [*first["events"], *rest["events"]]
    assert (await admin.get("/events", params={"tenant_id": "other"})).json()["events"] == []


async def test_an_event_wakes_who_waits_for_it(acme: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    await acme.post("/commands/add-messages", json={"messages": [a_submission("M1")]})
    asleep = asyncio.Event()

    async def sleep(_clock: SetClock, _seconds: float) -> None:
        asleep.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(SetClock, "sleep", sleep)
    waiting = asyncio.create_task(acme.get("/events", params={"wait": 30}))
    await asleep.wait()
    assert (await acme.post("/commands/delete-messages", json={"ids": ["M1"]})).status_code == 200
    (entry,) = (await waiting).json()["events"]
    assert (entry["id"], entry["event"]) == ("M1", "cancelled")


async def test_a_cursor_that_retention_has_passed_is_told_where_to_go_on(
    instance: Instance, acme: httpx.AsyncClient
) -> None:
    await sent(instance, acme, "M0", "M1", "M2")
    ids = [each["event_id"] for each in (await acme.get("/events")).json()["events"]]
    await instance.store.outbox.acknowledge([int(each) for each in ids[:2]], NOW)
    await instance.store.queue.prune(math.inf, 10, ())
    for cursor in ("0", ids[0]):
        gone = await acme.get("/events", params={"after": cursor})
        assert gone.status_code == 410
        assert gone.json() == {
            "ok": False,
            "error": "Events after this cursor are older than the retention and were removed; what is kept follows on "
            f"{ids[1]}.",
            "code": "cursor_too_old",
            "oldest_cursor": ids[1],
        }
    for place in ({"after": ids[1]}, {}):
        assert [each["id"] for each in (await acme.get("/events", params=place)).json()["events"]] == ["M2"]


@pytest.mark.parametrize("cursor", ["1", "999999999999999999"])
async def test_a_cursor_beyond_all_that_the_tenant_had_is_refused(acme: httpx.AsyncClient, cursor: str) -> None:
    answer = await acme.get("/events", params={"after": cursor, "wait": 30})
    assert answer.status_code == 422
    (problem,) = answer.json()["detail"]
    assert problem["field"] == "after"
    assert "another database" in problem["problem"]
    assert answer.json()["code"] == "cursor_beyond_end"


@pytest.mark.parametrize("cursor", ["abc", "", "-1", "1.5", "1" * 19, "٣"])
async def test_what_is_no_cursor_is_refused_with_what_is_one(acme: httpx.AsyncClient, cursor: str) -> None:
    answer = await acme.get("/events", params={"after": cursor})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    (problem,) = answer.json()["detail"]
    assert problem == {"field": "after", "problem": "must be an event_id, next_cursor of the page before, or latest"}
