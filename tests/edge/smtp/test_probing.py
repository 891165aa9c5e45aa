"""What a probe tells of an account, what it may connect to, and who pays for a session that was not opened."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from typing import Any

import pytest

from mail_proxy.domain.account import TlsMode
from mail_proxy.domain.attempt import AccountRefused, HostFailed, Probed, Step
from mail_proxy.outbound.guard import Guarded, refusal
from mail_proxy.smtp.pool import SmtpTransport
from tests.acceptance.sinks import reserved_port
from tests.edge.smtp.conftest import SHORT
from tests.edge.smtp.making import Dots, account, envelope, wire
from tests.support.certificates import Authority
from tests.support.smtp_servers import EXTENSIONS, Dialogue, Peer, real_server, scripted_server

LOGIN = {"user": "ann", "password": "right"}


async def test_of_all_that_wait_for_one_session_only_the_first_has_met_the_host(transport: SmtpTransport) -> None:
    with reserved_port() as closed:
        dead = account(closed.getsockname()[1], max_connections=4)
        attempts = await asyncio.gather(*(transport.send(dead, envelope(), wire(), Dots()) for _ in range(4)))
    failures = [attempt.failure for attempt in attempts]
    assert all(isinstance(failure, HostFailed) for failure in failures)
    assert [failure.shared for failure in failures if isinstance(failure, HostFailed)] == [False, True, True, True]


async def test_after_a_host_that_worked_is_gone_one_session_is_tried_at_a_time(transport: SmtpTransport) -> None:
    async with scripted_server(Dialogue(greeting="220 hello"), Dialogue(greeting="421 4.3.2 going down")) as server:
        acme = account(server.port, max_connections=4, ttl=0)
        assert (await transport.send(acme, envelope(), wire(), Dots())).failure is None
        await server.peers[0].hear_end()
        first = await transport.send(acme, envelope(), wire(), Dots())
        attempts = await asyncio.gather(*(transport.send(acme, envelope(), wire(), Dots()) for _ in range(4)))
    assert isinstance(first.failure, HostFailed)
    shared = [isinstance(each.failure, HostFailed) and each.failure.shared for each in attempts]
    assert shared == [False, True, True, True]


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"tls": TlsMode.NONE}, (Step.CONNECT, Step.GREETING, Step.HELLO)),
        ({"tls": TlsMode.STARTTLS, **LOGIN}, (Step.CONNECT, Step.GREETING, Step.HELLO, Step.TLS, Step.LOGIN)),
    ],
)
async def test_a_probe_that_gets_through_tells_its_steps(
    transport: SmtpTransport, authority: Authority, settings: dict[str, Any], steps: tuple[Step, ...]
) -> None:
    async with real_server(starttls=authority.server_context("127.0.0.1"), users={"ann": "right"}) as server:
        probed = await transport.probe(account(server.port, **settings))
    assert isinstance(probed, Probed)
    assert probed.steps == steps
    assert (probed.tls_version is not None) == (Step.TLS in steps)


async def test_a_probe_that_does_not_get_through_tells_the_step_and_the_reply(transport: SmtpTransport) -> None:
    dialogue = Dialogue(extensions=(*EXTENSIONS, "AUTH PLAIN"), auth="535 5.7.8 wrong")
    async with scripted_server(dialogue) as server:
        refused = await transport.probe(account(server.port, **LOGIN))
        no_tls = await transport.probe(account(server.port, tls=TlsMode.STARTTLS))
    assert isinstance(refused, AccountRefused)
    assert (refused.step, str(refused.reply)) == (Step.LOGIN, "535 5.7.8 wrong")
    assert isinstance(no_tls, AccountRefused)
    assert (no_tls.step, no_tls.reply) == (Step.TLS, None)


INSIDE = [
    "10.1.2.3",
    "127.0.0.1",
    "169.254.169.254",
    "100.100.100.200",
    "168.63.129.16",
    "::1",
    "::ffff:127.0.0.1",
    "64:ff9b::7f00:1",
    "fd00:ec2::254",
    "fe80::1",
    "0.0.0.0",  # noqa: S104 - a destination here
]


async def test_a_name_that_leads_inside_is_connected_to_for_the_operator_and_not_for_a_tenant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the name server says, and however often it changes its mind: it is asked once for each connection."""
    answers: list[str] = []
    lookups = 0

    def look_up(_host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        nonlocal lookups
        lookups += 1
        return [(socket.AF_INET6 if ":" in each else socket.AF_INET, 1, 6, "", (each, port)) for each in answers]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    guarded = SmtpTransport(timeouts=SHORT, address_refusal=lambda address: refusal(address, Guarded()))
    async with scripted_server(Dialogue()) as server:
        tenants = account(server.port, host="rebound.example", host_by_tenant=True)
        for number, answers in enumerate([[address] for address in INSIDE] + [INSIDE]):
            attempt = await guarded.send(tenants, envelope(), wire(), Dots())
            assert isinstance(attempt.failure, AccountRefused), answers
            assert lookups == number + 1
        assert server.peers == []
        answers = ["127.0.0.1"]
        assert (await guarded.send(replace(tenants, host_by_tenant=False), envelope(), wire(), Dots())).failure is None
        # The operator's session is not the tenant's.
        assert isinstance((await guarded.send(tenants, envelope(), wire(), Dots())).failure, AccountRefused)
    await guarded.close()


async def test_an_address_that_is_refused_is_not_connected_to_whichever_name_leads_there() -> None:
    asked: list[str] = []

    def refuse(address: str) -> str:
        asked.append(address)
        return "loopback"

    async def nobody(_peer: Peer) -> None:
        raise AssertionError("it was connected to")

    guarded = SmtpTransport(timeouts=SHORT, address_refusal=refuse)
    async with scripted_server(nobody) as server:
        for host in ("127.0.0.1", "localhost"):
            result = await guarded.probe(account(server.port, host=host, host_by_tenant=True))
            assert isinstance(result, AccountRefused)
            assert (result.step, result.text) == (
                Step.CONNECT,
                "connecting: the host must not be loopback; ask the operator",
            )
        assert server.peers == []
    await guarded.close()
    assert "127.0.0.1" in asked
