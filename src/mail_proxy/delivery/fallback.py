"""Messages of an account that cannot be used, sent by the one that it names instead."""  # G8

from __future__ import annotations

from mail_proxy.delivery.dispatcher import Dispatcher
from mail_proxy.delivery.lane import Lane
from mail_proxy.delivery.needs import Needs
from mail_proxy.delivery.sender import limited
from mail_proxy.domain.account import Account
from mail_proxy.domain.rate_limit import LimitBehavior

AFTER = 300.0
"""Seconds that a server has to be left alone before its messages go another way; on hold they go at once."""
AT_A_TIME = 500
"""Ready messages of each priority that the fallback has at most when more are moved to it.

So a backlog of any size is moved as fast as it goes out, and what is left goes by the account itself once that works.
"""  # G11


def given_up(lane: Lane, now: float) -> bool:
    """Say whether messages of the lane may go another way. `now` is monotonic."""
    return lane.breaker.open and (lane.account.hold is not None or now - lane.breaker.opened_at >= AFTER)


class Fallbacks:
    """Moves messages from accounts that were given up to their fallbacks, a chunk at a time.

    Only to one that works, so that nothing is sent to and fro between two that do not. The fallback of a fallback is
    not asked.
    """

    def __init__(self, needs: Needs, dispatcher: Dispatcher) -> None:
        self._needs = needs
        self._dispatcher = dispatcher

    async def divert(self) -> None:
        """Move what may be moved now."""
        now = self._needs.clock.monotonic()
        for lane in [lane for lane in self._dispatcher.lanes if given_up(lane, now)]:
            fallback = await self._fallback_of(lane)
            if fallback is not None and await self._needs.queue.divert(lane.account.pk, fallback.pk, AT_A_TIME):
                self._dispatcher.notify({fallback.pk}, urgent=True)

    async def _fallback_of(self, lane: Lane) -> Account | None:
        """Return the account to use instead, if it can be used itself."""
        account = await self._needs.directory.account(lane.account.pk)
        if account is None or account.fallback_account_id is None:
            return None
        fallback = await self._needs.directory.account_named(account.tenant_id, account.fallback_account_id)
        if fallback is None or fallback.hold is not None or fallback.pk == account.pk:
            return None
        if fallback.limit_behavior is LimitBehavior.REJECT and await limited(self._needs.directory, fallback):
            return None  # its limit would fail messages that can wait where they are
        return None if self._dispatcher.outage_of(fallback.pk) is not None else fallback
