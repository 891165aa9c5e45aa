"""Logins: which mechanism, how often, and whose fault a refusal is."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from typing_extensions import override

from mail_proxy.domain.account import Account, AuthMethod, TlsMode
from mail_proxy.domain.attempt import AccountRefused, HostFailed, Probed, Step
from mail_proxy.domain.oauth import OAuth
from mail_proxy.domain.secret import Secret
from mail_proxy.ports.transport import AccessTokens
from mail_proxy.smtp.login import mechanisms
from mail_proxy.smtp.pool import SmtpTransport
from tests.edge.smtp.conftest import SHORT
from tests.edge.smtp.making import Dots, account, envelope, wire
from tests.support.certificates import Authority
from tests.support.smtp_servers import EXTENSIONS, Dialogue, Peer, Said, real_server, scripted_server

ALL = (*EXTENSIONS, "AUTH LOGIN XOAUTH2 PLAIN CRAM-MD5")


@pytest.mark.parametrize(
    ("wanted", "offered", "expected"),
    [
        ("auto", ["plain", "login", "cram-md5"], ["cram-md5", "plain"]),
        ("auto", ["login", "plain"], ["plain"]),
        ("auto", ["login", "xoauth2"], ["login"]),
        ("auto", ["cram-md5", "login"], ["cram-md5", "login"]),
        ("auto", ["cram-md5"], ["cram-md5"]),
        ("auto", ["gssapi"], []),
        ("auto", [], []),
        ("plain", ["plain", "login", "cram-md5"], ["plain"]),
        ("login", ["plain", "login"], ["login"]),
        ("cram-md5", ["plain", "cram-md5"], ["cram-md5"]),
        ("cram-md5", ["plain"], []),
        ("xoauth2", ["plain", "xoauth2"], ["xoauth2"]),
        ("xoauth2", ["plain"], []),
    ],
)
def test_which_mechanisms_are_tried(wanted: str, offered: list[str], expected: list[str]) -> None:
    assert mechanisms(AuthMethod(wanted), offered) == tuple(map(AuthMethod, expected))


async def test_cram_md5_does_not_show_the_password(transport: SmtpTransport) -> None:
    challenge = b"<1896.697170952@postoffice.example.net>"
    answers: list[str] = []

    async def challenge_them(peer: Peer) -> None:
        peer.say(f"334 {base64.b64encode(challenge).decode()}")
        answers.append(await peer.hear())
        peer.say("235 2.7.0 welcome")

    async with scripted_server(Dialogue(extensions=ALL, auth=challenge_them)) as server:
        ann = account(server.port, user="ann", password="tanstaaftanstaaf", auth=AuthMethod.CRAM_MD5)
        assert (await transport.send(ann, envelope(), wire(), Dots())).answers[0].accepted
    digest = hmac.new(b"tanstaaftanstaaf", challenge, hashlib.md5).hexdigest()
    assert base64.b64decode(answers[0]).decode() == f"ann {digest}"
    assert server.heard[0][1] == "AUTH CRAM-MD5"


async def test_auto_falls_back_once_where_nobody_can_listen(transport: SmtpTransport) -> None:
    replies = iter(["504 5.5.4 no such mechanism", "235 2.7.0 welcome"])

    async def auth(peer: Peer) -> None:
        peer.say(next(replies))

    async with scripted_server(Dialogue(extensions=ALL, auth=auth)) as server:
        ann = account(server.port, user="ann", password="pw")
        assert (await transport.send(ann, envelope(), wire(), Dots())).answers[0].accepted
    assert server.heard[0][1:3] == ["AUTH CRAM-MD5", "AUTH PLAIN AGFubgBwdw=="]


@pytest.mark.parametrize("code", [500, 501, 504, 530, 534, 535, 538])
async def test_a_login_refused_for_good_is_the_accounts_fault(transport: SmtpTransport, code: int) -> None:
    dialogue = Dialogue(extensions=(*EXTENSIONS, "AUTH PLAIN"), auth=f"{code} 5.7.8 no \x1b[2J")
    async with scripted_server(dialogue) as server:
        ann = account(server.port, user="ann", password="pw")
        attempt = await transport.send(ann, envelope(), wire(), Dots())
        assert isinstance(attempt.failure, AccountRefused)
        assert attempt.failure.text == f"logging in: the server said {code} 5.7.8 no ?[2J"
        assert attempt.failure.reply is not None
        assert attempt.failure.reply.code == code
        assert await transport.probe(ann) == attempt.failure


async def test_a_login_that_is_not_offered_is_the_accounts_fault(transport: SmtpTransport) -> None:
    async with scripted_server(Dialogue(extensions=(*EXTENSIONS, "AUTH GSSAPI XOAUTH2"))) as server:
        ann = account(server.port, user="ann", password="pw")
        attempt = await transport.send(ann, envelope(), wire(), Dots())
    assert attempt.failure == AccountRefused(
        "logging in: plain, login or cram-md5 is wanted, the server offers gssapi, xoauth2"
    )


async def test_454_is_temporary_until_it_keeps_coming(transport: SmtpTransport) -> None:
    dialogue = Dialogue(extensions=(*EXTENSIONS, "AUTH PLAIN"), auth="454 4.7.0 temporary authentication failure")
    async with scripted_server(dialogue) as server:
        ann = account(server.port, user="ann", password="pw")
        ends: list[object] = [await transport.probe(ann) for _ in range(2)]
        ends += [(await transport.send(ann, envelope(), wire(), Dots())).failure for _ in range(2)]
        assert [type(end) for end in ends] == [HostFailed, HostFailed, AccountRefused, AccountRefused]
        dialogue.auth = "235 2.7.0 welcome"
        assert isinstance(await transport.probe(ann), Probed)
        dialogue.auth = "454 4.7.0 temporary authentication failure"
        assert isinstance(await transport.probe(ann), HostFailed)


@pytest.mark.parametrize("said", ["421 4.3.2 going down", "334 ???", "garbage"])
async def test_any_other_end_of_a_login_is_the_hosts_failure(transport: SmtpTransport, said: Said) -> None:
    async with scripted_server(Dialogue(extensions=(*EXTENSIONS, "AUTH PLAIN"), auth=said)) as server:
        ann = account(server.port, user="ann", password="pw")
        attempt = await transport.send(ann, envelope(), wire(), Dots())
    assert isinstance(attempt.failure, HostFailed)


# XOAUTH2


@dataclass
class Tokens(AccessTokens):
    """Gives one token after the other; a new one only where the one before was refused."""

    left: list[str]
    asked: list[Secret | None] = field(default_factory=list)

    @override
    async def token(self, account: Account, refused: Secret | None = None) -> Secret | HostFailed | AccountRefused:
        self.asked.append(refused)
        if refused is not None:
            self.left.pop(0)
        return Secret(self.left[0]) if self.left else HostFailed("no token", step=Step.TOKEN, shared=True)


def oauth_account(port: int, **settings: Any) -> Account:
    oauth = OAuth("https://login.example/token", "app", Secret("secret"), Secret("refresh"), "g1")
    return account(port, user="ann@example.com", oauth=oauth, auth=AuthMethod.XOAUTH2, **settings)


@pytest.mark.parametrize(
    ("tokens", "end", "logins"),
    [(["good"], type(None), 1), (["old", "good"], type(None), 2), (["old", "older", "good"], AccountRefused, 2)],
)
async def test_a_token_that_is_not_taken_is_replaced_once(
    authority: Authority, tokens: list[str], end: type, logins: int
) -> None:
    given = Tokens(list(tokens))
    context = authority.server_context("127.0.0.1")
    async with real_server(starttls=context, access_tokens={"ann@example.com": "good"}) as server:
        transport = SmtpTransport(timeouts=SHORT, extra_ca=authority.path, tokens=given)
        ann = oauth_account(server.port, tls=TlsMode.STARTTLS)
        attempt = await transport.send(ann, envelope(), wire(), Dots())
        assert type(attempt.failure) is end
        assert server.logins == [("XOAUTH2", "ann@example.com")] * logins
        assert given.asked == [None, *(Secret(token) for token in tokens[: logins - 1])]
        if end is AccountRefused:
            assert "535" in str(attempt.failure)
        else:
            assert server.messages[0].user == "ann@example.com"
            # The session is kept although the token server has given another refresh token meanwhile.
            assert ann.oauth is not None
            later = replace(ann, oauth=replace(ann.oauth, refresh_token=Secret("next")))
            assert (await transport.send(later, envelope(), wire(), Dots())).answers[0].accepted
            assert len(server.logins) == logins
        await transport.close()


async def test_without_a_token_the_server_is_not_connected_to() -> None:
    transport = SmtpTransport(timeouts=SHORT, tokens=Tokens([]))
    async with scripted_server(Dialogue()) as server:
        ann = oauth_account(server.port)
        failure = (await transport.send(ann, envelope(), wire(), Dots())).failure
        assert isinstance(failure, HostFailed)
        assert failure.shared
        probed = await transport.probe(ann)
        assert isinstance(probed, HostFailed)
        assert probed.step is Step.TOKEN
        assert server.peers == []
    await transport.close()


async def test_with_a_secret_that_cannot_be_read_the_server_is_not_connected_to(transport: SmtpTransport) -> None:
    async with scripted_server(Dialogue()) as server:
        lost = replace(account(server.port, user="ann"), unreadable=True)
        for each, step in ((lost, Step.LOGIN), (replace(lost, auth=AuthMethod.XOAUTH2), Step.TOKEN)):
            probed = await transport.probe(each)
            assert isinstance(probed, AccountRefused)
            assert probed.step is step
            assert "give it anew" in probed.text
        assert server.peers == []


# The first login


async def test_the_first_login_is_made_once_and_not_by_all_sessions(transport: SmtpTransport) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def auth(peer: Peer) -> None:
        asked.set()
        await answer.wait()
        peer.say("235 2.7.0 welcome")

    async with scripted_server(Dialogue(extensions=(*EXTENSIONS, "AUTH PLAIN"), auth=auth)) as server:
        ann = account(server.port, user="ann", password="pw", max_connections=4)
        sending = [asyncio.ensure_future(transport.send(ann, envelope(), wire(), Dots())) for _ in range(4)]
        await asked.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(server.peers) == 1
        answer.set()
        assert all([(await attempt).answers[0].accepted for attempt in sending])
    assert 1 < len(server.peers) <= 4


async def test_a_wrong_password_is_tried_once_for_all_that_wait(transport: SmtpTransport) -> None:
    dialogue = Dialogue(extensions=(*EXTENSIONS, "AUTH PLAIN"), auth="535 5.7.8 wrong")
    async with scripted_server(dialogue) as server:
        ann = account(server.port, user="ann", password="pw", max_connections=4)
        attempts = await asyncio.gather(*(transport.send(ann, envelope(), wire(), Dots()) for _ in range(4)))
        assert {type(attempt.failure) for attempt in attempts} == {AccountRefused}
        assert len(server.peers) == 1
        # The next one tries again.
        dialogue.auth = "235 2.7.0 welcome"
        assert (await transport.send(ann, envelope(), wire(), Dots())).answers[0].accepted


async def test_a_first_login_that_is_cancelled_is_made_by_the_next(transport: SmtpTransport) -> None:
    asked = asyncio.Event()

    async def hang(peer: Peer) -> None:
        asked.set()
        await peer.hear_end()

    extensions = (*EXTENSIONS, "AUTH PLAIN")
    async with scripted_server(Dialogue(extensions=extensions, auth=hang), Dialogue(extensions=extensions)) as server:
        ann = account(server.port, user="ann", password="pw")
        first, second = (asyncio.ensure_future(transport.send(ann, envelope(), wire(), Dots())) for _ in range(2))
        await asked.wait()
        first.cancel()
        assert (await second).answers[0].accepted
        assert first.cancelled()
        await server.peers[0].hear_end()


async def test_a_login_with_old_settings_proves_nothing_for_the_new_ones(transport: SmtpTransport) -> None:
    asked, answers = asyncio.Semaphore(0), [asyncio.Event(), asyncio.Event(), asyncio.Event()]

    async def auth(peer: Peer) -> None:
        asked.release()
        await answers[server.peers.index(peer)].wait()
        peer.say("235 2.7.0 welcome")

    async with scripted_server(Dialogue(extensions=(*EXTENSIONS, "AUTH PLAIN"), auth=auth)) as server:
        old = account(server.port, user="ann", password="old")
        new = account(server.port, user="ann", password="new")
        sending = []
        for settings in (old, new):
            sending.append(asyncio.ensure_future(transport.send(settings, envelope(), wire(), Dots())))
            await asked.acquire()
        answers[0].set()
        assert (await sending[0]).answers[0].accepted
        sending.append(asyncio.ensure_future(transport.send(new, envelope(), wire(), Dots())))
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(server.peers) == 2
        answers[1].set()
        answers[2].set()
        assert all([(await attempt).answers[0].accepted for attempt in sending])


@pytest.mark.parametrize("method", [AuthMethod.PLAIN, AuthMethod.LOGIN])
async def test_a_password_that_the_server_repeats_is_masked(transport: SmtpTransport, method: AuthMethod) -> None:
    async def repeat_all(peer: Peer) -> None:
        for prompt in () if method is AuthMethod.PLAIN else (b"Password:",):
            peer.say(f"334 {base64.b64encode(prompt).decode()}")
            await peer.hear()
        plain = base64.b64encode(b"\0ann\0can ary").decode()
        alone = base64.b64encode(b"can ary").decode()
        peer.say(f"535 5.7.8 no 'can ary', {plain}, {alone}")

    async with scripted_server(Dialogue(extensions=ALL, auth=repeat_all)) as server:
        ann = account(server.port, user="ann", password="can ary", auth=method)
        refused = (await transport.send(ann, envelope(), wire(), Dots())).failure
    assert isinstance(refused, AccountRefused)
    assert refused.text == "logging in: the server said 535 5.7.8 no '********', ********, ********"
    assert refused.reply is not None
    assert refused.reply.text == "no '********', ********, ********"
