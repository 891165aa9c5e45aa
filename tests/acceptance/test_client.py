"""The Python client against a running service: with asyncio and without, by one suite."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from mail_proxy.client import (
    AsyncMailProxyClient,
    Conflict,
    Invalid,
    MailProxyClient,
    NotFound,
    Rejected,
    Unauthorized,
)
from tests.acceptance.sinks import Sink, running_sink
from tests.docs.pages import page
from tests.support.instance import ADMIN_TOKEN, Instance

A_MESSAGE = {"from": "shop@acme.example", "to": "anna@example.org", "subject": "Hi", "body": "Hi"}


@pytest.fixture(scope="module")
def _instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    instance = Instance(tmp_path_factory.mktemp("client"))
    yield instance
    instance.close()


@pytest.fixture
async def instance(_instance: Instance) -> Instance:
    """A running instance."""
    if not _instance.running:
        await _instance.start()
    return _instance


async def done(value: Any) -> Any:
    """What a method of either client comes to."""
    return await value if inspect.isawaitable(value) else value


class Either:
    """A client of either kind; what blocks does so on a thread."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def call(self, method: Any, *arguments: Any, **named: Any) -> Any:
        """Call a method of the client."""
        if inspect.iscoroutinefunction(method):
            return await method(*arguments, **named)
        return await asyncio.to_thread(method, *arguments, **named)

    async def first(self, items: Any, count: int) -> list[Any]:
        """The first items of an iterator of the client."""
        if not hasattr(items, "__aiter__"):
            return await asyncio.to_thread(lambda: list(islice(items, count)))
        found = []
        async for each in items:
            found.append(each)
            if len(found) == count:
                break
        return found


@asynccontextmanager
async def either(kind: str, url: str, token: str, **more: Any) -> AsyncIterator[Either]:
    client: Any = AsyncMailProxyClient(url, token, **more) if kind == "asyncio" else MailProxyClient(url, token, **more)
    yield Either(client)
    await done(client.close())


@pytest.fixture(params=["asyncio", "threads"])
async def desk(request: pytest.FixtureRequest, instance: Instance) -> AsyncIterator[tuple[Either, Either, Sink]]:
    """The operator's client, that of a fresh tenant `t-…` with the account `main`, and its mail server."""
    kind = request.param
    async with running_sink() as sink, either(kind, instance.address, ADMIN_TOKEN) as admin:
        id_ = f"t-{kind}-{sink.port}"
        token = await admin.call(admin.client.tenants.add, id_, name="Acme")
        mine = admin.client.of_tenant(id_)
        assert await admin.call(mine.accounts.put, "main", host="127.0.0.1", port=sink.port)
        assert not await admin.call(mine.accounts.put, "main", max_connections=2)
        async with either(kind, instance.address, token) as tenant:
            yield admin, tenant, sink
        await admin.call(admin.client.tenants.delete, id_, force=True)


async def test_messages_from_the_submission_to_their_history(desk: tuple[Either, Either, Sink]) -> None:
    _, tenant, sink = desk
    messages = tenant.client.messages
    receipt = await tenant.call(messages.add, {"id": "M1", **A_MESSAGE}, {"id": "M2", **A_MESSAGE})
    assert (receipt["queued"], receipt["rejected"]) == (2, [])
    assert (await tenant.call(messages.add, {"id": "M1", **A_MESSAGE}))["duplicates"] == ["M1"]
    await tenant.call(messages.add, A_MESSAGE)  # it gets an id
    await sink.wait_for(3)
    entries = await tenant.first(tenant.client.events.follow(), 3)
    assert [each["event"] for each in entries] == ["sent"] * 3
    page = await tenant.call(tenant.client.events.page, entries[0]["event_id"])
    assert [each["event_id"] for each in page["events"]] == [each["event_id"] for each in entries[1:]]
    listed = await tenant.first(messages.list(page=1), 10)
    assert len(listed) == 3
    assert {each["state"] for each in await tenant.first(messages.sent(), 10)} == {"sent"}
    assert await tenant.first(messages.pending(), 10) == await tenant.first(messages.errors(), 10) == []
    one = await tenant.call(messages.get, "M1")
    assert (one["id"], one["recipients"][0]["address"]) == ("M1", "anna@example.org")
    history = await tenant.call(messages.history, "M1")
    assert [each["type"] for each in history][-1] == "sent"
    assert (await tenant.call(messages.explain, "M1"))["state"] == "sent"
    assert (await tenant.call(messages.delete, "M1", "nobody"))["not_found"] == ["nobody"]
    assert (await tenant.call(messages.retry, "M2"))["reasons"] == {"not_failed": 1}
    with pytest.raises(NotFound):
        await tenant.call(messages.get, "M1")
    assert "removed" in await tenant.call(messages.cleanup, 0)


async def test_a_message_that_is_not_taken_is_raised_with_its_reason(desk: tuple[Either, Either, Sink]) -> None:
    _, tenant, sink = desk
    bad = {"id": "bad", **A_MESSAGE, "to": "nobody"}
    with pytest.raises(Rejected, match=r"message 'bad': to: ") as refused:
        await tenant.call(tenant.client.messages.add, {"id": "good", **A_MESSAGE}, bad)
    assert refused.value.receipt["queued"] == 1
    assert refused.value.ids == ["good", "bad"]
    receipt = await tenant.call(tenant.client.messages.add, bad, strict=False)
    assert receipt["rejected"][0]["field"] == "to"
    await sink.wait_for(1)


