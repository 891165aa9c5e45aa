"""The catcher is a server that others can talk to as well."""

from __future__ import annotations

import asyncio

from mail_proxy.smtp.capture import SmtpCatcher
from mail_proxy.smtp.pool import SmtpTransport
from tests.edge.smtp.making import CONTENT, Dots, account, envelope, wire

Message = tuple[str, tuple[str, ...], bytes]


async def talk(port: int, *pieces: bytes) -> bytes:
    """Say something in these pieces, QUIT, and return all that was said in return."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in (*pieces, b"QUIT\r\n"):
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    heard = await reader.read()
    writer.close()
    await writer.wait_closed()
    return heard


def codes(heard: bytes) -> list[int]:
    return [int(line[:3]) for line in heard.splitlines() if line[3:4] == b" "]


async def test_what_is_sent_is_caught(transport: SmtpTransport) -> None:
    caught: list[Message] = []
    refusals = {"no@x.org": (550, "5.1.1 unknown"), "later@x.org": (450, "4.2.0 later")}
    async with SmtpCatcher(lambda *message: caught.append(message), refusals.get) as catcher:
        to = envelope("no@x.org", "yes@x.org", "later@x.org", "jörg@x.org")
        attempt = await transport.send(account(catcher.port), to, wire(b"\x00..\r\n.\r\n.x"), Dots())
        second = await transport.send(account(catcher.port), envelope("a@x.org", sender=""), wire(b""), Dots())
    assert {n: answer.reply.code for n, answer in attempt.answers.items()} == {0: 550, 1: 250, 2: 450, 3: 250}
    assert second.answers[0].accepted
    assert caught == [
        ("sender@example.com", ("yes@x.org", "jörg@x.org"), b"\x00..\r\n.\r\n.x\r\n"),
        ("", ("a@x.org",), b""),
    ]


async def test_a_conversation_may_come_in_any_pieces() -> None:
    caught: list[Message] = []
    said = (
        b"EHLO me\r\nMAIL FROM:<a@x.org> SIZE=10\r\nrcpt to: <b@x.org>\r\nDATA\r\n" + CONTENT + b"..dot\r\n.\r\n"
        b"RSET\r\nNOOP\r\nHELO me\r\nWHAT?\r\n"
    )
    async with SmtpCatcher(lambda *message: caught.append(message)) as catcher:
        whole = await talk(catcher.port, said)
        crumbs = await talk(catcher.port, *(said[i : i + 1] for i in range(len(said))))
    assert codes(whole) == codes(crumbs) == [220, 250, 250, 250, 354, 250, 250, 250, 250, 502, 221]
    assert caught == [("a@x.org", ("b@x.org",), CONTENT + b".dot\r\n")] * 2


async def test_commands_out_of_order_are_refused() -> None:
    caught: list[Message] = []
    async with SmtpCatcher(lambda *message: caught.append(message)) as catcher:
        heard = await talk(
            catcher.port,
            b"RCPT TO:<a@x.org>\r\nDATA\r\nMAIL FROM a@x.org\r\nMAIL FROM:<a@x.org>\r\nMAIL FROM:<b@x.org>\r\n"
            b"RCPT TO:<>\r\nRCPT TO:b@x.org\r\nDATA\r\n",
        )
    assert codes(heard) == [220, 503, 554, 501, 250, 503, 503, 503, 554, 221]
    assert caught == []


async def test_too_much_is_refused(transport: SmtpTransport) -> None:
    caught: list[Message] = []
    async with SmtpCatcher(lambda *message: caught.append(message), size_limit=1000) as catcher:
        attempt = await transport.send(account(catcher.port), envelope(), wire(b"x" * 1001), Dots())
        assert str(attempt.answers[0].reply).startswith("554 5.3.4")
        # Also for a client that does not look at SIZE.
        big = b"MAIL FROM:<>\r\nRCPT TO:<a@x.org>\r\nDATA\r\n" + b"x" * 2000 + b"\r\n"
        assert codes(await talk(catcher.port, big, b".", b"\r\n")) == [220, 250, 250, 354, 552, 221]
    assert caught == []


async def test_an_endless_command_ends_the_connection() -> None:
    async with SmtpCatcher(lambda *_: None) as catcher:
        reader, writer = await asyncio.open_connection("127.0.0.1", catcher.port)
        writer.write(b"x" * 200_000)
        try:
            assert codes(await reader.read()) == [220]
        except ConnectionResetError:
            # What was not read yet makes the end a rude one.
            assert reader.exception() is not None
        writer.transport.abort()
