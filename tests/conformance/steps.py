"""Steps of a message's way, for the suites that begin where it ends."""

from __future__ import annotations

from random import Random

from mail_proxy.domain.account import Account
from mail_proxy.domain.attempt import Answer, Attempt, Stage
from mail_proxy.domain.claim import Claimed, Demand
from mail_proxy.domain.reply import Reply
from mail_proxy.domain.retry import RetrySchedule
from mail_proxy.domain.settlement import Policy, settle
from mail_proxy.store.store import Store

NOW = 1_800_000_000.0
ACCEPTED = Answer(Reply(250, "2.0.0", "Ok"), Stage.DOT)
REFUSED = Answer(Reply(550, "5.1.1", "no such user"), Stage.RCPT)
LATER = Answer(Reply(450, "4.2.0", "greylisted"), Stage.RCPT)

_POLICY = Policy(RetrySchedule(delays=(60.0,), max_attempts=3))


async def claim(store: Store, account: Account, limit: int = 10, *, token: str = "t1") -> list[Claimed]:
    """Claim ready messages of an account."""
    return list((await store.queue.claim([Demand(account.pk, limit)], token, NOW + 1)).claimed)


async def settle_all(store: Store, claims: list[Claimed], *answers: Answer, now: float = NOW + 2) -> None:
    """Give the recipients of each claimed message these answers."""
    attempt = Attempt(answers=dict(enumerate(answers)))
    written = await store.queue.settle([settle(claimed, attempt, _POLICY, now, Random(1)) for claimed in claims])
    assert all(written)


async def attempt(store: Store, account: Account, *answers: Answer, limit: int = 10, now: float = NOW + 2) -> None:
    """Claim ready messages of an account and settle each with these answers."""
    await settle_all(store, await claim(store, account, limit, token=f"at {now}"), *answers, now=now)
