"""No credentials and no mail in clear, whatever a server or someone in between does."""

from __future__ import annotations

import ssl

import aiosmtplib
import pytest

from mail_proxy.domain.account import AuthMethod, TlsMode
from mail_proxy.domain.attempt import AccountRefused, HostFailed, Probed
from mail_proxy.domain.secret import Secret
from mail_proxy.smtp.errors import NotOpened
from mail_proxy.smtp.login import log_in
from mail_proxy.smtp.pool import SmtpTransport
from mail_proxy.smtp.tls import Protection, TlsContexts, protection
from tests.edge.smtp.conftest import SHORT
from tests.edge.smtp.making import Dots, account, envelope, wire
from tests.support.certificates import Authority
from tests.support.smtp_servers import EXTENSIONS, Dialogue, Peer, real_server, scripted_server

WITH_STARTTLS = (*EXTENSIONS, "STARTTLS")


@pytest.mark.parametrize(
    ("tls", "port", "host", "password", "expected"),
    [
        (TlsMode.AUTO, 465, "mail.example.com", None, Protection.IMPLICIT),
        (TlsMode.AUTO, 465, "localhost", "pw", Protection.IMPLICIT),
        (TlsMode.AUTO, 587, "mail.example.com", "pw", Protection.REQUIRED),
        (TlsMode.AUTO, 25, "mail.example.com", "pw", Protection.REQUIRED),
        (TlsMode.AUTO, 25, "mail.example.com", None, Protection.OFFERED),
        (TlsMode.AUTO, 25, "localhost", "pw", Protection.OFFERED),
        (TlsMode.AUTO, 25, "127.0.0.7", "pw", Protection.OFFERED),
        (TlsMode.AUTO, 25, "::1", "pw", Protection.OFFERED),
        (TlsMode.AUTO, 25, "localhost.example.com", "pw", Protection.REQUIRED),
        (TlsMode.AUTO, 25, "127.0.0.1.example.com", "pw", Protection.REQUIRED),
        (TlsMode.STARTTLS, 465, "localhost", None, Protection.REQUIRED),
        (TlsMode.IMPLICIT, 587, "localhost", None, Protection.IMPLICIT),
        (TlsMode.NONE, 465, "mail.example.com", "pw", Protection.CLEAR),
    ],
)
def test_what_an_account_asks_for(
    tls: TlsMode, port: int, host: str, password: str | None, expected: Protection
) -> None:
    user = None if password is None else "ann"
    assert protection(account(port, host=host, tls=tls, user=user, password=password)) is expected


@pytest.mark.parametrize("password", [None, "secret"])
async def test_starttls_that_was_stripped_holds_the_account(transport: SmtpTransport, password: str | None) -> None:
    async with scripted_server(Dialogue(extensions=(*EXTENSIONS, "AUTH PLAIN"))) as server:
        ann = account(server.port, tls=TlsMode.STARTTLS, user=password and "ann", password=password)
        attempt = await transport.send(ann, envelope(), wire(), Dots())
    assert attempt.failure == AccountRefused(
        "starting TLS: the server does not offer STARTTLS, and nothing may be sent in clear"
    )
    assert server.verbs == [["EHLO"]]


async def test_auto_without_tls_keeps_the_password_from_another_machine(transport: SmtpTransport) -> None:
    async with scripted_server(Dialogue(extensions=(*EXTENSIONS, "AUTH PLAIN LOGIN"))) as server:
        # It leads to this machine, but not by a name that could lead to no other.
        ann = account(server.port, host="0", user="ann", password="secret")
        attempt = await transport.send(ann, envelope(), wire(), Dots())
        assert isinstance(attempt.failure, AccountRefused)
        assert "STARTTLS" in attempt.failure.text
        assert server.verbs == [["EHLO"]]
        clear = account(server.port, host="0", user="ann", password="secret", tls=TlsMode.NONE)
        assert (await transport.send(clear, envelope(), wire(), Dots())).answers[0].accepted
    assert server.verbs[1][:2] == ["EHLO", "AUTH"]


