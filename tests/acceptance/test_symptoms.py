"""Each line of the table of symptoms in docs/operations.md, by causing the symptom: what it says is seen is seen."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.acceptance.conftest import NewInstance
from tests.acceptance.sinks import reserved_port, running_sink
from tests.acceptance.tenants import Tenant, new_tenant
from tests.docs.pages import page, table_rows
from tests.support.callback_server import CallbackServer, Reply
from tests.support.instance import Instance, a_message
from tests.support.smtp_servers import Dialogue, Peer, real_server, scripted_server

Cause = Callable[[Instance], AbstractAsyncContextManager[str]]
"""Brings a symptom about, and gives the id of the tenant that has it; a message `M1` of it has it as well."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    symptom: str
    metric: str | None
    log: str | None
    route: str
    shows: str


def _code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def rows() -> list[Row]:
    """Read the table."""
    section = page("docs/operations.md").text.partition("\n## Symptoms\n")[2].partition("\n## ")[0]
    found = []
    for symptom, metric, log, ask, _remedy in list(table_rows(section))[1:]:
        route, shows = _code(ask)
        found.append(Row(symptom, next(iter(_code(metric)), None), next(iter(_code(log)), None), route, shows))
    return found


@asynccontextmanager
async def _refused_login(instance: Instance) -> AsyncIterator[str]:
    login = {"tls": "none", "user": "mailer", "password": "wrong"}
    async with (
        real_server(users={"mailer": "right"}, auth_in_clear=True) as server,
        new_tenant(instance, server.port, **login) as acme,
    ):
        await acme.client.submit(a_message("M1"))
        yield acme.id


@asynccontextmanager
async def _server_away(instance: Instance) -> AsyncIterator[str]:
    with reserved_port() as closed:
        async with new_tenant(instance, closed.getsockname()[1]) as acme:
            await acme.client.submit(a_message("M1"))
            yield acme.id


@asynccontextmanager
async def _scheduler_off(instance: Instance) -> AsyncIterator[str]:
    async with running_sink() as sink, new_tenant(instance, sink.port) as acme:
        await acme.admin.post("/commands/suspend")
        await acme.client.submit(a_message("M1"))
        yield acme.id


@asynccontextmanager
async def _tenant_suspended(instance: Instance) -> AsyncIterator[str]:
    async with running_sink() as sink, new_tenant(instance, sink.port) as acme:
        await acme.client.post("/commands/suspend")
        await acme.client.submit(a_message("M1"))
        yield acme.id


@asynccontextmanager
async def _limited(instance: Instance) -> AsyncIterator[str]:
    async with running_sink() as sink, new_tenant(instance, sink.port, limit_per_minute=1) as acme:
        await acme.client.submit(a_message("M0"))
        await sink.wait_for(1)
        await acme.client.submit(a_message("M1"))
        yield acme.id


@asynccontextmanager
async def _answering(instance: Instance, reply: str) -> AsyncIterator[Tenant]:
    async with running_sink() as sink, new_tenant(instance, sink.port) as acme:
        sink.rcpt = lambda _address: reply
        await acme.client.submit(a_message("M1"))
        yield acme


@asynccontextmanager
async def _refused_address(instance: Instance) -> AsyncIterator[str]:
    async with _answering(instance, "550 5.1.1 no such user") as acme:
        yield acme.id


@asynccontextmanager
async def _later(instance: Instance) -> AsyncIterator[str]:
    async with _answering(instance, "450 4.2.0 come back later") as acme:
        yield acme.id


@asynccontextmanager
async def _lost_dot(instance: Instance) -> AsyncIterator[str]:
    async def drop(peer: Peer) -> None:
        peer.drop()

    async with scripted_server(Dialogue(dot=drop)) as server, new_tenant(instance, server.port) as acme:
        await acme.client.submit(a_message("M1"))
        yield acme.id


@asynccontextmanager
async def _no_attachment(instance: Instance) -> AsyncIterator[str]:
    async with running_sink() as sink, new_tenant(instance, sink.port) as acme:
        missing = {"filename": "a.pdf", "storage_path": "not/there.pdf", "fetch_mode": "filesystem"}
        await acme.client.submit(a_message("M1", attachments=[missing]))
        yield acme.id


@asynccontextmanager
async def _endpoint_answers(instance: Instance, status: int) -> AsyncIterator[str]:
    async with (
        running_sink() as sink,
        CallbackServer() as endpoint,
        new_tenant(instance, sink.port, callback=endpoint.url) as acme,
    ):
        endpoint.by_default = Reply(status)
        await acme.client.submit(a_message("M1"))
        yield acme.id


def _endpoint_fails(instance: Instance) -> AbstractAsyncContextManager[str]:
    return _endpoint_answers(instance, 500)


def _endpoint_gone(instance: Instance) -> AbstractAsyncContextManager[str]:
    return _endpoint_answers(instance, 410)


CAUSES: dict[str, Cause] = {
    "mail of one account waits, as its login is refused": _refused_login,
    "mail of one account waits, as its server cannot be reached": _server_away,
    "nothing is sent at all": _scheduler_off,
    "one tenant's mail waits": _tenant_suspended,
    "mail goes out slowly, in bursts": _limited,
    "messages come back as refused": _refused_address,
    'servers say "later"': _later,
    "a message arrived twice": _lost_dot,
    "attachments are not there": _no_attachment,
    "an application hears nothing": _endpoint_fails,
    "an application hears nothing any more": _endpoint_gone,
}


def test_every_symptom_of_the_table_is_caused() -> None:
    assert {row.symptom for row in rows()} == set(CAUSES)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.symptom)
async def test_what_the_table_says_is_seen(row: Row, new_instance: NewInstance) -> None:
    instance = new_instance(RETRY_DELAYS="0.2,600")
    await instance.start()
    async with CAUSES[row.symptom](instance) as tenant_id, instance.client() as admin:
        route = row.route.removeprefix("GET ").replace("TENANT", tenant_id).replace("/ID", "/M1")
        missing = ["?"]
        deadline = time.monotonic() + 15
        while missing and time.monotonic() < deadline:
            missing = []
            if row.metric is not None and not _counted((await admin.ask("GET", "/metrics")).text, row.metric):
                missing.append(row.metric)
            if row.log is not None and not instance.logged(row.log):
                missing.append(row.log)
            answer = (await admin.ask("GET", route)).json()
            if not _shows(answer, row.shows):
                missing.append(f"{row.shows} in {answer}")
            await asyncio.sleep(0.1)
        assert not missing


def _counted(text: str, metric: str) -> bool:
    """True when a series of the metric, with those labels, is above 0."""
    name, _, labels = metric.partition("{")
    lines = (line for line in text.splitlines() if line.partition("{")[0].partition(" ")[0] == name)
    return any(float(line.rpartition(" ")[2]) > 0 for line in lines if labels.rstrip("}") in line)


def _shows(answer: Any, what: str) -> bool:
    """True when something of that name is there and not empty, or a text that says so."""
    match answer:
        case dict():
            return bool(answer.get(what)) or any(_shows(each, what) for each in answer.values())
        case list():
            return any(_shows(each, what) for each in answer)
        case str():
            return what in answer
        case _:
            return False
