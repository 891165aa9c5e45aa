"""Servers that leave, hang, or talk nonsense at any step: what is known of the message afterwards."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from mail_proxy.domain.attempt import Attempt, HostFailed, Stage
from mail_proxy.smtp.pool import SmtpTransport
from mail_proxy.smtp.timeouts import Timeouts
from tests.edge.smtp.conftest import SHORT
from tests.edge.smtp.making import Dots, account, envelope, wire
from tests.support.smtp_servers import EXTENSIONS, Dialogue, Peer, Said, scripted_server


def spoken(value: object) -> str:
    """Name what a server does, the same in every run."""
    return getattr(value, "__name__", str(value))


NOT_PIPELINED = EXTENSIONS[1:]
BEFORE_THE_DOT = ["greeting", "ehlo", "mail", "rcpt", "data"]
IN_A_TRANSACTION = ["mail", "rcpt", "data"]

pipelined_or_not = pytest.mark.parametrize("extensions", [EXTENSIONS, NOT_PIPELINED], ids=["pipelined", "one by one"])


@pytest.fixture
async def hasty() -> AsyncIterator[SmtpTransport]:
    """A transport that loses patience soon."""
    opened = SmtpTransport(timeouts=replace(SHORT, command=0.5, data_block=0.5))
    yield opened
    await opened.close()


def saying(step: str, said: Said, extensions: tuple[str, ...] = EXTENSIONS) -> Dialogue:
    """An ordinary dialogue but for one step."""
    if step == "rcpt":
        return Dialogue(rcpt=lambda _: said, extensions=extensions)
    dialogue = Dialogue(extensions=extensions)
    setattr(dialogue, step, said)
    return dialogue


async def drop(peer: Peer) -> None:
    peer.drop()


async def hang(peer: Peer) -> None:
    await peer.hear_end()


async def endless_line(peer: Peer) -> None:
    while not peer.gone.done():
        peer.say_bytes(b"250-" + b"x" * 10_000)
        await peer.flush()


async def endless_lines(peer: Peer) -> None:
    while not peer.gone.done():
        peer.say_bytes(b"250-and so on\r\n" * 1000)
        await peer.flush()


async def garbage(peer: Peer) -> None:
    peer.say_bytes(b"\x16\x03\x01\x02\x00 HTTP/1.1 400\r\n")
    await peer.hear_end()


def is_host_failure(attempt: Attempt) -> bool:
    return isinstance(attempt.failure, HostFailed) and attempt.answers == {} and attempt.uncertain == frozenset()


# Nothing was taken


async def test_a_port_where_nobody_listens_is_the_hosts_failure(transport: SmtpTransport) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = account(unused.getsockname()[1])
        attempt = await transport.send(nobody, envelope(), wire(), Dots())
        assert await transport.probe(nobody) == attempt.failure
    assert is_host_failure(attempt)
    assert isinstance(attempt.failure, HostFailed)
    assert attempt.failure.text.startswith("connecting: ")
    assert "refused" in attempt.failure.text.lower()


@pipelined_or_not
@pytest.mark.parametrize("step", BEFORE_THE_DOT)
async def test_loss_on_a_fresh_connection_before_the_dot_is_the_hosts_failure(
    transport: SmtpTransport, step: str, extensions: tuple[str, ...]
) -> None:
    async with scripted_server(saying(step, drop, extensions)) as server:
        attempt = await transport.send(account(server.port), envelope(), wire(), dots := Dots())
    assert is_host_failure(attempt)
    assert dots.seen == []
    assert len(server.peers) == 1


@pipelined_or_not
@pytest.mark.parametrize("step", BEFORE_THE_DOT)
async def test_421_on_a_fresh_connection_before_the_dot_is_the_hosts_failure(
    transport: SmtpTransport, step: str, extensions: tuple[str, ...]
) -> None:
    dialogue = saying(step, "421 4.3.2 shutting down", extensions)
    async with scripted_server(dialogue) as server:
        attempt = await transport.send(account(server.port), envelope(), wire(), dots := Dots())
    assert is_host_failure(attempt)
    assert isinstance(attempt.failure, HostFailed)
    assert attempt.failure.reply is not None
    assert str(attempt.failure.reply) == "421 4.3.2 shutting down"
    assert (dots.seen, len(server.peers)) == ([], 1)


@pytest.mark.parametrize("step", ["greeting", "ehlo"])
@pytest.mark.parametrize("code", ["451", "554"])
async def test_a_refused_greeting_is_the_hosts_failure(transport: SmtpTransport, step: str, code: str) -> None:
    async with scripted_server(saying(step, f"{code} 4.7.0 no service")) as server:
        attempt = await transport.send(account(server.port), envelope(), wire(), Dots())
    assert is_host_failure(attempt)


@pipelined_or_not
@pytest.mark.parametrize("step", BEFORE_THE_DOT)
async def test_a_hanging_server_is_given_up_and_its_session_too(
    hasty: SmtpTransport, step: str, extensions: tuple[str, ...]
) -> None:
    async with scripted_server(saying(step, hang, extensions)) as server:
        attempt = await hasty.send(account(server.port), envelope(), wire(), Dots())
        assert is_host_failure(attempt)
        await server.peers[0].hear_end()


@pytest.mark.parametrize("step", BEFORE_THE_DOT)
@pytest.mark.parametrize("nonsense", [garbage, endless_line, endless_lines])
async def test_nonsense_is_the_hosts_failure_and_bounded_in_memory(
    transport: SmtpTransport, step: str, nonsense: Said
) -> None:
    async with scripted_server(saying(step, nonsense)) as server:
        attempt = await transport.send(account(server.port), envelope(), wire(), dots := Dots())
    assert is_host_failure(attempt)
    assert isinstance(attempt.failure, HostFailed)
    assert attempt.failure.text.isprintable()
    assert len(attempt.failure.text) <= 600
    assert dots.seen == []
    if step in IN_A_TRANSACTION:
        # Not by losing patience.
        assert (
            "the server sent a" if nonsense is not garbage else "the server sent what is no"
        ) in attempt.failure.text


async def test_a_server_that_leaves_in_the_middle_of_a_message_took_nothing(transport: SmtpTransport) -> None:
    async def leave(peer: Peer) -> None:
        peer.say("354 go ahead")
        await peer.hear_until(b"line\r\n")
        peer.drop()

    content = b"line\r\n" * 2_000_000
    async with scripted_server(Dialogue(data=leave, extensions=("PIPELINING",))) as server:
        attempt = await transport.send(account(server.port), envelope(), wire(content), dots := Dots())
    assert is_host_failure(attempt)
    assert dots.seen == []


async def test_a_server_that_stops_reading_is_given_up(hasty: SmtpTransport) -> None:
    async def stop(peer: Peer) -> None:
        peer.say("354 go ahead")
        peer.transport.pause_reading()
        await asyncio.Event().wait()

    content = b"line\r\n" * 4_000_000
    async with scripted_server(Dialogue(data=stop, extensions=("PIPELINING",))) as server:
        attempt = await hasty.send(account(server.port), envelope(), wire(content), dots := Dots())
    assert is_host_failure(attempt)
    assert dots.seen == []


async def test_what_was_said_about_recipients_before_the_loss_is_kept(transport: SmtpTransport) -> None:
    replies: dict[str, Said] = {"no@x.org": "550 5.1.1 unknown", "drop@x.org": drop}
    dialogue = Dialogue(rcpt=lambda address: replies.get(address, "250 ok"))
    async with scripted_server(dialogue) as server:
        to = envelope("no@x.org", "yes@x.org", "drop@x.org", "never@x.org")
        attempt = await transport.send(account(server.port), to, wire(), Dots())
    assert {n: str(answer.reply) for n, answer in attempt.answers.items()} == {0: "550 5.1.1 unknown"}
    assert isinstance(attempt.failure, HostFailed)


# The dot went out


@pipelined_or_not
@pytest.mark.parametrize("said", [drop, hang, garbage, "354 what?", "299-"], ids=spoken)
async def test_a_dot_without_an_answer_leaves_its_recipients_uncertain(said: Said, extensions: tuple[str, ...]) -> None:
    transport = SmtpTransport(timeouts=replace(SHORT, dot=0.1))
    dialogue = Dialogue(
        rcpt=lambda address: "550 5.1.1 no" if address == "no@x.org" else "250 ok", dot=said, extensions=extensions
    )
    async with scripted_server(dialogue) as server:
        to = envelope("a@x.org", "no@x.org", "b@x.org")
        attempt = await transport.send(account(server.port), to, wire(), dots := Dots())
        assert attempt.uncertain == {0, 2}
        assert {n: answer.stage for n, answer in attempt.answers.items()} == {1: Stage.RCPT}
        assert attempt.failure is None
        assert (len(dots.seen), len(server.peers)) == (1, 1)
        # The session is not used again.
        await server.peers[0].hear_end()
        await transport.close()


async def test_421_to_the_dot_is_an_answer(transport: SmtpTransport) -> None:
    async with scripted_server(Dialogue(dot="421 4.3.2 shutting down"), Dialogue()) as server:
        attempt = await transport.send(account(server.port), envelope(), wire(), Dots())
        assert (str(attempt.answers[0].reply), attempt.answers[0].stage) == ("421 4.3.2 shutting down", Stage.DOT)
        assert not attempt.answers[0].permanent
        assert (attempt.failure, attempt.uncertain) == (None, frozenset())
        assert (await transport.send(account(server.port), envelope(), wire(), Dots())).answers[0].accepted
    assert len(server.peers) == 2


async def test_a_late_answer_to_the_dot_is_waited_for() -> None:
    """The dot has more time than a command, and each has its own."""
    asked, answer = asyncio.Event(), asyncio.Event()

    async def late(peer: Peer) -> None:
        asked.set()
        await answer.wait()
        peer.say("250 2.0.0 at last")

    transport = SmtpTransport(timeouts=Timeouts(command=0.5, data_block=0.5, dot=20))
    async with scripted_server(Dialogue(dot=late)) as server:
        sending = asyncio.ensure_future(transport.send(account(server.port), envelope(), wire(), Dots()))
        await asked.wait()
        asyncio.get_running_loop().call_later(1, answer.set)
        attempt = await sending
        await transport.close()
    assert str(attempt.answers[0].reply) == "250 2.0.0 at last"


async def test_each_reply_to_a_block_has_its_own_time() -> None:
    async def slow(peer: Peer) -> None:
        await asyncio.sleep(0.2)
        peer.say("250 ok")

    transport = SmtpTransport(timeouts=replace(SHORT, command=1))
    async with scripted_server(Dialogue(rcpt=lambda _: slow)) as server:
        to = envelope(*(f"r{n}@x.org" for n in range(6)))
        attempt = await transport.send(account(server.port), to, wire(), Dots())
        await transport.close()
    assert all(attempt.answers[n].accepted for n in range(6))


# A session that has worked before


@pipelined_or_not
@pytest.mark.parametrize("step", IN_A_TRANSACTION)
@pytest.mark.parametrize("said", [drop, "421 4.4.2 idle for too long"], ids=["drop", "421"])
async def test_a_stale_session_is_replaced_at_once(
    transport: SmtpTransport, step: str, said: Said, extensions: tuple[str, ...]
) -> None:
    first, second = Dialogue(extensions=extensions), Dialogue(extensions=extensions)
    async with scripted_server(first, second) as server:
        assert (await transport.send(account(server.port), envelope(), wire(), Dots())).answers[0].accepted
        setattr(first, step, getattr(saying(step, said), step))
        once = replace(envelope("again@x.org"), transactions=1)  # what came to nothing takes no place of a limit
        attempt = await transport.send(account(server.port), once, wire(), Dots())
    assert attempt.answers[0].accepted
    assert (attempt.failure, attempt.uncertain) == (None, frozenset())
    assert [recipients for _, recipients in second.transactions] == [("again@x.org",)]
    assert len(server.peers) == 2


@pytest.mark.parametrize("farewell", [True, False])
async def test_a_server_that_left_meanwhile_costs_nothing(transport: SmtpTransport, farewell: bool) -> None:
    second = Dialogue()
    async with scripted_server(Dialogue(), second) as server:
        assert (await transport.send(account(server.port), envelope(), wire(), Dots())).answers[0].accepted
        if farewell:
            server.peers[0].say("421 4.4.2 idle for too long")
        server.peers[0].close()
        await server.peers[0].hear_end()
        assert (await transport.send(account(server.port), envelope(), wire(), dots := Dots())).answers[0].accepted
    assert (len(second.transactions), len(dots.seen)) == (1, 1)


async def test_a_reply_that_nobody_asked_for_ends_the_session(transport: SmtpTransport) -> None:
    first, second = Dialogue(), Dialogue()
    async with scripted_server(first, second) as server:
        assert (await transport.send(account(server.port), envelope(), wire(), Dots())).answers[0].accepted
        server.peers[0].say("250 2.0.0 by the way")
        await server.peers[0].hear_end()
        assert (await transport.send(account(server.port), envelope(), wire(), Dots())).answers[0].accepted
    assert (len(first.messages), len(second.messages)) == (1, 1)


async def test_half_a_reply_that_nobody_asked_for_ends_the_session_too(transport: SmtpTransport) -> None:
    first, second = Dialogue(), Dialogue()
    async with scripted_server(first, second) as server:
        assert (await transport.send(account(server.port), envelope(), wire(), Dots())).answers[0].accepted
        server.peers[0].say_bytes(b"250 2.0.0 by the w")
        await server.peers[0].flush()
        assert (await transport.send(account(server.port), envelope(), wire(), Dots())).answers[0].accepted
        await server.peers[0].hear_end()
        assert transport.open_sessions() == {("acme", "main"): 1}
    assert (len(first.messages), len(second.messages)) == (1, 1)


async def test_a_stale_session_whose_host_is_gone_is_the_hosts_failure(transport: SmtpTransport) -> None:
    async with scripted_server(Dialogue(), saying("greeting", drop)) as server:
        assert (await transport.send(account(server.port), envelope(), wire(), Dots())).answers[0].accepted
        server.peers[0].close()
        await server.peers[0].hear_end()
        attempt = await transport.send(account(server.port), envelope(), wire(), Dots())
    assert is_host_failure(attempt)
    assert len(server.peers) == 2


async def test_a_dot_without_an_answer_is_uncertain_also_on_a_session_that_worked(transport: SmtpTransport) -> None:
    dialogue = Dialogue()
    async with scripted_server(dialogue) as server:
        assert (await transport.send(account(server.port), envelope(), wire(), Dots())).answers[0].accepted
        dialogue.dot = drop
        attempt = await transport.send(account(server.port), envelope(), wire(), Dots())
    assert attempt.uncertain == {0}
    assert (attempt.answers, attempt.failure) == ({}, None)
    assert len(server.peers) == 1
