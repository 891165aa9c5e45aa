"""What the replies to RCPT mean: who is accepted, who is refused, and who only came too late in the row."""

from __future__ import annotations

from collections.abc import Sequence

from mail_proxy.domain.attempt import TOO_MANY_RECIPIENTS, Answer, Stage
from mail_proxy.domain.value import value
from mail_proxy.smtp.connection import RawReply

Recipients = tuple[tuple[int, str], ...]
"""(n, address) as in an envelope."""

NO_ROOM = 452


@value
class Sorted:
    """The recipients of one transaction by what was said about them."""

    accepted: Recipients
    refused: dict[int, Answer]
    too_many: Recipients
    """To be served by a further transaction right after this one."""


def sort_recipients(recipients: Recipients, replies: Sequence[RawReply]) -> Sorted:
    """Tell from the replies, in the order of the recipients, what becomes of each; those without a reply are left out.

    452 and 552 after accepted recipients, with none accepted behind them, mean that there were too many at a time
    (RFC 5321 section 4.5.3.1.10). An enhanced code about a mailbox (x.2.x, RFC 3463) means just this recipient.
    """
    refused = [i for i, raw in enumerate(replies) if not raw.accepted]
    if not refused:
        return Sorted(recipients[: len(replies)], {}, ())
    accepted = [i for i, raw in enumerate(replies) if raw.accepted]
    last = accepted[-1] if accepted else len(replies)
    answers: dict[int, Answer] = {}
    too_many = []
    for i in refused:
        answer = Answer(replies[i].reply, Stage.RCPT)
        if i > last and _says_too_many(answer):
            too_many.append(recipients[i])
        else:
            answers[recipients[i][0]] = answer
    return Sorted(tuple(recipients[i] for i in accepted), answers, tuple(too_many))


def _says_too_many(answer: Answer) -> bool:
    enhanced = answer.reply.enhanced
    about_a_mailbox = enhanced is not None and enhanced.split(".")[1] == "2"
    return answer.reply.code in {NO_ROOM, TOO_MANY_RECIPIENTS} and not about_a_mailbox
