"""Whole messages to a real server: TLS, logins, mixed recipients, and bytes that arrive as they left."""

from __future__ import annotations

import asyncio
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mail_proxy.domain.account import AuthMethod, TlsMode
from mail_proxy.domain.attempt import AccountRefused, Attempt, Envelope, Probed, Stage
from mail_proxy.domain.compose import Wire
from mail_proxy.smtp.pool import SmtpTransport
from tests.edge.smtp.conftest import SHORT
from tests.edge.smtp.making import CONTENT, Dots, Source, account, envelope, wire
from tests.support.certificates import Authority
from tests.support.smtp_servers import real_server


async def test_a_message_arrives_as_it_left(transport: SmtpTransport) -> None:
    async with real_server() as server:
        attempt = await transport.send(account(server.port), envelope("a@example.com", "b@example.com"), wire(), Dots())
    assert [answer.accepted for answer in attempt.answers.values()] == [True, True]
    assert str(attempt.answers[0].reply) == "250 2.0.0 taken"
    assert attempt == Attempt(attempt.answers, frozenset(), None, 1)
    (message,) = server.messages
    assert message.sender == "sender@example.com"
    assert message.recipients == ("a@example.com", "b@example.com")
    assert message.content == CONTENT
    assert not message.encrypted
    assert server.ehlo_names == ["client.example"]


async def test_a_refused_recipient_does_not_spoil_the_others(transport: SmtpTransport) -> None:
    async with real_server() as server:
        server.refusals = {"no@example.com": "550 5.1.1 unknown", "later@example.com": "450 4.2.0 greylisted"}
        to = envelope("no@example.com", "yes@example.com", "later@example.com")
        attempt = await transport.send(account(server.port), to, wire(), Dots())
    assert [message.recipients for message in server.messages] == [("yes@example.com",)]
    assert [(n, str(a.reply), a.stage, a.permanent) for n, a in sorted(attempt.answers.items())] == [
        (0, "550 5.1.1 unknown", Stage.RCPT, True),
        (1, "250 2.0.0 taken", Stage.DOT, False),
        (2, "450 4.2.0 greylisted", Stage.RCPT, False),
    ]
    assert attempt.failure is None


@pytest.mark.parametrize("tls", [TlsMode.AUTO, TlsMode.STARTTLS])
async def test_starttls_encrypts_and_mail_follows(transport: SmtpTransport, authority: Authority, tls: TlsMode) -> None:
    async with real_server(starttls=authority.server_context("127.0.0.1")) as server:
        for _ in range(2):
            attempt = await transport.send(account(server.port, tls=tls), envelope(), wire(), Dots())
            assert attempt.answers[0].accepted
    assert [message.encrypted for message in server.messages] == [True, True]
    # A session each, and a second EHLO after the handshake.
    assert len(server.ehlo_names) == 2


async def test_implicit_tls_encrypts_from_the_first_byte(transport: SmtpTransport, authority: Authority) -> None:
    async with real_server(implicit_tls=authority.server_context("localhost")) as server:
        implicit = account(server.port, host="localhost", tls=TlsMode.IMPLICIT)
        for _ in range(2):
            assert (await transport.send(implicit, envelope(), wire(), Dots())).answers[0].accepted
        assert isinstance(probed := await transport.probe(implicit), Probed)
    assert probed.tls_version in {"TLSv1.2", "TLSv1.3"}
    assert len(server.messages) == 2


@pytest.mark.parametrize("method", [AuthMethod.AUTO, AuthMethod.PLAIN, AuthMethod.LOGIN])
async def test_a_login_is_made_over_tls(transport: SmtpTransport, authority: Authority, method: AuthMethod) -> None:
    async with real_server(starttls=authority.server_context("127.0.0.1"), users={"ann": "pässword"}) as server:
        ann = account(server.port, user="ann", password="pässword", auth=method)
        attempt = await transport.send(ann, envelope(), wire(), Dots())
        assert attempt.answers[0].accepted
        assert isinstance(await transport.probe(ann), Probed)
    assert [(message.user, message.encrypted) for message in server.messages] == [("ann", True)]
    expected = "LOGIN" if method is AuthMethod.LOGIN else "PLAIN"
    assert server.logins == [(expected, "ann"), (expected, "ann")]


