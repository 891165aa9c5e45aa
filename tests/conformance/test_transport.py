"""What every transport promises, whichever way the mail goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest

from mail_proxy.domain.account import Account
from mail_proxy.domain.attempt import Attempt, Envelope, HostFailed, Probed, Stage
from mail_proxy.domain.compose import Wire
from mail_proxy.domain.reply import Reply
from mail_proxy.ports.transport import Transport
from mail_proxy.smtp.capture import CaptureTransport
from mail_proxy.smtp.pool import SmtpTransport
from tests.edge.smtp.making import CONTENT, Dots, Source, account, envelope, wire
from tests.support.smtp_servers import RealServer, real_server

REFUSALS = {"no@example.com": "550 5.1.1 unknown", "later@example.com": "450 4.2.0 greylisted"}

Message = tuple[str, tuple[str, ...], bytes]


@dataclass(frozen=True)
class Way:
    """A transport, an account to use it with, what has arrived, and how to make the host go away."""

    transport: Transport
    account: Account
    arrived: Callable[[], list[Message]]
    fail: Callable[[], None]

    async def send(self, to: Envelope, message: Wire | None = None, dots: Dots | None = None) -> Attempt:
        return await self.transport.send(self.account, to, message or wire(), dots or Dots())


@pytest.fixture(params=["smtp", "capture"])
async def way(request: pytest.FixtureRequest) -> AsyncIterator[Way]:
    """One for each transport that there is."""
    if request.param == "capture":
        yield _capture()
        return
    async with real_server() as server:
        server.refusals = REFUSALS
        transport = SmtpTransport(local_hostname="client.example")
        yield Way(transport, account(server.port), lambda: _messages(server), server.stop)
        await transport.close()


def _capture() -> Way:
    def rule(address: str) -> Reply | None:
        code, _, text = REFUSALS.get(address, "").partition(" ")
        return Reply.parse(int(code), text) if code else None

    transport = CaptureTransport(rule)

    def fail() -> None:
        transport.failure = HostFailed("gone")

    def arrived() -> list[Message]:
        return [(m.envelope.sender, m.accepted, m.content) for m in transport.messages]

    return Way(transport, account(25), arrived, fail)


def _messages(server: RealServer) -> list[Message]:
    return [(m.sender, m.recipients, m.content) for m in server.messages]


async def test_a_message_arrives_once_for_all_its_recipients(way: Way) -> None:
    attempt = await way.send(envelope("a@example.com", "b@example.com"))
    assert way.arrived() == [("sender@example.com", ("a@example.com", "b@example.com"), CONTENT)]
    assert set(attempt.answers) == {0, 1}
    assert all(answer.accepted and answer.stage is Stage.DOT for answer in attempt.answers.values())
    assert (attempt.uncertain, attempt.failure, attempt.transactions) == (frozenset(), None, 1)


async def test_a_refused_recipient_does_not_spoil_the_others(way: Way) -> None:
    attempt = await way.send(Envelope("", ((4, "no@example.com"), (7, "yes@example.com"), (9, "later@example.com"))))
    assert way.arrived() == [("", ("yes@example.com",), CONTENT)]
    assert str(attempt.answers[4].reply) == "550 5.1.1 unknown"
    assert attempt.answers[4].permanent
    assert attempt.answers[7].accepted
    assert str(attempt.answers[9].reply) == "450 4.2.0 greylisted"
    assert not attempt.answers[9].permanent
    assert attempt.failure is None


async def test_nothing_is_sent_when_all_recipients_are_refused(way: Way) -> None:
    attempt = await way.send(envelope("no@example.com", "later@example.com"), dots=(dots := Dots()))
    assert way.arrived() == []
    assert dots.seen == []
    assert [answer.stage for answer in attempt.answers.values()] == [Stage.RCPT, Stage.RCPT]
    assert (attempt.uncertain, attempt.failure) == (frozenset(), None)


async def test_the_dot_is_announced_once(way: Way) -> None:
    await way.send(envelope(), dots=(dots := Dots()))
    assert dots.seen == [0]


async def test_a_dot_that_is_refused_does_not_go_out_and_the_refusal_passes_through(way: Way) -> None:
    refusal = OSError("the journal cannot be written")
    with pytest.raises(OSError, match="journal") as raised:
        await way.send(envelope(), dots=Dots(refusal))
    assert raised.value is refusal
    assert way.arrived() == []
    assert (await way.send(envelope())).answers[0].accepted


async def test_pieces_and_streams_arrive_in_their_order(way: Way) -> None:
    source = Source([b"two\r\n", b"three", b"\r\n"])
    message = Wire((b"one\r\n", source, b"four"), 5 + source.size + 4)
    assert (await way.send(envelope(), message)).answers[0].accepted
    assert way.arrived()[0][2] == b"one\r\ntwo\r\nthree\r\nfour\r\n"


async def test_a_source_that_breaks_passes_its_error_on_and_nothing_arrives(way: Way) -> None:
    with pytest.raises(FileNotFoundError):
        await way.send(envelope(), Wire((Source([b"x"], FileNotFoundError("gone")),), 1))
    assert way.arrived() == []


async def test_many_at_a_time_arrive_once_each(way: Way) -> None:
    attempts = await asyncio.gather(*(way.send(envelope(f"r{n}@example.com")) for n in range(20)))
    assert all(attempt.answers[0].accepted for attempt in attempts)
    assert sorted(to for _, (to,), _ in way.arrived()) == sorted(f"r{n}@example.com" for n in range(20))


async def test_a_host_that_is_gone_is_told_and_not_raised(way: Way) -> None:
    way.fail()
    attempt = await way.send(envelope(), dots=(dots := Dots()))
    assert isinstance(attempt.failure, HostFailed)
    assert (attempt.answers, attempt.uncertain, dots.seen) == ({}, frozenset(), [])
    assert isinstance(await way.transport.probe(way.account), HostFailed)


async def test_a_probe_sends_nothing(way: Way) -> None:
    assert isinstance(await way.transport.probe(way.account), Probed)
    assert way.arrived() == []


async def test_closing_twice_is_no_harm(way: Way) -> None:
    await way.send(envelope())
    await way.transport.close()
    await way.transport.close()