@pytest.mark.parametrize("refusal", ["454 4.7.0 TLS not available", "501 5.5.4 no"])
async def test_starttls_refused_goes_on_in_clear_only_where_nothing_is_to_be_protected(
    transport: SmtpTransport, refusal: str
) -> None:
    async with scripted_server(Dialogue(extensions=(*WITH_STARTTLS, "AUTH PLAIN"), starttls=refusal)) as server:
        open_account = account(server.port)
        assert (await transport.send(open_account, envelope(), wire(), Dots())).answers[0].accepted
        for protected in (
            account(server.port, id="b", user="ann", password="pw"),
            account(server.port, id="c", tls=TlsMode.STARTTLS),
        ):
            attempt = await transport.send(protected, envelope(), wire(), Dots())
            expected = HostFailed if refusal.startswith("4") else AccountRefused
            assert isinstance(attempt.failure, expected)
    assert server.verbs[1:] == [["EHLO", "STARTTLS"]] * 2


async def test_what_is_said_before_the_handshake_is_thrown_away(transport: SmtpTransport, authority: Authority) -> None:
    context = authority.server_context("127.0.0.1")
    messages: list[bytes] = []

    async def injected(peer: Peer) -> None:
        peer.say("220 hi")
        await peer.hear()
        peer.say("250-hi", "250 STARTTLS")
        await peer.hear()
        peer.say("220 go ahead", "250-evil", "250-AUTH PLAIN", "250 SIZE 1")
        await peer.encrypt(context)
        assert await peer.hear() == "EHLO client.example"
        peer.say("250-hi", "250 SIZE 100000")
        for reply in ("250 ok", "250 ok", "354 go"):
            await peer.hear()
            peer.say(reply)
        messages.append(await peer.hear_message())
        peer.say("250 taken")
        await peer.hear()

    async with scripted_server(injected) as server:
        attempt = await transport.send(account(server.port), envelope(), wire(), Dots())
    # SIZE 1 would have refused it.
    assert attempt.answers[0].accepted
    assert len(messages) == 1


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("fault", ["name", "authority", "expired"])
async def test_a_certificate_that_is_not_valid_holds_the_account(
    transport: SmtpTransport, authority: Authority, fault: str, implicit: bool
) -> None:
    name = "mail.example.com" if fault == "name" else "localhost"
    context = authority.server_context(name, expired=fault == "expired")
    sender = transport
    if fault == "authority":
        sender = SmtpTransport(timeouts=SHORT)
    implicit_tls, starttls = (context, None) if implicit else (None, context)
    async with real_server(implicit_tls=implicit_tls, starttls=starttls, users={"ann": "pw"}) as server:
        mode = TlsMode.IMPLICIT if implicit else TlsMode.AUTO
        ann = account(server.port, host="localhost", tls=mode, user="ann", password="pw")
        attempt = await sender.send(ann, envelope(), wire(), Dots())
        probed = await sender.probe(ann)
    await sender.close()
    assert isinstance(attempt.failure, AccountRefused)
    assert attempt.failure.text.startswith("starting TLS: the server's certificate is not valid: ")
    assert probed == attempt.failure
    assert (server.logins, server.messages) == ([], [])


async def test_an_account_may_do_without_verification(authority: Authority) -> None:
    transport = SmtpTransport(timeouts=SHORT)
    async with real_server(starttls=authority.server_context("mail.example.com"), users={"ann": "pw"}) as server:
        ann = account(server.port, user="ann", password="pw", verify_tls=False)
        assert (await transport.send(ann, envelope(), wire(), Dots())).answers[0].accepted
        await transport.close()
    assert server.messages[0].encrypted


async def test_a_server_that_knows_only_old_versions_of_tls_holds_the_account(transport: SmtpTransport) -> None:
    async def refuse(peer: Peer) -> None:
        await peer.hear_until(b"\x16\x03\x01")
        # RFC 8446 section 6.2: a fatal alert, protocol_version.
        peer.say_bytes(b"\x15\x03\x01\x00\x02\x02\x46")
        peer.close()

    async with scripted_server(refuse) as server:
        attempt = await transport.send(account(server.port, tls=TlsMode.IMPLICIT), envelope(), wire(), Dots())
    assert isinstance(attempt.failure, AccountRefused)
    assert "no TLS of version 1.2 or newer" in attempt.failure.text


