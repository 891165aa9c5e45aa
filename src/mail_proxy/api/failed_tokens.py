"""Slowing down those who guess tokens, without holding up those who share their address."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, IPv6Network

from starlette.types import Scope

from mail_proxy.domain.client_network import network_of, parsed_address
from mail_proxy.domain.errors import TooMany

FREE = 20
"""Tokens of one address that may fail in a minute before further ones are slowed down."""
WINDOW = 60.0
DELAY = 2.0
"""Seconds that the answer to a further one is held back."""
MOST_WAITING = 8
"""Answers to one address that are held back at a time; beyond them 429."""
MOST_WAITING_OF_ALL = 200
MOST_ADDRESSES = 10_000
"""Addresses that are remembered; the one that failed longest ago is forgotten for a new one."""

hold_back = asyncio.sleep

Networks = Sequence[IPv4Network | IPv6Network]


class FailedTokens:
    """Counts failures by address, in this process. Only failures are slowed down: a valid token is looked at first."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._now = monotonic
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._waiting: Counter[str] = Counter()

    async def failed(self, address: str) -> None:
        """Note a failure, and return when it may be answered; raises `TooMany` where too many wait already."""
        now = self._now()
        times = self._failures.setdefault(address, deque(maxlen=FREE))
        self._failures.move_to_end(address)
        if len(self._failures) > MOST_ADDRESSES:
            self._failures.popitem(last=False)
        slow = len(times) == FREE and times[0] > now - WINDOW
        frees_in = times[0] + WINDOW - now if slow else 0.0
        times.append(now)
        if not slow:
            return
        if self._waiting[address] >= MOST_WAITING or self.waiting >= MOST_WAITING_OF_ALL:
            raise TooMany(
                "Too many tokens from this address have failed.", code="too_many_failures", retry_after=frees_in
            )
        self._waiting[address] += 1
        try:
            await hold_back(DELAY)
        finally:
            self._waiting[address] -= 1
            if not self._waiting[address]:
                del self._waiting[address]

    @property
    def waiting(self) -> int:
        """How many answers are held back."""
        return self._waiting.total()

    def failures(self, address: str) -> int:
        """How many of an address are remembered, `FREE` at the most."""
        return len(self._failures.get(address, ()))

    @property
    def remembered(self) -> int:
        """How many addresses are remembered."""
        return len(self._failures)


def client_of(scope: Scope, trusted: Networks) -> str:
    """Return where a request came from: an IPv4 address, or the /64 of an IPv6 one, which one client has for itself.

    A proxy that is trusted is believed what it says in `X-Forwarded-For`, of which the last address counts that is no
    such proxy's own.
    """
    client = scope.get("client")
    address = parsed_address(client[0]) if client else None
    said = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for").decode("latin-1")
    for each in reversed(said.split(",")) if trusted and said else ():
        if address is None or not any(address in network for network in trusted):
            break
        before = parsed_address(each.strip())
        if before is None:
            break
        address = before
    return str(address) if address is None else network_of(address)
