"""Servers that cannot be talked to and accounts that are refused: left alone, and tried without a message at stake."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from typing_extensions import assert_never

from mail_proxy.delivery.breaker import FIRST_PAUSE, Breaker, failed, held, taken_up
from mail_proxy.delivery.lane import Lane, set_anew
from mail_proxy.delivery.needs import Needs
from mail_proxy.domain.account import Account, Hold, Outage
from mail_proxy.domain.attempt import AccountRefused, Failure, HostFailed, Interrupted, NotFetched, Probed
from mail_proxy.domain.errors import StoreUnavailable

log = structlog.get_logger(__name__)

Start = Callable[[Callable[[Lane], Coroutine[Any, Any, None]], Lane, str], None]


class Outages:
    """Opens and closes the breakers of lanes.

    `start` runs a probe beside the caller; `want` says that an account may be sent for again.
    """

    def __init__(self, needs: Needs, start: Start, want: Callable[[int], None]) -> None:
        self._needs = needs
        self._start = start
        self._want = want

    async def met(self, lane: Lane, tried: Account, failure: Failure) -> bool:
        """Take note of what ended an attempt early that was made with these settings.

        True when the server is to be left alone from now on.
        """
        if isinstance(failure, Interrupted | NotFetched) or await self._outdated(lane, tried):
            return False
        match failure:
            case AccountRefused(text):
                if not (lane.breaker.open and lane.account.hold is not None):  # sessions may be refused together
                    await self._hold(lane, text)
            case HostFailed(text):
                breaker = failed(lane.breaker, text, self._needs.clock.monotonic())
                if breaker is not lane.breaker:
                    log.warning("server left alone", **_who(lane), reason=text, seconds=breaker.pause)
                lane.breaker = breaker
            case _:
                assert_never(failure)
        self._start_probing(lane)
        return True

    def take_up(self, lane: Lane) -> None:
        """Take up the probing of an account that was put on hold elsewhere, or before the start."""
        if lane.account.hold is not None and not lane.breaker.open:
            hold, clock = lane.account.hold, self._needs.clock
            lane.breaker = taken_up(hold.reason, clock.now() - hold.since, clock.monotonic())
            self._start_probing(lane)

    def outage_of(self, lane: Lane) -> Outage | None:
        """Say why the lane's server is left alone, or None."""
        breaker = lane.breaker
        if not breaker.open:
            return None
        offset = self._needs.clock.now() - self._needs.clock.monotonic()
        return Outage(breaker.reason, offset + breaker.opened_at, offset + breaker.probe_at)

    def answered(self, lane: Lane) -> None:
        """Take note that the server was seen to answer."""
        if lane.breaker.open:
            lane.breaker = Breaker()
            log.info("server answers again", **_who(lane))

    async def _outdated(self, lane: Lane, tried: Account) -> bool:
        """Say whether the account was changed since it was tried; the lane then goes by what it is now."""
        try:
            account = await self._needs.directory.account(lane.account.pk)
        except StoreUnavailable:
            return False
        if account is None or not set_anew(tried, account):
            return False
        lane.adopt(account)
        return True

    async def _hold(self, lane: Lane, reason: str) -> None:
        """Put the account on hold for every instance; its messages keep their attempts."""  # G8
        lane.breaker = held(lane.breaker, reason, self._needs.clock.monotonic())
        log.error("account on hold", **_who(lane), reason=reason)
        before = lane.account.hold
        if before is not None and before.reason == reason:
            return
        since = self._needs.clock.now() if before is None else before.since
        try:
            await self._needs.registry.set_hold(lane.account.pk, Hold(reason, since))
            lane.account = await self._needs.directory.account(lane.account.pk) or lane.account
        except StoreUnavailable as error:  # this instance leaves the server alone all the same
            log.warning("the hold could not be written", **_who(lane), reason=error.sentence)

    def _start_probing(self, lane: Lane) -> None:
        if not lane.probing:
            lane.probing = True
            self._start(self._probe, lane, "probe")

    async def _probe(self, lane: Lane) -> None:
        """Log in now and then, with no message at stake, until the server answers again."""
        while lane.breaker.open:
            pause = lane.breaker.probe_at - self._needs.clock.monotonic()
            if pause > 0:
                # In steps: meanwhile the account may be set anew and fail in another way, with a shorter pause.
                await self._needs.clock.sleep(min(pause, FIRST_PAUSE))
                continue
            try:
                if not await self._probe_once(lane):
                    break
            except StoreUnavailable:
                await self._needs.clock.sleep(1.0)
        lane.breaker = Breaker()
        lane.probing = False
        self._want(lane.account.pk)

    async def _probe_once(self, lane: Lane) -> bool:
        """Try the account as it is set now; False when it is gone, or somebody else ended the outage."""
        account = await self._needs.directory.account(lane.account.pk)
        if account is None:
            return False
        lane.adopt(account)
        if not lane.breaker.open:
            return False
        result = await self._needs.transport.probe(account)
        if await self._outdated(lane, account):
            return False
        match result:
            case Probed():
                if account.hold is not None:
                    await self._needs.registry.set_hold(account.pk, None)
                log.info("server answers again", **_who(lane))
                return False
            case HostFailed(text):
                lane.breaker = failed(lane.breaker, text, self._needs.clock.monotonic())
            case AccountRefused(text):
                await self._hold(lane, text)
        return True


def _who(lane: Lane) -> dict[str, str]:
    return {"tenant_id": lane.account.tenant_id, "account_id": lane.account.id, "host": lane.account.host}