async def test_plain_text_in_place_of_the_handshake_holds_the_account(transport: SmtpTransport) -> None:
    async def injected(peer: Peer) -> None:
        peer.say("220 go ahead")
        await peer.hear_until(b"\x16\x03\x01")
        peer.say("250-evil", "250 AUTH PLAIN")
        await peer.hear_end()

    dialogue = Dialogue(extensions=WITH_STARTTLS, starttls=injected)
    async with scripted_server(dialogue) as server:
        ann = account(server.port, user="ann", password="secret")
        attempt = await transport.send(ann, envelope(), wire(), Dots())
    assert isinstance(attempt.failure, AccountRefused)
    assert server.verbs == [["EHLO", "STARTTLS"]]


async def test_a_greeting_that_refuses_over_tls_is_the_hosts_failure(
    transport: SmtpTransport, authority: Authority
) -> None:
    context = authority.server_context("127.0.0.1")
    async with scripted_server(Dialogue(greeting="554 5.7.1 not now"), tls=context) as server:
        attempt = await transport.send(account(server.port, tls=TlsMode.IMPLICIT), envelope(), wire(), Dots())
    assert isinstance(attempt.failure, HostFailed)
    assert str(attempt.failure.reply) == "554 5.7.1 not now"


async def test_a_server_without_tls_on_its_port_holds_the_account(transport: SmtpTransport) -> None:
    async with scripted_server(Dialogue()) as server:
        attempt = await transport.send(account(server.port, tls=TlsMode.IMPLICIT), envelope(), wire(), Dots())
    assert isinstance(attempt.failure, AccountRefused)


async def test_a_connection_that_ends_in_the_handshake_is_the_hosts_failure(transport: SmtpTransport) -> None:
    async def leave(peer: Peer) -> None:
        peer.say("220 go ahead")
        await peer.flush()
        peer.drop()

    async with scripted_server(Dialogue(extensions=WITH_STARTTLS, starttls=leave)) as server:
        attempt = await transport.send(account(server.port), envelope(), wire(), Dots())
    assert isinstance(attempt.failure, HostFailed)


async def test_no_login_is_made_in_clear_even_if_all_before_it_failed_to_notice() -> None:
    ann = account(25, host="mail.example.com", user="ann", password="secret", tls=TlsMode.AUTO)
    with pytest.raises(NotOpened, match="not without TLS"):
        await log_in(aiosmtplib.SMTP(), ann, Secret("secret"), encrypted=False)


@pytest.mark.parametrize("verify", [True, False])
async def test_no_version_of_tls_before_1_2_is_spoken(verify: bool) -> None:
    context = await TlsContexts().context(verify=verify)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.check_hostname is verify
    assert context.verify_mode is (ssl.CERT_REQUIRED if verify else ssl.CERT_NONE)


@pytest.mark.parametrize("method", list(AuthMethod))
async def test_a_login_in_clear_is_made_only_because_the_account_says_so(
    transport: SmtpTransport, method: AuthMethod
) -> None:
    dialogue = Dialogue(extensions=(*EXTENSIONS, "AUTH PLAIN LOGIN CRAM-MD5 XOAUTH2"), auth="535 5.7.8 no")
    async with scripted_server(dialogue) as server:
        ann = account(server.port, host="0", user="ann", password="secret", auth=method, tls=TlsMode.NONE)
        attempt = await transport.send(ann, envelope(), wire(), Dots())
    assert isinstance(attempt.failure, AccountRefused)
    # After the stronger one was refused, the password is not shown to whoever may listen.
    assert server.verbs == [["EHLO", "AUTH"]]


async def test_the_tls_version_is_told(transport: SmtpTransport, authority: Authority) -> None:
    context = authority.server_context("127.0.0.1", maximum=ssl.TLSVersion.TLSv1_2)
    async with real_server(starttls=context) as server:
        assert await transport.probe(account(server.port)) == Probed("TLSv1.2")
        assert await transport.probe(account(server.port, tls=TlsMode.NONE)) == Probed(None)
