"""One SMTP transaction: MAIL, RCPT, DATA in one round trip where the server allows it, the message, the final dot."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple

from mail_proxy.domain.attempt import Answer, Phase, Stage
from mail_proxy.domain.byte_source import ByteSource
from mail_proxy.domain.compose import Wire
from mail_proxy.domain.value import value
from mail_proxy.ports.transport import BeforeDot
from mail_proxy.smtp.connection import Connection, ConnectionLost, Loss, LossKind, RawReply
from mail_proxy.smtp.dot_stuffing import DotStuffer
from mail_proxy.smtp.extensions import Extensions
from mail_proxy.smtp.recipients import Recipients, sort_recipients
from mail_proxy.smtp.stopwatch import Stopwatch
from mail_proxy.smtp.timeouts import Timeouts

GO_AHEAD = 354

# Messages up to this size go out in one write, with their final dot; larger ones in pieces of it.
_BLOCK = 64 * 1024


@value
class Result:
    """What one transaction told us.

    Recipients that are in none of `answers`, `uncertain` and `too_many` are as they were before.
    """

    answers: Mapping[int, Answer] = field(default_factory=dict)
    for_all: Answer | None = None
    """The server's word on the message: it holds for each recipient without one, also for those not tried yet."""
    uncertain: frozenset[int] = frozenset()
    too_many: Recipients = ()
    begun: bool = False
    """True when the server answered MAIL."""
    accepted: int = 0
    """How many recipients RCPT was accepted for."""
    unauthorized: RawReply | None = None
    """The server takes no mail from us without (another) login or without TLS."""
    open_ended: bool = False
    """True when the server may hold a transaction that the next one must reset first."""
    loss: Loss | None = None
    """Why the connection is of no more use."""


@dataclass(slots=True)
class _Opening:
    """The replies so far. Those that are missing were not asked for, or never came."""

    mail: RawReply | None = None
    rcpt: Sequence[RawReply] = ()
    data: RawReply | None = None
    loss: Loss | None = None

    @property
    def out_of_step(self) -> bool:
        """True when some reply cannot belong to its command."""
        before_data = (*(() if self.mail is None else (self.mail,)), *self.rcpt)
        if any(not (reply.accepted or reply.refused) for reply in before_data):
            return True
        return self.data is not None and not (self.data.code == GO_AHEAD or self.data.refused)


class Mail(NamedTuple):
    """What a transaction carries, from whom, and to whom of those that are left."""

    sender: str
    recipients: Recipients
    wire: Wire


async def transact(
    connection: Connection,
    extensions: Extensions,
    timeouts: Timeouts,
    mail: Mail,
    before_dot: BeforeDot,
    took: Stopwatch,
    *,
    reset_first: bool = False,
) -> Result:
    """Give one message to some recipients, and tell what was said; `reset_first` ends an older transaction.

    What each phase takes is added to `took`.

    Errors of `before_dot` and of the message's own sources pass through. Then, as after being cancelled, the connection
    is in the middle of something, and the caller has to close it; without a final dot the server drops what it has.
    """
    sender, recipients, wire = mail
    commands = _commands(extensions, sender, recipients, wire)
    ask = _ask_in_one_block if extensions.pipelining else _ask_one_by_one
    began = monotonic()
    opening = await ask(connection, commands, timeouts.command, reset_first=reset_first)
    began = took.add(Phase.ENVELOPE, began)
    if opening.out_of_step:
        return Result(loss=_given_up(connection, "the server's replies do not fit the commands"))
    if opening.mail is None:
        return Result(loss=opening.loss)
    if opening.mail.refused:
        return await _mail_refused(connection, opening, opening.mail, timeouts)
    sorted_ = sort_recipients(recipients, opening.rcpt)
    if opening.loss is not None or opening.data is None:
        return Result(sorted_.refused, begun=True, open_ended=True, loss=opening.loss)
    if opening.data.code != GO_AHEAD:
        return Result(
            sorted_.refused,
            Answer(opening.data.reply, Stage.DATA) if sorted_.accepted else None,
            begun=True,
            open_ended=True,
        )
    if not sorted_.accepted:
        loss = await _lone_dot(connection, timeouts)
        return Result(sorted_.refused, begun=True, loss=loss)
    sent = await _give_message(connection, timeouts, wire, before_dot, sorted_.accepted, took, began)
    return Result(
        {**sorted_.refused, **sent.answers},
        sent.for_all,
        uncertain=sent.uncertain,
        too_many=sorted_.too_many,
        begun=True,
        accepted=len(sorted_.accepted),
        loss=sent.loss,
    )


# Up to DATA


def _commands(extensions: Extensions, sender: str, recipients: Recipients, wire: Wire) -> list[bytes]:
    """The commands of one transaction, MAIL to DATA, each with its line end."""
    utf8 = wire.utf8_headers or not (sender.isascii() and all(address.isascii() for _, address in recipients))
    parameters = ""
    if extensions.size:
        parameters += f" SIZE={wire.size}"
    if extensions.eight_bit and (wire.eight_bit or utf8):
        parameters += " BODY=8BITMIME"
    if utf8:
        parameters += " SMTPUTF8"
    commands = [f"MAIL FROM:<{sender}>{parameters}\r\n".encode()]
    commands += [f"RCPT TO:<{address}>\r\n".encode() for _, address in recipients]
    commands.append(b"DATA\r\n")
    block = b"".join(commands)
    if not block.count(b"\r") == block.count(b"\n") == len(commands):
        # Addresses are checked when they come in; this is where a line break in one would become a command.
        raise ValueError("an address with a line break")
    return commands


