"""More recipients than a server takes at a time: all are served, and the limit is remembered."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mail_proxy.domain.attempt import Answer, HostFailed, Interrupted, Stage
from mail_proxy.domain.reply import Reply
from mail_proxy.smtp.connection import RawReply
from mail_proxy.smtp.pool import SmtpTransport
from mail_proxy.smtp.recipients import sort_recipients
from tests.edge.smtp.conftest import SHORT
from tests.edge.smtp.making import Dots, account, envelope, wire
from tests.support.smtp_servers import EXTENSIONS, Dialogue, Peer, Said, scripted_server


class Limited(Dialogue):
    """Takes so many recipients in each transaction."""

    def __init__(self, limit: int, reply: str = "452 4.5.3 too many recipients", **settings: object) -> None:
        super().__init__(rcpt=self._count, **settings)  # type: ignore[arg-type]
        self._left = self._limit = limit
        self._reply = reply
        self.refusals: dict[str, str] = {}
        self.dot = self._taken

    def _count(self, address: str) -> Said:
        if address in self.refusals:
            return self.refusals[address]
        if self._left == 0:
            return self._reply
        self._left -= 1
        return "250 2.1.5 ok"

    async def _taken(self, peer: Peer) -> None:
        self._left = self._limit
        peer.say("250 2.0.0 taken")


def people(count: int) -> list[str]:
    return [f"r{n}@x.org" for n in range(count)]


@pytest.mark.parametrize("extensions", [EXTENSIONS, EXTENSIONS[1:]], ids=["pipelined", "one by one"])
@pytest.mark.parametrize("reply", ["452 4.5.3 too many recipients", "452 too many", "552 5.5.3 too many"])
async def test_those_who_were_too_many_follow_right_after(
    transport: SmtpTransport, reply: str, extensions: tuple[str, ...]
) -> None:
    server_side = Limited(3, reply, extensions=extensions)
    async with scripted_server(server_side) as server:
        attempt = await transport.send(account(server.port), envelope(*people(8)), wire(), dots := Dots())
        assert all(attempt.answers[n].accepted for n in range(8))
        assert (attempt.transactions, len(dots.seen), attempt.failure) == (3, 3, None)
        # The next message begins with the limit that was seen.
        assert (await transport.send(account(server.port), envelope(*people(4)), wire(), Dots())).transactions == 2
    assert [len(recipients) for _, recipients in server_side.transactions] == [3, 3, 2, 3, 1]
    asked = sum(line.startswith("RCPT") for line in server.heard[0])
    assert asked == (8 + 5 + 2) + (3 + 1)


async def test_a_full_mailbox_is_no_limit(transport: SmtpTransport) -> None:
    server_side = Limited(100)
    server_side.refusals = {"full@x.org": "452 4.2.2 over quota"}
    async with scripted_server(server_side) as server:
        attempt = await transport.send(account(server.port), envelope("a@x.org", "full@x.org"), wire(), Dots())
    assert attempt.answers[1] == Answer(Reply(452, "4.2.2", "over quota"), Stage.RCPT)
    assert not attempt.answers[1].permanent
    assert attempt.transactions == 1


async def test_a_refusal_that_repeats_is_no_limit_either(transport: SmtpTransport) -> None:
    server_side = Limited(100)
    server_side.refusals = {"full@x.org": "452 insufficient storage"}
    async with scripted_server(server_side) as server:
        attempt = await transport.send(account(server.port), envelope("a@x.org", "full@x.org"), wire(), Dots())
        assert attempt.answers[1] == Answer(Reply(452, None, "insufficient storage"), Stage.RCPT)
        assert attempt.transactions == 2
        again = await transport.send(account(server.port), envelope(*people(5)), wire(), Dots())
        assert again.transactions == 1


async def test_552_for_the_first_recipient_is_temporary(transport: SmtpTransport) -> None:
    async with scripted_server(Limited(0, "552 too many")) as server:
        attempt = await transport.send(account(server.port), envelope("a@x.org", "b@x.org"), wire(), Dots())
    assert [answer.permanent for answer in attempt.answers.values()] == [False, False]
    assert attempt.transactions == 1


async def test_a_message_is_split_at_a_hundred_recipients() -> None:
    transport, dialogue = SmtpTransport(timeouts=SHORT), Dialogue()
    async with scripted_server(dialogue) as server:
        attempt = await transport.send(account(server.port), envelope(*people(250)), wire(), Dots())
        await transport.close()
    assert len(attempt.answers) == 250
    assert attempt.transactions == 3
    assert [len(recipients) for _, recipients in dialogue.transactions] == [100, 100, 50]
    assert [to for _, recipients in dialogue.transactions for to in recipients] == people(250)


async def test_a_word_on_the_message_holds_for_those_not_tried_yet() -> None:
    transport = SmtpTransport(timeouts=SHORT, recipients_limit=2)
    dialogue = Dialogue(mail="550 5.7.1 not you", rcpt=lambda _: "503 no", data="503 no")
    async with scripted_server(dialogue) as server:
        attempt = await transport.send(account(server.port), envelope(*people(5)), wire(), Dots())
        await transport.close()
    assert {answer.stage for answer in attempt.answers.values()} == {Stage.MAIL}
    assert len(attempt.answers) == 5
    assert attempt.transactions == 1


async def test_the_answer_to_one_dot_holds_for_its_own_recipients() -> None:
    transport = SmtpTransport(timeouts=SHORT, recipients_limit=2)
    replies = iter(["250 2.0.0 taken", "451 4.3.0 busy", "250 2.0.0 taken"])

    async def dot(peer: Peer) -> None:
        peer.say(next(replies))

    async with scripted_server(Dialogue(dot=dot)) as server:
        attempt = await transport.send(account(server.port), envelope(*people(5)), wire(), Dots())
        await transport.close()
    assert [attempt.answers[n].accepted for n in range(5)] == [True, True, False, False, True]


async def test_loss_in_a_later_transaction_leaves_the_rest_untried() -> None:
    transport = SmtpTransport(timeouts=SHORT, recipients_limit=2)
    seen = 0

    async def dot(peer: Peer) -> None:
        nonlocal seen
        seen += 1
        if seen == 2:
            peer.drop()
        else:
            peer.say("250 2.0.0 taken")

    async with scripted_server(Dialogue(dot=dot)) as server:
        attempt = await transport.send(account(server.port), envelope(*people(6)), wire(), Dots())
        await transport.close()
    assert set(attempt.answers) == {0, 1}
    assert attempt.uncertain == {2, 3}
    assert isinstance(attempt.failure, HostFailed)
    assert attempt.transactions == 2


def test_a_refusal_before_an_accepted_recipient_is_its_own() -> None:
    recipients = tuple(enumerate(people(4)))
    replies = [RawReply(250, b"ok"), RawReply(452, b"not you"), RawReply(250, b"ok"), RawReply(452, b"4.5.3 enough")]
    sorted_ = sort_recipients(recipients, replies)
    assert sorted_.accepted == (recipients[0], recipients[2])
    assert set(sorted_.refused) == {1}
    assert sorted_.too_many == (recipients[3],)


class SecondForbidden(Dots):
    """Lets the first final dot go out and no further one."""

    async def __call__(self) -> None:
        await super().__call__()
        if len(self.seen) > 1:
            raise OSError("the journal cannot be written")


async def test_what_the_first_transaction_told_is_known_although_the_second_may_not_end(
    transport: SmtpTransport,
) -> None:
    server_side = Limited(2)
    async with scripted_server(server_side) as server:
        attempt = await transport.send(account(server.port), envelope(*people(4)), wire(), SecondForbidden())
    assert {n: answer.accepted for n, answer in attempt.answers.items()} == {0: True, 1: True}  # G4
    assert attempt.uncertain == frozenset()
    assert attempt.failure == Interrupted("OSError: the journal cannot be written")
    assert [len(recipients) for _, recipients in server_side.transactions] == [2]


async def test_one_transaction_at_a_time_is_made_where_no_more_may_be(transport: SmtpTransport) -> None:
    server_side = Limited(2)
    async with scripted_server(server_side) as server:
        to = replace(envelope(*people(3)), transactions=1)  # G10
        attempt = await transport.send(account(server.port), to, wire(), Dots())
    assert (sorted(attempt.answers), attempt.failure, attempt.transactions) == ([0, 1], None, 1)
