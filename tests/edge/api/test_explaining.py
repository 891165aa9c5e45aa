"""Why a message has not been sent yet, by the API."""

from __future__ import annotations

import httpx

from mail_proxy.api.schemas.messages import ExplanationAnswer
from mail_proxy.domain.account import Outage
from mail_proxy.domain.explanation import Here
from tests.support.api import Instance, a_submission


async def test_all_that_holds_a_message_is_told(instance: Instance, acme: httpx.AsyncClient) -> None:
    (main,) = await instance.store.directory.accounts_of("acme")
    await acme.post("/commands/add-messages", json={"messages": [a_submission("M1"), a_submission("M2")]})
    now = instance.clock.now()
    instance.here[main.pk] = Here(Outage("connection refused", now - 5, now + 10))
    await acme.post("/commands/suspend")
    told = (await acme.get("/messages/M2/explain")).json()
    ExplanationAnswer.model_validate(told)
    assert [each["reason"] for each in told["holds"]] == ["tenant_suspended", "server_unreachable", "queued"]
    assert (told["holds"][1]["since"], told["holds"][1]["until"]) == (now - 5, now + 10)
    assert (told["state"], told["ahead"], told["ahead_is_at_least"]) == ("waiting", 1, False)
    assert told["sentence"].startswith("Its tenant is suspended; besides, the server of its account 'main'")


async def test_an_id_that_cannot_be_is_not_found(acme: httpx.AsyncClient) -> None:
    for id_ in ("unknown", "x" * 300, "%00"):
        assert (await acme.get(f"/messages/{id_}/explain")).status_code == 404
