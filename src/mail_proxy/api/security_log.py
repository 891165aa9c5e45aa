"""Security events as lines of the log: requests and tokens that are refused, keys that change. Never a token itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import structlog

from mail_proxy.ports.clock import Clock

LINES = 30
"""Lines of a kind in a minute; the rest is told by number, so that nobody fills a disk with them."""  # G11
WINDOW = 60.0

log = structlog.get_logger(__name__)

Later = Callable[[float, Callable[[], None]], object]
"""Calls a function after that many seconds."""


class SecurityLog:
    """Writes security events down, each kind within bounds of its own."""

    def __init__(self, clock: Clock, later: Later | None = None) -> None:
        """`later` is for tests; without it, the event loop's own."""
        self._refused = _Bounded("token refused", clock, later)
        self._requests = _Bounded("request refused", clock, later)
        self._keys = _Bounded("key changed", clock, later)

    def token_refused(self, address: str | None, method: str, route: str) -> None:
        """Somebody came without a valid token."""
        self._refused.tell(address=address, method=method, route=route)

    def request_refused(self, address: str | None, code: str, request_id: str) -> None:
        """Somebody sent what is no request, or one that is too large or too slow to be looked at."""
        self._requests.tell(address=address, code=code, request_id=request_id)

    def key_changed(self, what: str, tenant_id: str | None, address: str | None) -> None:
        """A key was made or revoked; `what` says which."""
        self._keys.tell(change=what, tenant_id=tenant_id, address=address)


class _Bounded:
    def __init__(self, event: str, clock: Clock, later: Later | None) -> None:
        self._event = event
        self._clock = clock
        self._later = later
        self._began = float("-inf")
        self._told = 0
        self._left_out = 0

    def tell(self, **facts: str | None) -> None:
        now = self._clock.monotonic()
        if now - self._began >= WINDOW:
            self._end(self._began)
            self._began = now
        if self._told < LINES:
            self._told += 1
            log.warning(self._event, **facts)
            return
        if not self._left_out:
            later = self._later or asyncio.get_running_loop().call_later
            later(max(self._began + WINDOW - now, 0.0), partial(self._end, self._began))
        self._left_out += 1

    def _end(self, began: float) -> None:
        """Say how many were left out of the minute that began then, unless that was said."""
        if began != self._began:
            return
        if self._left_out:
            log.warning("security events left out", kind=self._event, events=self._left_out)
        self._began, self._told, self._left_out = float("-inf"), 0, 0
