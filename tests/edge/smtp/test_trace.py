"""What an attempt spent its time on: told for logs and metrics, and only what it went through itself."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from mail_proxy.domain.account import TlsMode
from mail_proxy.domain.attempt import Phase
from mail_proxy.domain.secret import Secret
from mail_proxy.smtp.pool import SmtpTransport
from tests.edge.smtp.making import Dots, account, envelope, wire
from tests.support.certificates import Authority
from tests.support.smtp_servers import Dialogue, Peer, real_server, scripted_server

TRANSACTION = {Phase.ENVELOPE, Phase.CONTENT, Phase.DOT}
OPENING = {Phase.CONNECT, Phase.GREETING, Phase.HELLO}


async def test_a_session_is_paid_for_by_whoever_opened_it(transport: SmtpTransport, authority: Authority) -> None:
    async with real_server(starttls=authority.server_context("localhost"), users={"mailer": "p"}) as server:
        there = replace(
            account(server.port), host="localhost", tls=TlsMode.STARTTLS, user="mailer", password=Secret("p")
        )
        first = (await transport.send(there, envelope(), wire(), Dots())).trace
        second = (await transport.send(there, envelope(), wire(), Dots())).trace
        await transport.close()
    assert set(first.seconds) == TRANSACTION | OPENING | {Phase.TLS, Phase.LOGIN}
    assert (first.sessions, first.tls) == (1, "TLSv1.3")
    assert set(second.seconds) == TRANSACTION
    assert (second.sessions, second.tls) == (0, "TLSv1.3")
    assert all(seconds >= 0 for seconds in (*first.seconds.values(), *second.seconds.values()))


async def test_each_phase_has_the_time_that_the_server_took_for_it(transport: SmtpTransport) -> None:
    def slow(reply: str) -> object:
        async def say(peer: Peer) -> None:
            await asyncio.sleep(0.05)
            peer.say(reply)

        return say

    async with scripted_server(Dialogue(mail=slow("250 ok"), dot=slow("250 taken"))) as server:  # type: ignore[arg-type]
        trace = (await transport.send(account(server.port), envelope(), wire(), Dots())).trace
        await transport.close()
    assert trace.tls is None
    assert trace.seconds[Phase.ENVELOPE] >= 0.045
    assert trace.seconds[Phase.DOT] >= 0.045
    assert trace.seconds[Phase.CONTENT] < 0.045


@pytest.mark.parametrize("dot", ["554 no", None], ids=["refused", "lost"])
async def test_what_was_refused_or_lost_is_told_as_well(transport: SmtpTransport, dot: str | None) -> None:
    async def drop(peer: Peer) -> None:
        peer.drop()

    async with scripted_server(Dialogue(dot=dot or drop)) as server:
        attempt = await transport.send(account(server.port), envelope(), wire(), Dots())
        await transport.close()
    assert set(attempt.trace.seconds) == TRANSACTION | OPENING
    assert attempt.uncertain == (frozenset({0}) if dot is None else frozenset())


async def test_a_session_that_had_ended_meanwhile_is_replaced_at_the_cost_of_the_one_that_met_it(
    transport: SmtpTransport,
) -> None:
    async def once(peer: Peer) -> None:
        peer.say("250 ok" if peer.heard.count("DATA") == 0 else "421 idle for too long")

    async with scripted_server(Dialogue(mail=once), Dialogue()) as server:
        first = await transport.send(account(server.port), envelope(), wire(), Dots())
        second = await transport.send(account(server.port), envelope(), wire(), Dots())
        await transport.close()
    assert first.answers[0].accepted
    assert second.answers[0].accepted
    assert (first.trace.sessions, second.trace.sessions) == (1, 1)
    assert set(second.trace.seconds) == TRANSACTION | OPENING
