"""Submitting messages, and seeing what became of them."""

from __future__ import annotations

from random import Random
from typing import Any
from urllib.parse import quote

import httpx

from mail_proxy.domain.attempt import Answer, Attempt, Stage
from mail_proxy.domain.claim import Demand
from mail_proxy.domain.reply import Reply
from mail_proxy.domain.retry import RetrySchedule
from mail_proxy.domain.settlement import Policy, settle
from tests.support.api import Instance, a_submission, new_tenant


async def submit(client: httpx.AsyncClient, *messages: dict[str, object], **fields: object) -> dict[str, Any]:
    answer = await client.post("/commands/add-messages", json={"messages": list(messages), **fields})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_every_message_is_accounted_for_exactly_once(acme: httpx.AsyncClient) -> None:
    await submit(acme, a_submission("M1"), a_submission("M2"))
    answer = await submit(
        acme,
        a_submission("M1"),
        a_submission("M2", subject="changed"),
        a_submission("M3"),
        a_submission("M4", account_id="nope"),
    )
    assert answer == {
        "ok": True,
        "queued": 1,
        "duplicates": ["M1"],
        "replaced": ["M2"],
        "rejected": [
            {
                "index": 3,
                "id": "M4",
                "field": "account_id",
                "reason": "the tenant has no account 'nope'",
                "code": "unknown_account",
            }
        ],
    }


async def test_one_bad_message_in_a_batch_of_fifty_is_rejected_alone(acme: httpx.AsyncClient) -> None:
    messages = [a_submission(f"M{n}") for n in range(50)]
    messages[17]["to"] = "nobody at all"
    answer = await submit(acme, *messages)
    assert (answer["ok"], answer["queued"]) == (True, 49)
    assert [(each["index"], each["id"], each["field"]) for each in answer["rejected"]] == [(17, "M17", "to")]


async def test_nothing_taken_and_something_rejected_is_not_ok(acme: httpx.AsyncClient) -> None:
    assert (await submit(acme, a_submission(to="nobody at all")))["ok"] is False
    assert (await submit(acme))["ok"] is True


async def test_the_sending_side_is_told_what_is_new(instance: Instance, acme: httpx.AsyncClient) -> None:
    await submit(acme, a_submission("M1"))
    await submit(acme, a_submission("M2", priority="immediate"))
    await submit(acme, a_submission("M2", priority="immediate"))
    assert [urgent for _, urgent in instance.told.submitted] == [False, True]


async def test_a_default_priority_holds_for_messages_without_one(acme: httpx.AsyncClient) -> None:
    await submit(acme, a_submission("M1"), a_submission("M2", priority=0), default_priority="low")
    listed = (await acme.get("/messages")).json()["messages"]
    assert {each["id"]: each["priority"] for each in listed} == {"M1": 3, "M2": 0}


async def test_with_the_admin_token_an_account_that_one_tenant_has_names_the_tenant(
    admin: httpx.AsyncClient, acme: httpx.AsyncClient
) -> None:
    answer = await submit(admin, a_submission("M1", account_id="theirs"), a_submission("M2"))
    assert answer["queued"] == 1
    assert [(each["id"], each["code"]) for each in answer["rejected"]] == [("M2", "tenant_required")]
    assert (await admin.get("/messages/M1?tenant_id=other")).status_code == 200


async def test_an_inactive_tenants_messages_are_rejected(admin: httpx.AsyncClient, acme: httpx.AsyncClient) -> None:
    assert (await admin.put("/tenant/acme", json={"active": False})).status_code == 200
    answer = await submit(acme, a_submission())
    assert (answer["ok"], answer["rejected"][0]["code"]) == (False, "tenant_inactive")


