"""Bad input to the real server: what is right goes out, and what is wrong is told where and why."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.acceptance.sinks import running_sink
from tests.acceptance.tenants import new_tenant
from tests.support.instance import Instance, a_message

BAD: dict[str, tuple[dict[str, object], str, str]] = {
    "no recipient": ({"to": []}, "to", "invalid"),
    "a line break in the subject": ({"subject": "a\nBcc: c@example.org"}, "subject", "invalid"),
    "an address that is none": ({"to": "nobody"}, "to", "invalid"),
    "a structural header": ({"headers": {"From": "c@example.org"}}, "headers", "invalid"),
    "an unknown field": ({"colour": "red"}, "colour", "invalid"),
    "milliseconds": ({"deferred_ts": 1_800_000_000_000}, "deferred_ts", "invalid"),
    "an unknown account": ({"account_id": "nope"}, "account_id", "unknown_account"),
    "a slash in the id": ({"id": "a/b"}, "id", "id_invalid"),
}


async def test_one_bad_message_in_a_batch_is_refused_with_field_and_reason_and_the_others_go_out(
    shared: Instance,
) -> None:
    async with running_sink() as sink, new_tenant(shared, sink.port) as acme:
        expected = []
        for number, (fields, field, code) in enumerate(BAD.values()):
            batch = [a_message(f"{number}-{n}") for n in range(50)]
            place = number * 6 + 1
            batch[place] |= fields
            receipt = await acme.client.submit(*batch)
            assert (receipt["ok"], receipt["queued"], receipt["duplicates"], receipt["replaced"]) == (True, 49, [], [])
            (rejected,) = receipt["rejected"]
            told = (rejected["index"], rejected["id"], rejected["field"], rejected["code"])
            assert told == (place, batch[place]["id"], field, code)
            assert rejected["reason"]
            expected += [f"{number}-{n}" for n in range(50) if n != place]
        await sink.wait_for(len(expected))
        listed = await acme.client.messages()
    assert sink.ledger == dict.fromkeys(expected, 1)
    assert listed.keys() == set(expected)


async def test_a_batch_of_nothing_but_mistakes_is_not_ok_and_leaves_nothing_behind(shared: Instance) -> None:
    async with new_tenant(shared, 25) as acme:
        receipt = await acme.client.submit(*(a_message("M") | fields for fields, _, _ in BAD.values()))
        assert (receipt["ok"], receipt["queued"], len(receipt["rejected"])) == (False, 0, len(BAD))
        assert [each["index"] for each in receipt["rejected"]] == list(range(len(BAD)))
        assert await acme.client.messages() == {}


def told(response: httpx.Response) -> tuple[int, str]:
    """Return status and code of a failure, which has to look as every failure does."""
    body: dict[str, Any] = response.json()
    assert body["ok"] is False
    assert body["error"]
    assert response.headers["content-type"] == "application/json"
    return response.status_code, body["code"]


ADD = "/commands/add-messages"


async def test_who_may_not_and_what_is_not_there(shared: Instance) -> None:
    async with new_tenant(shared, 25) as acme, new_tenant(shared, 25) as other:
        message = a_message("M1")
        for token in (None, "", "wrong", "wrong" * 1000, acme.token[:-1], acme.token.swapcase()):
            async with shared.client(token) as stranger:
                for method, path in (("POST", ADD), ("GET", "/messages"), ("GET", "/status")):
                    response = await stranger.ask(method, path)
                    assert told(response) == (401, "unauthorized"), (token, path)
                    assert response.headers["www-authenticate"] == "Bearer"

        ask = acme.client.ask
        assert told(await ask("GET", "/tenants")) == (403, "admin_only")
        assert told(await ask("POST", "/tenant", json={"id": "new"})) == (403, "admin_only")
        assert told(await ask("GET", "/messages", params={"tenant_id": other.id})) == (403, "wrong_tenant")
        assert told(await ask("GET", f"/tenant/{other.id}")) == (403, "wrong_tenant")
        # A batch with one message of another tenant is refused as a whole.
        batch = {"messages": [message, {**message, "id": "M2", "tenant_id": other.id}]}
        assert told(await ask("POST", ADD, json=batch)) == (403, "wrong_tenant")
        assert await acme.client.messages() == {}

        assert told(await ask("GET", "/nowhere")) == (404, "not_found")
        assert told(await ask("GET", "/messages/nope")) == (404, "not_found")
        assert told(await ask("GET", "/account/nope")) == (404, "not_found")
        assert told(await ask("DELETE", "/messages")) == (405, "method_not_allowed")
        assert told(await acme.admin.ask("GET", "/tenant/nope")) == (404, "not_found")
        assert told(await acme.admin.ask("GET", "/messages", params={"tenant_id": "nope"})) == (404, "not_found")

        receipt = await acme.admin.submit({**message, "tenant_id": "nope"}, {**message, "tenant_id": acme.id})
        (rejected,) = receipt["rejected"]
        assert (receipt["queued"], rejected["index"], rejected["field"]) == (1, 0, "tenant_id")
        assert rejected["code"] == "unknown_tenant"

        # A tenant may not have mail sent to this machine's own network.
        account = {"id": "own", "host": "127.0.0.1", "port": 25}
        refused = await ask("POST", "/account", json=account)
        assert told(refused) == (422, "invalid")
        assert [each["field"] for each in refused.json()["detail"]] == ["host"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", None),
        (b'{"messages": [', None),
        (b"{'messages': []}", None),
        (b"[]", None),
        (b'{"messages": [{"id": "M1"}], "messages": []}', None),
        (b"\xff\xfe", None),
        (b"{}", "messages"),
        (b'{"messages": [], "colour": 1}', "colour"),
        (b'{"messages": "M1"}', "messages"),
    ],
)
async def test_a_request_that_is_wrong_as_a_whole_is_refused_as_a_whole(
    shared: Instance, body: bytes, field: str | None
) -> None:
    async with shared.client() as admin:
        response = await admin.ask("POST", ADD, content=body)
        assert told(response) == (422, "invalid")
        fields = [each["field"] for each in response.json()["detail"]]
        assert all(each["problem"] for each in response.json()["detail"])
        assert field is None or fields == [field]
