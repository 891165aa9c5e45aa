"""One transaction against a server that does exactly what a script says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mail_proxy.domain.attempt import Attempt, Envelope, HostFailed, Stage
from mail_proxy.domain.compose import Wire
from mail_proxy.smtp.pool import SmtpTransport
from tests.edge.smtp.making import CONTENT, Dots, Source, account, envelope, wire
from tests.support.smtp_servers import EXTENSIONS, Dialogue, Peer, scripted_server

NOT_PIPELINED = EXTENSIONS[1:]


def refusing(**replies: str) -> Dialogue:
    """A dialogue that refuses addresses by their local part."""
    return Dialogue(rcpt=lambda address: replies.get(address.partition("@")[0], "250 2.1.5 ok"))


def said(attempt: Attempt) -> dict[int, tuple[str, Stage]]:
    return {n: (str(answer.reply), answer.stage) for n, answer in attempt.answers.items()}


async def test_mail_rcpt_and_data_leave_in_one_block(transport: SmtpTransport) -> None:
    blocks: list[bytes] = []

    async def script(peer: Peer) -> None:
        peer.say("220 hi")
        await peer.hear()
        peer.say("250-hi", "250-PIPELINING", "250 SIZE")
        blocks.append(await peer.hear_until(b"DATA\r\n"))
        peer.say("250 ok", "250 ok", "250 ok", "354 go")
        blocks.append(await peer.hear_until(b"\r\n.\r\n"))
        peer.say("250 taken")
        await peer.hear()

    async with scripted_server(script) as server:
        attempt = await transport.send(account(server.port), envelope("a@x.org", "b@x.org"), wire(), Dots())
        assert attempt.answers[1].accepted
    size = len(CONTENT)
    mail = f"MAIL FROM:<sender@example.com> SIZE={size}\r\n"
    assert blocks == [f"{mail}RCPT TO:<a@x.org>\r\nRCPT TO:<b@x.org>\r\nDATA\r\n".encode(), CONTENT + b".\r\n"]


async def test_without_pipelining_each_command_waits_for_the_reply_before(transport: SmtpTransport) -> None:
    dialogue = replace(refusing(no="550 5.1.1 no"), extensions=NOT_PIPELINED)
    alone: list[bool] = []

    async def script(peer: Peer) -> None:
        say = peer.say

        def look_then_say(*lines: str) -> None:
            alone.append(not peer.waiting)
            say(*lines)

        peer.say = look_then_say  # type: ignore[method-assign]
        await dialogue(peer)

    async with scripted_server(script) as server:
        attempt = await transport.send(account(server.port), envelope("no@x.org", "yes@x.org"), wire(), Dots())
    assert said(attempt) == {0: ("550 5.1.1 no", Stage.RCPT), 1: ("250 2.0.0 taken", Stage.DOT)}
    assert all(alone)
    assert dialogue.transactions == [("sender@example.com", ("yes@x.org",))]


@pytest.mark.parametrize("extensions", [EXTENSIONS, NOT_PIPELINED])
async def test_mail_refused_answers_for_all_recipients(transport: SmtpTransport, extensions: tuple[str, ...]) -> None:
    dialogue = Dialogue(
        mail="550 5.7.1 not you",
        rcpt=lambda _: "503 5.5.1 no sender",
        data="503 5.5.1 no sender",
        extensions=extensions,
    )
    dots = Dots()
    async with scripted_server(dialogue) as server:
        attempt = await transport.send(account(server.port), envelope("a@x.org", "b@x.org"), wire(), dots)
    assert said(attempt) == dict.fromkeys((0, 1), ("550 5.7.1 not you", Stage.MAIL))
    assert attempt.failure is None
    assert dots.seen == []


async def test_a_go_ahead_after_mail_was_refused_is_met_with_a_lone_dot(transport: SmtpTransport) -> None:
    dialogue = Dialogue(mail="451 4.3.0 not now", rcpt=lambda _: "503 5.5.1 no sender", dot="554 5.5.1 nobody")
    async with scripted_server(dialogue) as server:
        attempt = await transport.send(account(server.port), envelope(), wire(), Dots())
        assert said(attempt) == {0: ("451 4.3.0 not now", Stage.MAIL)}
        dialogue.mail, dialogue.rcpt, dialogue.dot = "250 ok", (lambda _: "250 ok"), "250 taken"
        assert (await transport.send(account(server.port), envelope(), wire(), Dots())).answers[0].accepted
    assert dialogue.messages == [b".\r\n", CONTENT + b".\r\n"]
    assert len(server.peers) == 1


async def test_a_go_ahead_for_nobody_is_met_with_a_lone_dot_and_the_session_goes_on(transport: SmtpTransport) -> None:
    dialogue = refusing(no="550 5.1.1 unknown", later="450 4.2.1 later")
    dots = Dots()
    async with scripted_server(dialogue) as server:
        attempt = await transport.send(account(server.port), envelope("no@x.org", "later@x.org"), wire(), dots)
        assert said(attempt) == {0: ("550 5.1.1 unknown", Stage.RCPT), 1: ("450 4.2.1 later", Stage.RCPT)}
        assert dots.seen == []
        assert (await transport.send(account(server.port), envelope("yes@x.org"), wire(), dots)).answers[0].accepted
    assert dialogue.messages == [b".\r\n", CONTENT + b".\r\n"]
    assert len(server.peers) == 1


@pytest.mark.parametrize("extensions", [EXTENSIONS, NOT_PIPELINED])
async def test_a_transaction_that_stayed_open_is_reset_before_the_next(
    transport: SmtpTransport, extensions: tuple[str, ...]
) -> None:
    dialogue = replace(refusing(no="550 5.1.1 unknown"), data="554 5.5.1 no valid recipients", extensions=extensions)
    async with scripted_server(dialogue) as server:
        attempt = await transport.send(account(server.port), envelope("no@x.org"), wire(), Dots())
        assert said(attempt) == {0: ("550 5.1.1 unknown", Stage.RCPT)}
        dialogue.data = "354 go ahead"
        for _ in range(2):
            assert (
                (await transport.send(account(server.port), envelope("yes@x.org"), wire(), Dots())).answers[0].accepted
            )
        await transport.close()
    first = ["MAIL", "RCPT", "DATA"] if extensions is EXTENSIONS else ["MAIL", "RCPT"]
    again = ["MAIL", "RCPT", "DATA"]
    assert server.verbs == [["EHLO", *first, "RSET", *again, *again, "QUIT"]]


async def test_data_refused_answers_for_all_that_were_accepted(transport: SmtpTransport) -> None:
    dialogue = replace(refusing(no="550 5.1.1 unknown"), data="451 4.3.0 busy")
    async with scripted_server(dialogue) as server:
        attempt = await transport.send(account(server.port), envelope("yes@x.org", "no@x.org"), wire(), Dots())
    assert said(attempt) == {0: ("451 4.3.0 busy", Stage.DATA), 1: ("550 5.1.1 unknown", Stage.RCPT)}
    assert not attempt.answers[0].permanent
    assert attempt.failure is None


async def test_the_answer_to_the_dot_is_the_last_word_on_those_accepted(transport: SmtpTransport) -> None:
    dialogue = replace(refusing(no="550 5.1.1 unknown"), dot="554 5.7.1 spam")
    async with scripted_server(dialogue) as server:
        attempt = await transport.send(account(server.port), envelope("yes@x.org", "no@x.org"), wire(), Dots())
    assert said(attempt) == {0: ("554 5.7.1 spam", Stage.DOT), 1: ("550 5.1.1 unknown", Stage.RCPT)}


async def test_a_refusal_before_the_dot_keeps_it_from_going_out(transport: SmtpTransport) -> None:
    dialogue, refusal = Dialogue(), OSError("the journal cannot be written")
    big = Wire((Source([b"line\r\n" * 5000] * 20),), 600_000)
    async with scripted_server(dialogue) as server:
        for message in (wire(), big):
            with pytest.raises(OSError, match="journal") as raised:
                await transport.send(account(server.port), envelope(), message, Dots(refusal))
            assert raised.value is refusal
        for peer in server.peers:
            await peer.hear_end()
        assert dialogue.messages == []
        # The connection went with it, and its place is free again.
        assert (await transport.send(account(server.port), envelope(), wire(), Dots())).answers[0].accepted
    assert len(server.peers) == 3


async def test_a_source_that_breaks_off_sends_no_dot(transport: SmtpTransport) -> None:
    dialogue, source = Dialogue(), Source([b"half\r\n"], broken=FileNotFoundError("gone"))
    async with scripted_server(dialogue) as server:
        with pytest.raises(FileNotFoundError):
            await transport.send(account(server.port), envelope(), Wire((source,), 100), dots := Dots())
        await server.peers[0].hear_end()
    assert (dialogue.messages, dots.seen, source.closed) == ([], [], True)


async def test_a_server_that_refuses_in_the_middle_of_a_message_has_answered(transport: SmtpTransport) -> None:
    async def enough(peer: Peer) -> None:
        peer.say("354 go ahead")
        await peer.hear_until(b"line\r\n")
        peer.say("552 5.3.4 too big after all")
        await peer.hear_end()

    source = Source([b"line\r\n" * 10_000] * 500)
    async with scripted_server(Dialogue(data=enough)) as server:
        attempt = await transport.send(account(server.port), envelope(), Wire((source,), 1000), dots := Dots())
    assert said(attempt) == {0: ("552 5.3.4 too big after all", Stage.DATA)}
    assert (attempt.answers[0].permanent, dots.seen, attempt.failure) == (True, [], None)


async def test_a_slow_server_slows_the_source_down(transport: SmtpTransport) -> None:
    """Memory does not grow with the message: the source is asked for more only as the server takes it."""
    source = Source([b"line\r\n" * 10_000] * 300)
    stalled: list[int] = []

    async def stall(peer: Peer) -> None:
        peer.say("354 go ahead")
        peer.transport.pause_reading()
        before = -1
        while before != source.taken:
            # What the kernel holds in between goes on for a few rounds.
            before = source.taken
            for _ in range(50):
                await peer.flush()
        stalled.append(source.taken)
        peer.transport.resume_reading()
        await peer.hear_message()
        peer.say("250 taken")
        await peer.hear()

    async with scripted_server(Dialogue(data=stall, extensions=("PIPELINING",))) as server:
        attempt = await transport.send(account(server.port), envelope(), Wire((source,), source.size), Dots())
    assert attempt.answers[0].accepted
    assert 0 < stalled[0] < 200
    assert source.taken == 300


# What a server cannot be given


@pytest.mark.parametrize(
    ("message", "to", "extensions", "code"),
    [
        (Wire((CONTENT,), 1001), envelope(), ("SIZE 1000",), "554 5.3.4"),
        (wire(utf8_headers=True), envelope(), ("8BITMIME",), "554 5.6.7"),
        (wire(), envelope(sender="jörg@example.com"), ("8BITMIME",), "554 5.6.7"),
        (wire(), envelope("jörg@example.com"), ("8BITMIME",), "554 5.6.7"),
        (wire(eight_bit=True), envelope(), ("SMTPUTF8",), "554 5.6.3"),
    ],
)
async def test_what_the_server_cannot_take_is_refused_before_mail(
    transport: SmtpTransport, message: Wire, to: Envelope, extensions: tuple[str, ...], code: str
) -> None:
    async with scripted_server(Dialogue(extensions=extensions)) as server:
        attempt = await transport.send(account(server.port), to, message, dots := Dots())
        await transport.close()
    (answer,) = attempt.answers.values()
    assert str(answer.reply).startswith(code)
    assert (answer.stage, answer.permanent, answer.accepted) == (Stage.MAIL, True, False)
    assert (attempt.transactions, attempt.failure, dots.seen) == (0, None, [])
    assert server.verbs == [["EHLO", "QUIT"]]


@pytest.mark.parametrize("limit", [f"SIZE {len(CONTENT)}", "SIZE 0", "SIZE", "SIZE much", "SIZE " + "9" * 5000])
async def test_a_message_that_just_fits_or_meets_no_limit_is_sent(transport: SmtpTransport, limit: str) -> None:
    async with scripted_server(Dialogue(extensions=("PIPELINING", limit))) as server:
        assert (await transport.send(account(server.port), envelope(), wire(), Dots())).answers[0].accepted


async def test_one_recipient_that_needs_smtputf8_does_not_spoil_the_others(transport: SmtpTransport) -> None:
    dialogue = Dialogue(extensions=("PIPELINING",))
    async with scripted_server(dialogue) as server:
        attempt = await transport.send(account(server.port), envelope("jörg@x.org", "ann@x.org"), wire(), Dots())
    assert str(attempt.answers[0].reply).startswith("554 5.6.7")
    assert attempt.answers[1].accepted
    assert dialogue.transactions == [("sender@example.com", ("ann@x.org",))]


@pytest.mark.parametrize(
    ("message", "to", "parameters"),
    [
        (wire(), envelope(), f" SIZE={len(CONTENT)}"),
        (wire(eight_bit=True), envelope(), f" SIZE={len(CONTENT)} BODY=8BITMIME"),
        (wire(), envelope("jörg@x.org"), f" SIZE={len(CONTENT)} BODY=8BITMIME SMTPUTF8"),
        (wire(utf8_headers=True), envelope(), f" SIZE={len(CONTENT)} BODY=8BITMIME SMTPUTF8"),
    ],
)
async def test_mail_names_what_the_message_needs(
    transport: SmtpTransport, message: Wire, to: Envelope, parameters: str
) -> None:
    async with scripted_server(Dialogue()) as server:
        assert (await transport.send(account(server.port), to, message, Dots())).answers[0].accepted
    assert server.heard[0][1] == f"MAIL FROM:<sender@example.com>{parameters}"


async def test_a_server_without_extensions_is_spoken_to_plainly(transport: SmtpTransport) -> None:
    dialogue = Dialogue(ehlo="502 5.5.1 EHLO?")
    async with scripted_server(dialogue) as server:
        attempt = await transport.send(account(server.port), envelope(sender=""), wire(), Dots())
    assert attempt.answers[0].accepted
    assert server.heard[0][:3] == ["EHLO client.example", "HELO client.example", "MAIL FROM:<>"]


async def test_a_line_break_in_an_address_never_becomes_a_command(transport: SmtpTransport) -> None:
    async with scripted_server(Dialogue()) as server:
        for address in ("a@x.org>\r\nRCPT TO:<b@x.org", "a@x.org\n", "a\r@x.org"):
            with pytest.raises(ValueError, match="line break"):
                await transport.send(account(server.port), envelope(address), wire(), Dots())
    assert {verb for verbs in server.verbs for verb in verbs} == {"EHLO"}


# How replies may arrive


async def test_replies_may_come_in_any_pieces(transport: SmtpTransport) -> None:
    replies = b"250-2.1.0 well\r\n250 2.1.0 fine\r\n250 2.1.5 ok\r\n354\r\n"

    async def crumbs(peer: Peer) -> None:
        await peer.hear_until(b"DATA\r\n")
        for i in range(len(replies)):
            peer.say_bytes(replies[i : i + 1])
            await peer.flush()
        await peer.hear_until(b"\r\n.\r\n")
        peer.say_bytes(b"250-2.6.0 queued\r\n250-2.6.0 as\r\n250 2.6.0 <1@x>\r\n")
        await peer.hear()

    async def script(peer: Peer) -> None:
        peer.say("220 hi")
        await peer.hear()
        peer.say("250-hi", "250 PIPELINING")
        await crumbs(peer)

    async with scripted_server(script) as server:
        attempt = await transport.send(account(server.port), envelope(), wire(), Dots())
    assert said(attempt) == {0: ("250 2.6.0 queued as <1@x>", Stage.DOT)}


async def test_an_answer_to_the_dot_counts_even_if_the_server_leaves_with_it(transport: SmtpTransport) -> None:
    async def taken_and_gone(peer: Peer) -> None:
        peer.say("250 2.0.0 taken", "421 4.3.2 going down")
        peer.close()

    async with scripted_server(Dialogue(dot=taken_and_gone), Dialogue()) as server:
        attempt = await transport.send(account(server.port), envelope(), wire(), Dots())
        assert attempt.answers[0].accepted
        assert attempt.uncertain == frozenset()
        assert (await transport.send(account(server.port), envelope(), wire(), Dots())).answers[0].accepted
    assert len(server.peers) == 2


@pytest.mark.parametrize(
    "replies",
    [
        ["250 ok", "250 ok", "250 ok"],
        ["354 go", "250 ok", "354 go"],
        ["250 ok", "354 go", "250 ok"],
        ["250 ok", "250 ok", "354 go", "250 taken"],
    ],
)
async def test_replies_that_do_not_fit_the_commands_end_the_session(
    transport: SmtpTransport, replies: list[str]
) -> None:
    async def script(peer: Peer) -> None:
        peer.say("220 hi")
        await peer.hear()
        peer.say("250-hi", "250 PIPELINING")
        await peer.hear_until(b"DATA\r\n")
        peer.say(*replies)
        await peer.hear_end()

    async with scripted_server(script) as server:
        attempt = await transport.send(account(server.port), envelope(), wire(), dots := Dots())
    assert isinstance(attempt.failure, HostFailed)
    assert attempt.answers == {}
    assert dots.seen == []


async def test_what_a_server_says_is_made_harmless(transport: SmtpTransport) -> None:
    async with scripted_server(Dialogue(dot="554 5.7.1 \x1b[31mred\x07 \u2028" + "x" * 5000)) as server:
        attempt = await transport.send(account(server.port), envelope(), wire(), Dots())
    text = attempt.answers[0].reply.text
    assert text.isprintable()
    assert text.startswith("?[31mred?")
    assert len(text) <= 500