async def _ask_in_one_block(
    connection: Connection, commands: Sequence[bytes], patience: float, *, reset_first: bool
) -> _Opening:
    """Send all at once (RFC 2920 section 3.1), and match the replies to the commands by their order."""
    block, count = b"".join(commands), len(commands)
    loss = None
    replies: Sequence[RawReply]
    try:
        if reset_first:
            replies = await connection.ask(b"RSET\r\n" + block, count + 1, patience)
        else:
            replies = await connection.ask(block, count, patience)
    except ConnectionLost as lost:
        replies, loss = lost.received, lost.loss
    if reset_first:
        replies = replies[1:]
    return _Opening(
        mail=replies[0] if replies else None,
        rcpt=replies[1 : count - 1],
        data=replies[-1] if len(replies) == count else None,
        loss=loss,
    )


async def _ask_one_by_one(
    connection: Connection, commands: Sequence[bytes], patience: float, *, reset_first: bool
) -> _Opening:
    """Send each command after the reply to the one before, and DATA only if there is someone to send to."""
    mail, *rcpts, data = commands
    rcpt_replies: list[RawReply] = []
    opening = _Opening(rcpt=rcpt_replies)
    try:
        if reset_first:
            await connection.ask(b"RSET\r\n", 1, patience)
        (opening.mail,) = await connection.ask(mail, 1, patience)
        if opening.mail.refused:
            return opening
        for rcpt in rcpts:
            rcpt_replies += await connection.ask(rcpt, 1, patience)
        if any(reply.accepted for reply in rcpt_replies):
            (opening.data,) = await connection.ask(data, 1, patience)
    except ConnectionLost as lost:
        opening.loss = lost.loss
    return opening


async def _mail_refused(connection: Connection, opening: _Opening, mail: RawReply, timeouts: Timeouts) -> Result:
    loss = opening.loss
    if loss is None and opening.data is not None and opening.data.code == GO_AHEAD:
        loss = await _lone_dot(connection, timeouts)
    if mail.code in UNAUTHORIZED:
        return Result(begun=True, unauthorized=mail, loss=loss)
    return Result(for_all=Answer(mail.reply, Stage.MAIL), begun=True, loss=loss)


UNAUTHORIZED = frozenset({530, 534, 535, 538})
"""RFC 4954 section 6, RFC 3207 section 4: the account cannot send as it is; no message is at fault."""  # G8


def _same(answer: Answer, recipients: Recipients) -> dict[int, Answer]:
    return {n: answer for n, _ in recipients}


def _given_up(connection: Connection, text: str) -> Loss:
    connection.abort()
    return Loss(LossKind.GARBAGE, text)


async def _lone_dot(connection: Connection, timeouts: Timeouts) -> Loss | None:
    """End a DATA that was pipelined for nobody (RFC 2920 section 3.1); whatever the server says, nothing was sent."""
    try:
        await connection.ask(b".\r\n", 1, timeouts.dot)
    except ConnectionLost as lost:
        return lost.loss
    return None


# After the go-ahead


async def _give_message(
    connection: Connection,
    timeouts: Timeouts,
    wire: Wire,
    before_dot: BeforeDot,
    accepted: Recipients,
    took: Stopwatch,
    began: float,
) -> Result:
    try:
        last = await _all_but_the_end(connection, timeouts, wire)
        connection.check()
        await before_dot()
        connection.check()
    except ConnectionLost as lost:
        return _ended_early(lost.loss)
    finally:
        began = took.add(Phase.CONTENT, began)
    try:
        (raw,) = await connection.ask(last, 1, timeouts.dot)
    except ConnectionLost as lost:
        if lost.loss.reply is not None and lost.loss.kind is LossKind.CLOSED:
            # 421 in place of a yes is an answer: the message was not taken.
            return Result(_same(Answer(lost.loss.reply, Stage.DOT), accepted), loss=lost.loss)
        return Result(uncertain=frozenset(n for n, _ in accepted), loss=lost.loss)  # G4
    finally:
        took.add(Phase.DOT, began)
    if not (raw.accepted or raw.refused):
        loss = _given_up(connection, f"the server answered the message with {raw.reply}")
        return Result(uncertain=frozenset(n for n, _ in accepted), loss=loss)  # G4
    return Result(_same(Answer(raw.reply, Stage.DOT), accepted))


def _ended_early(loss: Loss) -> Result:
    """The end came before the final dot went out, so the message was not taken.

    A refusal that a server speaks into the middle of a message (too large, say) is its answer.
    """
    reply = loss.reply
    if loss.kind is LossKind.GARBAGE and reply is not None and reply.code >= 400:
        return Result(for_all=Answer(reply, Stage.DATA), loss=loss)
    return Result(loss=loss)


async def _all_but_the_end(connection: Connection, timeouts: Timeouts, wire: Wire) -> bytes:
    """Send the message up to its last bytes, and return those together with the final dot."""
    stuffer = DotStuffer()
    if wire.size <= _BLOCK and all(isinstance(part, bytes) for part in wire.parts):
        content = b"".join(part for part in wire.parts if isinstance(part, bytes))
        return stuffer.stuff(content) + stuffer.ending()
    for part in wire.parts:
        if isinstance(part, bytes):
            for start in range(0, len(part), _BLOCK):
                await connection.feed(stuffer.stuff(part[start : start + _BLOCK]), timeouts.data_block)
        else:
            await _feed_source(connection, timeouts, stuffer, part)
    return stuffer.ending()


async def _feed_source(connection: Connection, timeouts: Timeouts, stuffer: DotStuffer, source: ByteSource) -> None:
    chunks = source.chunks()
    try:
        async for chunk in chunks:
            await connection.feed(stuffer.stuff(chunk), timeouts.data_block)
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()
