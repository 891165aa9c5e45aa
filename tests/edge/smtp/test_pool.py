"""Sessions are shared within one account only, at most so many, kept for a while, and never leaked."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from mail_proxy.domain.account import Account, AuthMethod, TlsMode
from mail_proxy.domain.attempt import Attempt, Envelope, HostFailed, Interrupted, Probed
from mail_proxy.domain.secret import Secret
from mail_proxy.smtp.account_sessions import AccountSessions
from mail_proxy.smtp.pool import SmtpTransport
from mail_proxy.smtp.session import Opener, Session
from mail_proxy.smtp.tls import TlsContexts
from tests.edge.smtp.conftest import SHORT
from tests.edge.smtp.making import Dots, account, envelope, wire
from tests.support.smtp_servers import EXTENSIONS, Dialogue, Peer, scripted_server

WITH_AUTH = (*EXTENSIONS, "AUTH PLAIN LOGIN")


async def accepted(transport: SmtpTransport, to: Account) -> bool:
    return (await transport.send(to, envelope(), wire(), Dots())).answers[0].accepted


def start(transport: SmtpTransport, to: Account, whom: Envelope | None = None) -> asyncio.Future[Attempt]:
    return asyncio.ensure_future(transport.send(to, whom or envelope(), wire(), Dots()))


async def settle_down() -> None:
    """Let everything happen that can happen without anyone's doing."""
    for _ in range(50):
        await asyncio.sleep(0)


class Gate:
    """A final dot's reply that waits until it is opened."""

    def __init__(self) -> None:
        self.waiting = 0
        self.arrived = asyncio.Condition()
        self.opened = asyncio.Event()

    async def __call__(self, peer: Peer) -> None:
        async with self.arrived:
            self.waiting += 1
            self.arrived.notify_all()
        await self.opened.wait()
        peer.say("250 2.0.0 taken")

    async def reached_by(self, count: int) -> None:
        async with self.arrived:
            await self.arrived.wait_for(lambda: self.waiting >= count)


# Sharing


async def test_a_session_serves_one_message_after_the_other(transport: SmtpTransport) -> None:
    async with scripted_server(Dialogue()) as server:
        for _ in range(5):
            assert await accepted(transport, account(server.port))
        assert transport.open_sessions() == {("acme", "main"): 1}
        await transport.close()
    assert server.verbs == [["EHLO", *["MAIL", "RCPT", "DATA"] * 5, "QUIT"]]