async def test_suspended_a_message_waits_and_says_why(desk: tuple[Either, Either, Sink]) -> None:
    admin, tenant, sink = desk
    assert (await tenant.call(tenant.client.suspend, "spring"))["suspended_batches"] == ["spring"]
    await tenant.call(tenant.client.messages.add, {"id": "M1", "batch_code": "spring", **A_MESSAGE})
    told = await tenant.call(tenant.client.messages.explain, "M1")
    assert [each["reason"] for each in told["holds"]] == ["batch_suspended"]
    with pytest.raises(Conflict) as refused:
        await admin.call(admin.client.of_tenant(told["tenant_id"]).accounts.delete, "main")
    assert refused.value.code == "account_in_use"
    await tenant.call(tenant.client.activate, "spring")
    await tenant.call(tenant.client.run_now)
    await sink.wait_for(1)


async def test_the_example_of_the_page_submits_a_message(desk: tuple[Either, Either, Sink], tmp_path: Path) -> None:
    admin, tenant, sink = desk
    (account,) = await tenant.call(tenant.client.accounts.list)
    token = await admin.call(admin.client.tenants.new_key, account["tenant_id"])
    (block,) = (each for each in page("docs/client.md").blocks if each.mark == "client.py")
    text = block.text.replace("http://127.0.0.1:8000", tenant.client.url).replace("the-token-of-your-tenant", token)
    (tmp_path / "client.py").write_text(text, encoding="utf-8")
    child = await asyncio.create_subprocess_exec(sys.executable, str(tmp_path / "client.py"), stdout=subprocess.PIPE)
    output, _ = await child.communicate()
    assert child.returncode == 0
    assert output.decode().count("\n") == 1
    await sink.wait_for(1)
    assert sink.ids == ["order-1042-confirmation"]


def test_every_method_is_on_the_page() -> None:
    client = MailProxyClient("http://127.0.0.1:1", "t")
    told = page("docs/client.md").text
    parts = {"": client, "messages.": client.messages, "events.": client.events, "accounts.": client.accounts}
    parts |= {"tenants.": client.tenants, "command_log.": client.command_log}
    names = {
        f"{prefix}{name}"
        for prefix, part in parts.items()
        for name, _ in inspect.getmembers(part, inspect.ismethod)
        if not name.startswith("_")
    }
    shown = {name for name in names if f"`{name}(" in told or f"`.{name.partition('.')[2]}(" in told}
    assert names - shown == {"close", "query"}
    client.close()


async def test_accounts_and_tenants(desk: tuple[Either, Either, Sink]) -> None:
    admin, tenant, _ = desk
    (account,) = await tenant.call(tenant.client.accounts.list)
    assert (account["id"], account["max_connections"]) == ("main", 2)
    assert (await tenant.call(tenant.client.accounts.get, "main"))["host"] == "127.0.0.1"
    assert (await tenant.call(tenant.client.accounts.test, "main"))["ok"]
    tenants = admin.client.tenants
    id_ = account["tenant_id"]
    await admin.call(tenants.update, id_, name="Acme International")
    assert (await admin.call(tenants.get, id_))["name"] == "Acme International"
    assert id_ in [each["id"] for each in await admin.call(tenants.list)]
    await admin.call(tenants.add, "zz-another")
    listed = await admin.call(tenants.list)
    assert await admin.first(tenants.each(page=1), len(listed)) == listed
    await tenant.call(tenant.client.accounts.put, "second", host="smtp.example.com", port=25)
    accounts = await tenant.call(tenant.client.accounts.list)
    assert [each["id"] for each in accounts] == ["main", "second"]
    assert await tenant.first(tenant.client.accounts.each(page=1), 2) == accounts
    await tenant.call(tenant.client.accounts.delete, "second")
    await admin.call(tenants.delete, "zz-another")
    assert (await admin.call(tenants.new_signing_secret, id_)).startswith("whsec_")
    with pytest.raises(Invalid) as refused:
        await admin.call(tenants.update, id_, colour="red")
    assert [each.field for each in refused.value.problems] == ["colour"]
    assert await admin.call(tenants.new_key, id_)
    with pytest.raises(Unauthorized):
        await tenant.call(tenant.client.status)
    await admin.call(tenants.revoke_key, id_)
    assert (await admin.call(admin.client.status))["database"] == "sqlite"


async def test_an_operator_reads_exports_and_purges_the_command_log_and_changes_the_instance(
    instance: Instance,
) -> None:
    async with AsyncMailProxyClient(instance.address, ADMIN_TOKEN) as proxy:
        await proxy.tenants.add("logged")
        entries = [each async for each in proxy.command_log.list(tenant_id="logged", page=1)]
        assert [each["route"] for each in entries] == ["/tenant"]
        lines = [line async for line in proxy.command_log.export(tenant_id="logged")]
        assert [json.loads(line) for line in lines] == entries
        assert await proxy.command_log.purge(entries[0]["ts"] + 0.001) >= 1
        assert [each async for each in proxy.command_log.list(tenant_id="logged")] == []
        with pytest.raises(Invalid):
            [line async for line in proxy.command_log.export(since="never")]
        assert (await proxy.change(scheduler_active=False))["scheduler_active"] is False
        assert (await proxy.change(scheduler_active=True))["scheduler_active"] is True
        shown = {each["name"]: each for each in (await proxy.settings())["settings"]}
        assert (shown["api_token"]["secret"], shown["api_token"]["value"]) == (True, None)
        assert "logged" in [each["tenant_id"] async for each in proxy.tenants.reporting()]
        assert (await proxy.of_tenant("logged").status())["pending_messages"] == 0
        with pytest.raises(Conflict, match="GMP_API_TOKEN"):
            await proxy.new_token()