async def test_a_message_is_shown_with_what_was_submitted(acme: httpx.AsyncClient) -> None:
    message = a_submission(
        "M1", to=["Bob <b@example.net>"], cc="c@example.net", metadata={"customer": 4711}, batch_code="July"
    )
    await submit(acme, message)
    shown = (await acme.get("/messages/M1")).json()
    assert shown["message"] == message
    assert (shown["state"], shown["status"], shown["attempts"]) == ("waiting", "pending", 0)
    assert (shown["metadata"], shown["batch_code"], shown["account_id"]) == ({"customer": 4711}, "July", "main")
    assert [(each["address"], each["kind"], each["state"]) for each in shown["recipients"]] == [
        ("b@example.net", "to", "waiting"),
        ("c@example.net", "cc", "waiting"),
    ]
    assert (await acme.get("/messages")).json()["messages"] == [
        {name: value for name, value in shown.items() if name != "ok"}
    ]


async def test_the_older_words_tell_where_a_message_stands(instance: Instance, acme: httpx.AsyncClient) -> None:
    later = instance.clock.now() + 3600
    await submit(acme, a_submission("now"), a_submission("later", deferred_ts=later))
    shown = (await acme.get("/messages/later")).json()
    assert (shown["state"], shown["status"], shown["deferred_ts"]) == ("waiting", "deferred", later)
    for status, ids in {"pending": ["now"], "deferred": ["later"], "sent": [], "error": []}.items():
        listed = (await acme.get(f"/messages?status={status}")).json()["messages"]
        assert [each["id"] for each in listed] == ids


async def attempt(instance: Instance, stage: Stage, code: int, text: str, **schedule: Any) -> None:
    """Let the one ready message be tried, with the same answer for each recipient."""
    account = (await instance.store.directory.accounts_of("acme"))[0]
    (claimed,) = (await instance.store.queue.claim([Demand(account.pk, 1)], "token", instance.clock.now())).claimed
    answer = Answer(Reply.parse(code, text), stage)
    result = Attempt(answers={recipient.n: answer for recipient in claimed.recipients})
    policy = Policy(RetrySchedule(**schedule))
    settlement = settle(claimed, result, policy, instance.clock.now(), Random(0))
    assert await instance.store.queue.settle([settlement]) == [True]


async def test_a_sent_message_says_when_and_what_the_server_said(instance: Instance, acme: httpx.AsyncClient) -> None:
    await submit(acme, a_submission())
    await attempt(instance, Stage.DOT, 250, "2.0.0 queued")
    shown = (await acme.get("/messages/M1")).json()
    assert (shown["state"], shown["status"], shown["attempts"]) == ("sent", "sent", 1)
    assert (shown["sent_ts"], shown["error_ts"], shown["error"]) == (instance.clock.now(), None, None)
    recipient = shown["recipients"][0]
    assert (recipient["state"], recipient["code"], recipient["enhanced_code"]) == ("sent", 250, "2.0.0")


async def test_a_failed_message_says_why(instance: Instance, acme: httpx.AsyncClient) -> None:
    await submit(acme, a_submission())
    await attempt(instance, Stage.RCPT, 550, "5.1.1 no such user")
    shown = (await acme.get("/messages/M1")).json()
    assert (shown["state"], shown["status"], shown["error"]) == ("failed", "error", "550 5.1.1 no such user")
    assert (shown["error_ts"], shown["sent_ts"]) == (instance.clock.now(), None)
    assert [each["id"] for each in (await acme.get("/messages?status=error")).json()["messages"]] == ["M1"]


async def test_a_message_that_is_tried_again_says_when_and_why(instance: Instance, acme: httpx.AsyncClient) -> None:
    await submit(acme, a_submission())
    await attempt(instance, Stage.RCPT, 450, "4.2.0 later", delays=(60.0,), jitter=0.0)
    shown = (await acme.get("/messages/M1")).json()
    assert (shown["state"], shown["status"], shown["deferred_ts"]) == ("waiting", "deferred", instance.clock.now() + 60)
    assert (shown["deferred_reason"], shown["error"]) == ("450 4.2.0 later", None)


