"""What can go wrong with a request. No message carries a path, a query, a header or a body: they may hold secrets.

OutboundError
├── Unusable       the URL or a header is not one that can be sent
├── Blocked        the policy does not let this address be reached
├── Unreachable    no connection came about: name, network, TLS
├── Broken         the connection ended early, or what came is not HTTP
├── TimedOut       it took longer than the request allows
└── TooLong        the answer has more bytes than the request allows
"""

from __future__ import annotations

from collections.abc import Mapping


class OutboundError(Exception):
    """A request that got no whole answer."""


class Unusable(OutboundError):
    """Nothing was sent: the request itself is wrong, and would be so again."""


class Blocked(OutboundError):
    """Nothing was sent: the address is one that this kind of request must not reach."""


class Unreachable(OutboundError):
    """There was no connection to send anything over."""


class Broken(OutboundError):
    """The connection ended in the middle, or did not speak HTTP."""


class TimedOut(OutboundError):
    """The time for the whole request was over."""


class TooLong(OutboundError):
    """The body is over the cap; status and headers came."""

    def __init__(self, sentence: str, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(sentence)
        self.status, self.headers = status, headers
