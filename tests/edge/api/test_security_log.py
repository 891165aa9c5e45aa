"""Security events are logged, within bounds, and without anything secret."""

from __future__ import annotations

from collections.abc import Callable

import httpx

from mail_proxy.api.security_log import LINES, WINDOW, SecurityLog
from tests.support.api import Instance
from tests.support.logged import logged
from tests.support.stores import SetClock


async def test_refused_tokens_and_changed_keys_are_told_without_them(
    instance: Instance, admin: httpx.AsyncClient
) -> None:
    with logged() as lines:
        async with instance.client("a-wrong-token") as stranger:
            await stranger.get("/messages/M1")
            await stranger.post("/commands/add-messages")
        key = (await admin.post("/tenant", json={"id": "acme"})).json()["api_key"]
        await admin.post("/tenant", json={"id": "acme", "name": "the same"})
        new = (await admin.post("/tenant/acme/api-key")).json()["api_key"]
        await admin.delete("/tenant/acme/api-key")
        await admin.delete("/tenant/nobody/api-key")
        async with instance.client(new) as tenant:
            await tenant.get("/status")
        await admin.delete("/tenant/acme")
    here = "127.0.0.1"
    refused = {"event": "token refused", "log_level": "warning", "address": here}
    changed = {"event": "key changed", "log_level": "warning", "address": here, "tenant_id": "acme"}
    assert lines == [
        {**refused, "method": "GET", "route": "/messages/{message_id}"},
        {**refused, "method": "POST", "route": "/commands/add-messages"},
        {**changed, "change": "tenant made with an API key"},
        {**changed, "change": "API key made"},
        {**changed, "change": "API key revoked"},
        {**refused, "method": "GET", "route": "/status"},
        {**changed, "change": "tenant removed with its API key"},
    ]
    assert not [secret for secret in (key, new, "a-wrong-token") if secret in str(lines)]


def test_a_flood_of_events_is_told_by_number_and_hides_no_other_kind() -> None:
    clock, later = SetClock(), list[tuple[float, Callable[[], None]]]()
    security = SecurityLog(clock, lambda seconds, end: later.append((seconds, end)))

    def refused() -> list[str]:
        with logged() as lines:
            for _ in range(LINES + 7):
                clock.time += 0.5
                security.token_refused("192.0.2.1", "GET", "/status")
        return [line["event"] for line in lines]

    assert refused() == ["token refused"] * LINES
    with logged() as lines:
        security.key_changed("API key made", "acme", None)
        security.request_refused("192.0.2.1", "bad_request", "an-id")
    assert [line["event"] for line in lines] == ["key changed", "request refused"]
    ((seconds, end),) = later
    assert seconds == WINDOW - LINES * 0.5
    clock.time += WINDOW
    with logged() as lines:
        end()
        end()
    told = [{"event": "security events left out", "log_level": "warning", "kind": "token refused", "events": 7}]
    assert lines == told
    # the next minute; what ends late is not taken for its end
    assert refused() == ["token refused"] * LINES
    clock.time += WINDOW
    with logged() as lines:
        security.token_refused("192.0.2.1", "GET", "/status")
        later[-1][1]()
    assert lines[:1] == told
    assert len(lines) == 2