async def test_a_wrong_password_is_the_accounts_fault(transport: SmtpTransport, authority: Authority) -> None:
    async with real_server(starttls=authority.server_context("127.0.0.1"), users={"ann": "right"}) as server:
        ann = account(server.port, user="ann", password="wrong")
        attempt = await transport.send(ann, envelope(), wire(), Dots())
        assert isinstance(attempt.failure, AccountRefused)
        assert attempt.failure.reply is not None
        assert attempt.failure.reply.code == 535
        assert attempt.failure.text.startswith("logging in: the server said 535 5.7.8")
        assert (attempt.answers, attempt.transactions) == ({}, 0)
        assert isinstance(await transport.probe(ann), AccountRefused)
    assert server.messages == []
    assert len(server.logins) == 2


async def test_mail_that_needs_a_login_holds_the_account_and_not_the_message(transport: SmtpTransport) -> None:
    async with real_server(users={"ann": "right"}, auth_in_clear=True) as server:
        attempt = await transport.send(account(server.port), envelope(), wire(), Dots())
    assert isinstance(attempt.failure, AccountRefused)
    assert attempt.failure.text.startswith("sending: the server said 530")
    assert attempt.answers == {}


async def test_a_session_in_clear_may_log_in_on_this_machine(transport: SmtpTransport) -> None:
    async with real_server(users={"ann": "right"}, auth_in_clear=True) as server:
        ann = account(server.port, user="ann", password="right")
        assert (await transport.send(ann, envelope(), wire(), Dots())).answers[0].accepted
    assert [message.user for message in server.messages] == ["ann"]


async def test_a_streamed_message_arrives_as_it_left(transport: SmtpTransport, authority: Authority) -> None:
    pieces = [b"x" * 76 + b"\r\n" for _ in range(20_000)]
    source = Source([b"".join(pieces[i : i + 500]) for i in range(0, len(pieces), 500)])
    head, tail = b"Subject: big\r\n\r\n" + b".dots\r\n" * 20_000, b"..\r\n.\r\nend"
    big = Wire((head, source, tail), len(head) + source.size + len(tail))
    async with real_server(starttls=authority.server_context("127.0.0.1")) as server:
        attempt = await transport.send(account(server.port), envelope(), big, Dots())
    assert attempt.answers[0].accepted
    assert server.messages[0].content == head + b"".join(pieces) + tail + b"\r\n"
    assert source.closed


async def test_an_international_address_goes_out_as_it_is(transport: SmtpTransport) -> None:
    async with real_server() as server:
        to = envelope("jörg@example.com", sender="zoë@example.com")
        attempt = await transport.send(account(server.port), to, wire(utf8_headers=True), Dots())
    assert attempt.answers[0].accepted
    assert server.messages[0].recipients == ("jörg@example.com",)
    assert server.messages[0].sender == "zoë@example.com"


_awkward = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"..", b"\r\n.\r\n", b"a", b"\x00", b"\xff", b"\t "]), max_size=30
).map(b"".join)


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.one_of(_awkward, st.binary(max_size=200)), max_size=5), streamed=st.booleans())
@example(parts=[b"a\r", b"\n.", b"\r", b"\r\n", b".\r"], streamed=True)
@example(parts=[b"a\n.\r\nMAIL FROM:<evil@example.com>\r\n"], streamed=False)
def test_any_bytes_arrive_with_clean_line_ends_as_one_message(parts: list[bytes], streamed: bool) -> None:
    async def send() -> list[bytes]:
        transport = SmtpTransport(local_hostname="client.example", timeouts=SHORT)
        size = sum(map(len, parts))
        message = Wire((Source(parts),) if streamed else tuple(parts), size)
        async with real_server() as server:
            attempt = await transport.send(account(server.port), Envelope("", ((0, "a@example.com"),)), message, Dots())
            # A second one shows that nothing of the first was left over.
            assert (await transport.send(account(server.port), envelope(), wire(), Dots())).answers[0].accepted
            await transport.close()
        assert attempt.answers[0].accepted
        return [received.content for received in server.messages]

    clean = re.sub(rb"\r\n|\r|\n", b"\r\n", b"".join(parts))
    if clean and not clean.endswith(b"\r\n"):
        clean += b"\r\n"
    assert asyncio.run(send()) == [clean, CONTENT]
