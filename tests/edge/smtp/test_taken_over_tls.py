"""The connection changes hands over TLS too: ends, floods and slow servers look the same as in clear."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mail_proxy.domain.account import Account, TlsMode
from mail_proxy.domain.attempt import HostFailed
from mail_proxy.domain.compose import Wire
from mail_proxy.smtp.pool import SmtpTransport
from tests.edge.smtp.conftest import SHORT
from tests.edge.smtp.making import Dots, Source, account, envelope, wire
from tests.support.certificates import Authority
from tests.support.smtp_servers import EXTENSIONS, Dialogue, Peer, Said, scripted_server

WITH_STARTTLS = (*EXTENSIONS, "STARTTLS")


def encrypted(port: int) -> Account:
    return account(port, tls=TlsMode.STARTTLS)


@pytest.fixture
def dialogue(authority: Authority) -> Dialogue:
    return Dialogue(extensions=WITH_STARTTLS, context=authority.server_context("127.0.0.1"))


async def drop(peer: Peer) -> None:
    peer.drop()


async def close(peer: Peer) -> None:
    peer.close()
    await peer.hear_end()


async def farewell(peer: Peer) -> None:
    peer.say("421 4.3.2 going down")
    await close(peer)


async def flood(peer: Peer) -> None:
    while not peer.gone.done():
        peer.say_bytes(b"250-and so on\r\n" * 1000)
        await peer.flush()


async def hang(peer: Peer) -> None:
    await peer.hear_end()


@pytest.mark.parametrize("end", [drop, close, farewell, flood, hang])
async def test_an_end_before_the_dot_is_the_hosts_failure(dialogue: Dialogue, authority: Authority, end: Said) -> None:
    transport = SmtpTransport(timeouts=replace(SHORT, command=0.3), extra_ca=authority.path)
    dialogue.data = end
    async with scripted_server(dialogue) as server:
        attempt = await transport.send(encrypted(server.port), envelope(), wire(), dots := Dots())
        await server.peers[0].hear_end()
        await transport.close()
    assert isinstance(attempt.failure, HostFailed)
    assert (attempt.answers, attempt.uncertain, dots.seen) == ({}, frozenset(), [])


@pytest.mark.parametrize("end", [drop, close, flood, hang])
async def test_an_end_after_the_dot_is_uncertain(dialogue: Dialogue, authority: Authority, end: Said) -> None:
    transport = SmtpTransport(timeouts=replace(SHORT, dot=0.1), extra_ca=authority.path)
    dialogue.dot = end
    async with scripted_server(dialogue) as server:
        attempt = await transport.send(encrypted(server.port), envelope(), wire(), Dots())
        await server.peers[0].hear_end()
        await transport.close()
    assert attempt.uncertain == {0}
    assert attempt.answers == {}


@pytest.mark.parametrize("end", [drop, close, farewell])
async def test_a_stale_session_is_replaced_at_once(transport: SmtpTransport, dialogue: Dialogue, end: Said) -> None:
    async with scripted_server(dialogue) as server:
        assert (await transport.send(encrypted(server.port), envelope(), wire(), Dots())).answers[0].accepted
        replies: list[Said] = [end]
        dialogue.rcpt = lambda _address: replies.pop() if replies else "250 ok"
        assert (await transport.send(encrypted(server.port), envelope(), wire(), Dots())).answers[0].accepted
    assert len(server.peers) == 2


@pytest.mark.parametrize("end", [drop, close, farewell])
async def test_a_server_that_left_meanwhile_costs_nothing(
    transport: SmtpTransport, dialogue: Dialogue, end: Said
) -> None:
    async with scripted_server(dialogue) as server:
        assert (await transport.send(encrypted(server.port), envelope(), wire(), Dots())).answers[0].accepted
        assert not isinstance(end, str)
        await end(server.peers[0])
        await server.peers[0].hear_end()
        assert (await transport.send(encrypted(server.port), envelope(), wire(), dots := Dots())).answers[0].accepted
    assert dots.seen == [0]


async def test_a_slow_server_slows_the_source_down(transport: SmtpTransport, dialogue: Dialogue) -> None:
    source = Source([b"line\r\n" * 10_000] * 300)
    stalled: list[int] = []

    async def stall(peer: Peer) -> None:
        peer.say("354 go ahead")
        peer.transport.pause_reading()
        before = -1
        while before != source.taken:
            before = source.taken
            for _ in range(50):
                await peer.flush()
        stalled.append(source.taken)
        peer.transport.resume_reading()
        await peer.hear_message()
        peer.say("250 taken")
        await peer.hear()

    dialogue.data, dialogue.extensions = stall, ("PIPELINING", "STARTTLS")
    async with scripted_server(dialogue) as server:
        attempt = await transport.send(encrypted(server.port), envelope(), Wire((source,), source.size), Dots())
    assert attempt.answers[0].accepted
    assert 0 < stalled[0] < 200


async def test_a_session_ends_politely(transport: SmtpTransport, dialogue: Dialogue) -> None:
    async with scripted_server(dialogue) as server:
        assert (await transport.send(encrypted(server.port), envelope(), wire(), Dots())).answers[0].accepted
        await transport.close()
        await server.peers[0].hear_end()
    assert server.verbs[0][-1] == "QUIT"