async def test_a_history_is_in_order_with_what_was_reported(instance: Instance, acme: httpx.AsyncClient) -> None:
    await submit(acme, a_submission())
    await attempt(instance, Stage.RCPT, 450, "4.2.0 later", delays=(0.0,), jitter=0.0)
    await instance.store.queue.promote(instance.clock.now(), 10)
    await attempt(instance, Stage.DOT, 250, "2.0.0 queued")
    events = (await acme.get("/messages/M1/events")).json()["events"]
    assert [each["type"] for each in events] == ["queued", "deferred", "sent"]
    assert events[0]["event_id"] is None
    assert int(events[1]["event_id"]) < int(events[2]["event_id"])
    assert (events[2]["report"]["id"], events[2]["report"]["sent_ts"]) == ("M1", instance.clock.now())


async def test_pages_follow_each_other_without_gaps(acme: httpx.AsyncClient) -> None:
    await submit(acme, *(a_submission(f"M{n}") for n in range(7)))
    seen: list[str] = []
    cursor = ""
    while True:
        page = (await acme.get(f"/messages?limit=3{cursor}")).json()
        seen += [each["id"] for each in page["messages"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == [f"M{n}" for n in reversed(range(7))]


FOUND = {
    "account_id=main": ["M2", "M1"],
    "account_id=second": ["M3"],
    "batch_code=July": ["M2"],
    "priority=high": ["M2"],
    "priority=1": ["M2"],
    "state=waiting": ["M3", "M2", "M1"],
    "state=sent": [],
    "active_only=true": ["M3", "M2", "M1"],
    "account_id=main&batch_code=July&priority=1": ["M2"],
    "recipient=TWO@": ["M2"],
    "from=EXAMPLE.com": ["M3", "M2", "M1"],
    "subject=GR%C3%9CSSE": ["M3"],
    "metadata.customer=4711": ["M3"],
    "metadata.customer=4711&metadata.a%22b.c%5B%5D=true&active_only=true": ["M3"],
    "metadata.=": [],
    "created_from=1&created_to=99999999999": ["M3", "M2", "M1"],
    "created_to=1": [],
    "created_from=99999999999": [],
    # taken literally
    "account_id=%25": [],
    "batch_code=Jul_": [],
    "subject=%25": [],
    "recipient=%00": [],
    "metadata.customer=%25": [],
}


async def test_messages_are_found_by_their_filters(acme: httpx.AsyncClient) -> None:
    assert (await acme.post("/account", json={"id": "second", "host": "b.example", "port": 25})).status_code == 200
    await submit(
        acme,
        a_submission("M1", account_id="main"),
        a_submission("M2", account_id="main", batch_code="July", priority="high", to=["two@example.net"]),
        a_submission("M3", account_id="second", subject="Schöne Grüße", metadata={"customer": 4711, 'a"b.c[]': True}),
    )
    for query, ids in FOUND.items():
        listed = (await acme.get(f"/messages?{query}")).json()["messages"]
        assert [each["id"] for each in listed] == ids, query


async def test_an_id_may_be_any_printable_text(acme: httpx.AsyncClient) -> None:
    for id_ in ("a b", "50%", "ä?#&=", "a;b", "日本"):
        await submit(acme, a_submission(id_))
        shown = await acme.get(f"/messages/{quote(id_, safe='')}")
        assert (shown.status_code, shown.json().get("id")) == (200, id_), id_


async def test_a_message_of_one_tenant_is_not_seen_by_another(
    instance: Instance, admin: httpx.AsyncClient, acme: httpx.AsyncClient
) -> None:
    await submit(acme, a_submission("M1"))
    token = await new_tenant(admin, "third", "main")
    async with instance.client(token) as third:
        assert (await third.get("/messages")).json()["messages"] == []
        assert (await third.get("/messages/M1")).status_code == 404
        await submit(third, a_submission("M1", subject="ours"))
        assert (await third.get("/messages/M1")).json()["message"]["subject"] == "ours"
