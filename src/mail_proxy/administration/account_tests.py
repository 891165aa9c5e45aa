"""Trying an account without a message: connect, TLS, EHLO, AUTH, QUIT."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import anyio
from typing_extensions import assert_never

from mail_proxy.administration.accounts import Accounts
from mail_proxy.domain.account import Account
from mail_proxy.domain.attempt import AccountRefused, HostFailed, Probed, ProbeResult, Step
from mail_proxy.domain.errors import TooMany
from mail_proxy.ports.clock import Clock
from mail_proxy.ports.directory import Directory, Registry

Probe = Callable[[Account], Awaitable[ProbeResult]]
"""Makes a session of its own, so that a test neither waits for those that send nor takes a place of theirs."""

LONGEST = 30.0
"""Seconds that a test may take."""
PER_MINUTE = 6
"""Tests of one tenant's accounts in any minute: enough for a person, too few for one who looks for open ports."""
AT_ONCE = 16
"""Tests at a time."""
AT_ONCE_BY_TENANTS = 12
"""Of these, those that tenants have asked for: the rest is the operator's."""
AT_ONCE_BY_TENANT = 3
"""Of these, those of one tenant."""
WINDOW = 60.0

_UNREACHABLE = frozenset({Step.CONNECT, Step.GREETING})
_VAGUE = "the server cannot be reached, or what answers there speaks no SMTP"
_VAGUE_OAUTH = "the token server cannot be reached, or what answers there is none"


def told_to_a_tenant(result: ProbeResult) -> ProbeResult:
    """Leave out what a port says that speaks no SMTP: whether it is closed, filtered or something else's."""
    if isinstance(result, HostFailed) and result.step in _UNREACHABLE and result.reply is None:
        return replace(result, text=f"connecting: {_VAGUE}", step=Step.CONNECT)
    if isinstance(result, HostFailed) and result.step is Step.TOKEN:
        return replace(result, text=f"{Step.TOKEN.value}: {_VAGUE_OAUTH}")
    return result


@dataclass(slots=True)
class Turns:
    """Who may test now: one test of an account at a time, so many a minute for a tenant, so many at once.

    What tenants ask for takes nothing from the operator, and what one tenant asks for little from the others.
    """  # G11

    running: dict[int, str | None] = field(default_factory=dict)
    """The accounts that are being tested, and the tenant that has asked for it; None: the operator."""
    recent: dict[tuple[str, bool], deque[float]] = field(default_factory=dict)
    """When a tenant's accounts were tested; True: because the tenant had asked for it."""

    def take(self, account: Account, now: float, *, by_tenant: bool) -> None:
        """Begin a test; raises `TooMany`. `now` is monotonic."""
        if account.pk in self.running:
            raise TooMany("This account is being tested at this moment.", code="too_many_tests", retry_after=LONGEST)
        asked = [tenant_id for tenant_id in self.running.values() if tenant_id is not None]
        mine = by_tenant and (len(asked) >= AT_ONCE_BY_TENANTS or asked.count(account.tenant_id) >= AT_ONCE_BY_TENANT)
        if mine or len(self.running) >= AT_ONCE:
            raise TooMany("Too many accounts are being tested now.", code="too_many_tests", retry_after=LONGEST)
        self._forget(now)
        times = self.recent.get((account.tenant_id, by_tenant), deque())
        if len(times) >= PER_MINUTE:
            raise TooMany(
                f"At most {PER_MINUTE} tests of a tenant's accounts are made in a minute.",
                code="too_many_tests",
                retry_after=times[0] + WINDOW - now,
            )
        times.append(now)
        self.recent[account.tenant_id, by_tenant] = times
        self.running[account.pk] = account.tenant_id if by_tenant else None

    def give_back(self, account: Account) -> None:
        """End a test."""
        self.running.pop(account.pk, None)

    def _forget(self, now: float) -> None:
        """Forget what is out of the window, so that tenants of long ago take no room."""
        for whose, times in list(self.recent.items()):
            while times and times[0] <= now - WINDOW:
                times.popleft()
            if not times:
                del self.recent[whose]


class AccountTests:
    """Tests accounts. `probe` reaches what sending reaches: of what a tenant has set, only what it may name.

    `answers` is told of an account whose server was seen to answer.
    """

    def __init__(
        self,
        accounts: Accounts,
        registry: Registry,
        directory: Directory,
        clock: Clock,
        probe: Probe,
        answers: Callable[[int], None],
    ) -> None:
        self._accounts = accounts
        self._registry = registry
        self._directory = directory
        self._clock = clock
        self._probe = probe
        self._answers = answers
        self._turns = Turns()

    async def test(self, tenant_id: str, account_id: str, *, by_tenant: bool) -> ProbeResult:
        """Try an account and tell how far it came; one that gets through ends its hold.

        A tenant is not told what is behind a port that speaks no SMTP. Raises `NotFound` and `TooMany`.
        """
        account = await self._accounts.get(tenant_id, account_id)
        self._turns.take(account, self._clock.monotonic(), by_tenant=by_tenant)
        try:
            result = await self._tried(account)
        finally:
            self._turns.give_back(account)
        match result:
            case Probed():
                await self._free(account)
                return result
            case HostFailed() | AccountRefused():
                return told_to_a_tenant(result) if by_tenant else result
            case _:
                assert_never(result)

    async def _tried(self, account: Account) -> ProbeResult:
        with anyio.move_on_after(LONGEST):
            return await self._probe(account)
        return HostFailed(f"no end of it within {LONGEST:g} s")

    async def _free(self, account: Account) -> None:
        """End the hold, and the outage, of an account that has not been changed since it was tested."""  # G8
        await self._directory.refresh()
        if await self._directory.account(account.pk) != account:
            return
        if account.hold is not None:
            await self._registry.set_hold(account.pk, None)
        self._answers(account.pk)