@pytest.mark.parametrize(
    "other",
    [
        {"tenant_id": "other"},
        {"id": "second"},
        {"user": "bob"},
        {"password": Secret("changed")},
        {"auth": AuthMethod.PLAIN},
        {"tls": TlsMode.NONE},
        {"verify_tls": False},
        {"host": "localhost"},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_no_session_is_shared_across(transport: SmtpTransport, other: dict[str, Any]) -> None:
    async with scripted_server(Dialogue(extensions=WITH_AUTH)) as server:
        ann = account(server.port, user="ann", password="pw")
        assert await accepted(transport, ann)
        assert await accepted(transport, replace(ann, **other))
    assert len(server.peers) == 2


@pytest.mark.parametrize("other", [{"ttl": 5.0}, {"batch_size": 3}, {"is_default": True}, {"max_connections": 9}])
async def test_settings_that_the_server_does_not_see_keep_the_session(
    transport: SmtpTransport, other: dict[str, Any]
) -> None:
    async with scripted_server(Dialogue(extensions=WITH_AUTH)) as server:
        ann = account(server.port, user="ann", password="pw")
        assert await accepted(transport, ann)
        assert await accepted(transport, replace(ann, **other))
    assert len(server.peers) == 1


async def test_sessions_with_old_settings_end_when_the_settings_change(transport: SmtpTransport) -> None:
    gate = Gate()
    dialogue = Dialogue(extensions=WITH_AUTH)
    async with scripted_server(dialogue) as server:
        ann = account(server.port, user="ann", password="old")
        assert await accepted(transport, ann)
        dialogue.dot = gate
        busy = [start(transport, ann), start(transport, ann)]
        await gate.reached_by(2)
        dialogue.dot = "250 2.0.0 taken"
        assert await accepted(transport, replace(ann, password=Secret("new")))
        gate.opened.set()
        assert all([(await attempt).answers[0].accepted for attempt in busy])
        for peer in server.peers[:2]:
            await peer.hear_end()
        assert await accepted(transport, replace(ann, password=Secret("new")))
        assert transport.open_sessions() == {("acme", "main"): 1}
    assert [verbs[-1] for verbs in server.verbs] == ["QUIT", "QUIT", "DATA"]


# How many


async def test_no_more_sessions_than_the_account_allows(transport: SmtpTransport) -> None:
    gate = Gate()
    async with scripted_server(Dialogue(dot=gate)) as server:
        two = account(server.port, max_connections=2)
        sending = [start(transport, two) for _ in range(7)]
        await gate.reached_by(2)
        await settle_down()
        assert gate.waiting == 2
        gate.opened.set()
        assert all([(await attempt).answers[0].accepted for attempt in sending])
        assert len(server.peers) == 2
        assert transport.open_sessions() == {("acme", "main"): 2}


async def test_another_account_does_not_wait_for_a_busy_one(transport: SmtpTransport) -> None:
    gate = Gate()
    async with scripted_server(Dialogue(dot=gate)) as busy, scripted_server(Dialogue()) as free:
        held = start(transport, account(busy.port, max_connections=1))
        await gate.reached_by(1)
        assert await accepted(transport, account(free.port, id="second", max_connections=1))
        gate.opened.set()
        await held


async def test_a_raised_limit_lets_those_in_that_wait(transport: SmtpTransport) -> None:
    gate = Gate()
    async with scripted_server(Dialogue(dot=gate)) as server:
        one = account(server.port, max_connections=1)
        sending = [start(transport, one) for _ in range(3)]
        await gate.reached_by(1)
        sending.append(start(transport, replace(one, max_connections=3)))
        await gate.reached_by(3)
        gate.opened.set()
        assert all([(await attempt).answers[0].accepted for attempt in sending])
    assert len(server.peers) == 3


async def test_a_lowered_limit_ends_the_sessions_above_it(transport: SmtpTransport) -> None:
    gate = Gate()
    dialogue = Dialogue(dot=gate)
    async with scripted_server(dialogue) as server:
        three = account(server.port, max_connections=3)
        sending = [start(transport, three) for _ in range(3)]
        await gate.reached_by(3)
        sending.append(start(transport, replace(three, max_connections=1)))
        await settle_down()
        gate.opened.set()
        assert all([(await attempt).answers[0].accepted for attempt in sending])
        await settle_down()
        assert sum(not peer.gone.done() for peer in server.peers) == 1


async def test_failures_do_not_use_up_the_places(transport: SmtpTransport) -> None:
    async def drop(peer: Peer) -> None:
        peer.drop()

    dialogue = Dialogue(greeting=drop)
    async with scripted_server(dialogue) as server:
        one = account(server.port, max_connections=1)
        attempts = await asyncio.gather(*(transport.send(one, envelope(), wire(), Dots()) for _ in range(5)))
        assert {type(attempt.failure) for attempt in attempts} == {HostFailed}
        dialogue.greeting = "220 hi"
        assert await accepted(transport, one)


# How long


async def test_an_idle_session_ends_after_its_time(transport: SmtpTransport) -> None:
    async with scripted_server(Dialogue()) as server:
        assert await accepted(transport, account(server.port, ttl=0.02))
        await server.peers[0].hear_end()
        await settle_down()
        assert transport.open_sessions() == {("acme", "main"): 0}
        assert await accepted(transport, account(server.port, ttl=0.02))
    assert server.verbs[0][-1] == "QUIT"


async def test_each_idle_session_has_its_own_time(transport: SmtpTransport) -> None:
    gate = Gate()
    dialogue = Dialogue(dot=gate)
    async with scripted_server(dialogue) as server:
        short = account(server.port, ttl=0.2)
        sending = [start(transport, short), start(transport, short)]
        await gate.reached_by(2)
        gate.opened.set()
        await asyncio.gather(*sending)
        dialogue.dot = "250 taken"
        # One of the two stays in use; the other one ends although there is traffic.
        while not any(peer.gone.done() for peer in server.peers):
            assert await accepted(transport, short)
            await asyncio.sleep(0.01)
        assert sum(peer.gone.done() for peer in server.peers) == 1
        # And then the other one too.
        for peer in server.peers:
            await peer.hear_end()


@pytest.mark.parametrize("alive", [True, False])
async def test_a_session_that_was_idle_is_asked_before_it_is_used(alive: bool) -> None:
    transport = SmtpTransport(timeouts=replace(SHORT, check_after=0, check=0.1))

    async def hang(peer: Peer) -> None:
        await peer.hear_end()

    first = Dialogue(rset="250 ok" if alive else hang)
    async with scripted_server(first, Dialogue()) as server:
        assert await accepted(transport, account(server.port))
        assert await accepted(transport, account(server.port))
        await transport.close()
    assert server.verbs[0][:5] == ["EHLO", "MAIL", "RCPT", "DATA", "RSET"]
    assert len(server.peers) == (1 if alive else 2)


# Probing


async def test_a_probe_logs_in_and_sends_nothing(transport: SmtpTransport) -> None:
    async with scripted_server(Dialogue(extensions=WITH_AUTH)) as server:
        ann = account(server.port, user="ann", password="pw", max_connections=1)
        assert await transport.probe(ann) == Probed(None)
        assert transport.open_sessions() == {("acme", "main"): 0}
        # It makes a login of its own also where an idle session has the only place.
        assert await accepted(transport, ann)
        assert await transport.probe(ann) == Probed(None)
        assert await accepted(transport, ann)
    assert server.verbs[0] == server.verbs[2] == ["EHLO", "AUTH", "QUIT"]
    assert server.verbs[1][-1] == "QUIT"


async def test_a_probe_does_not_wait_long_for_a_server_that_does_not_say_goodbye() -> None:
    async def hang(peer: Peer) -> None:
        await peer.hear_end()

    transport = SmtpTransport(timeouts=replace(SHORT, quit=0.05))
    async with scripted_server(Dialogue(quit=hang)) as server:
        assert await transport.probe(account(server.port)) == Probed(None)
        await transport.close()


# Being cancelled, failing, ending


@pytest.mark.parametrize("ends_well", [True, False])
async def test_an_opening_that_misses_its_cancellation_is_ended_all_the_same(
    transport: SmtpTransport, monkeypatch: pytest.MonkeyPatch, ends_well: bool
) -> None:
    """Below Python 3.12 `asyncio.wait_for` loses a cancellation that comes together with what it waits for."""
    opened = Opener._open  # noqa: SLF001 - where aiosmtplib is at work
    reached = asyncio.Event()

    async def deaf_once(opener: Opener, to: Account) -> Session:
        session = await opened(opener, to)
        reached.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        if not ends_well:
            session.abort()
            await asyncio.Event().wait()
        return session

    monkeypatch.setattr(Opener, "_open", deaf_once)
    async with scripted_server(Dialogue()) as server:
        one = account(server.port, max_connections=1)
        sending = start(transport, one)
        await reached.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await server.peers[0].hear_end()
        monkeypatch.undo()
        assert await accepted(transport, one)


@pytest.mark.parametrize("where", ["greeting", "ehlo", "auth", "mail", "data", "dot"])
async def test_a_cancelled_attempt_closes_its_session_and_leaks_nothing(transport: SmtpTransport, where: str) -> None:
    reached = asyncio.Event()

    async def hang(peer: Peer) -> None:
        reached.set()
        await peer.hear_end()

    first = Dialogue(extensions=WITH_AUTH)
    setattr(first, where, hang)
    async with scripted_server(first, Dialogue(extensions=WITH_AUTH)) as server:
        ann = account(server.port, user="ann", password="pw", max_connections=1)
        sending, waiting = start(transport, ann), start(transport, ann)
        await reached.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await server.peers[0].hear_end()
        assert (await waiting).answers[0].accepted
        assert transport.open_sessions() == {("acme", "main"): 1}


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("cancelled_first", [True, False])
async def test_a_turn_given_to_someone_who_is_just_cancelled_is_passed_on(keep: bool, cancelled_first: bool) -> None:
    with ThreadPoolExecutor(1) as resolver:
        async with scripted_server(Dialogue()) as server:
            one = account(server.port, max_connections=1)
            sessions = AccountSessions(Opener(TlsContexts(), SHORT, resolver, "client.example"), one)
            session = await sessions.take(one)
            second, third = (asyncio.ensure_future(sessions.take(one)) for _ in range(2))
            await settle_down()
            if cancelled_first:
                second.cancel()
            if keep:
                sessions.give_back(session)
            else:
                sessions.discard(session)
            second.cancel()
            taken = await third
            assert second.cancelled()
            assert (taken is session) is keep
            sessions.discard(taken)
            assert (await sessions.take(one)).usable
            await asyncio.wait(sessions.end())


async def test_a_cancelled_wait_for_a_session_leaves_the_queue(transport: SmtpTransport) -> None:
    gate = Gate()
    async with scripted_server(Dialogue(dot=gate)) as server:
        one = account(server.port, max_connections=1)
        first = start(transport, one)
        await gate.reached_by(1)
        second, third = (start(transport, one) for _ in range(2))
        await settle_down()
        second.cancel()
        gate.opened.set()
        assert (await first).answers[0].accepted
        assert (await third).answers[0].accepted
        assert second.cancelled()
        assert await accepted(transport, one)
    assert len(server.peers) == 1


async def test_closing_says_goodbye_on_idle_sessions_and_ends_busy_ones(transport: SmtpTransport) -> None:
    gate = Gate()

    async def choose(peer: Peer) -> None:
        await gate(peer)

    async with scripted_server(Dialogue()) as idle, scripted_server(Dialogue(dot=choose)) as busy:
        assert await accepted(transport, account(idle.port, id="idle"))
        one = account(busy.port, id="busy", max_connections=1)
        sending, waiting = start(transport, one), start(transport, one)
        await gate.reached_by(1)
        await transport.close()
        assert (await sending).uncertain == {0}
        assert isinstance((await waiting).failure, Interrupted)
        assert idle.verbs[0][-1] == "QUIT"
        assert busy.verbs[0][-1] == "DATA"
        assert sum(transport.open_sessions().values()) == 0
        # Nothing goes out any more.
        late = await transport.send(one, envelope(), wire(), Dots())
        assert isinstance(late.failure, Interrupted)
        assert isinstance(await transport.probe(one), HostFailed)
        await transport.close()
        assert len(busy.peers) == 1


async def test_closing_interrupts_an_attempt_before_its_dot(transport: SmtpTransport) -> None:
    reached = asyncio.Event()

    async def hang(peer: Peer) -> None:
        reached.set()
        await peer.hear_end()

    dialogue = Dialogue()
    async with scripted_server(dialogue) as server:
        assert await accepted(transport, account(server.port))
        dialogue.data = hang
        sending = start(transport, account(server.port))
        await reached.wait()
        await transport.close()
        attempt = await sending
    assert isinstance(attempt.failure, Interrupted)
    assert attempt.uncertain == frozenset()
    assert len(server.peers) == 1


async def test_closing_does_not_wait_for_a_server_that_does_not_answer() -> None:
    async def hang(peer: Peer) -> None:
        await peer.hear_end()

    transport = SmtpTransport(timeouts=replace(SHORT, quit=0.05))
    async with scripted_server(Dialogue(quit=hang)) as server:
        assert await accepted(transport, account(server.port))
        await transport.close()
        await server.peers[0].hear_end()


async def test_a_session_opened_while_closing_is_closed_too(transport: SmtpTransport) -> None:
    reached, answer = asyncio.Event(), asyncio.Event()

    async def late(peer: Peer) -> None:
        reached.set()
        await answer.wait()
        peer.say("220 hi")

    async with scripted_server(Dialogue(greeting=late)) as server:
        sending = start(transport, account(server.port))
        await reached.wait()
        await transport.close()
        answer.set()
        assert isinstance((await sending).failure, Interrupted)
        await server.peers[0].hear_end()


async def test_accounts_that_are_not_used_any_more_are_forgotten(transport: SmtpTransport) -> None:
    async def drop(peer: Peer) -> None:
        peer.drop()

    async with scripted_server(Dialogue(greeting=drop)) as server:
        for n in range(200):
            await transport.probe(account(server.port, id=str(n)))
    assert len(transport.open_sessions()) <= 64
