"""What can go wrong, one class for each thing that a caller may want to do about it.

ClientError
├── NoAnswer            the service was not reached, or the answer was lost
├── Rejected            messages of a batch were not taken: `receipt`
└── Refusal             the service answered, and did not do it: `status`, `code`
    ├── Unauthorized    401: no token, or a wrong one
    ├── Forbidden       403: a tenant's token on what is not its own
    ├── NotFound        404: unknown, or somebody else's
    ├── Conflict        409: not in the present state of things
    ├── Gone            410: `oldest_cursor` is where the feed begins now
    ├── TooLarge        413
    ├── Invalid         422: `problems` names each field
    ├── TooMany         429: asked too often
    └── Unavailable     502, 503, 504: later
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .values import Receipt


@dataclass(frozen=True)
class Problem:
    """One field that is wrong, and what to do about it."""

    field: str
    problem: str


class ClientError(Exception):
    """The service did not do what it was asked."""


class NoAnswer(ClientError):
    """The service was not reached, or the answer was lost: then it may have been done."""


class Rejected(ClientError):
    """Some messages of a batch were not taken; the others were. `receipt` says which and why."""

    def __init__(self, receipt: Receipt, messages: Sequence[Mapping[str, Any]]) -> None:
        first = receipt["rejected"][0]
        more = len(receipt["rejected"]) - 1
        super().__init__(
            f"message {first['id'] or first['index']!r}: {first['field']}: {first['reason']}"
            + (f" (and {more} more of {len(messages)})" if more else "")
        )
        self.receipt = receipt
        self.ids = [each["id"] for each in messages]
        """The ids of all messages of the batch, in its order."""


class Refusal(ClientError):
    """The service answered, and did not do it. `code` is a stable word, the text one plain sentence."""

    def __init__(
        self,
        sentence: str,
        *,
        status: int,
        code: str,
        retry_after: float | None = None,
        problems: Sequence[Problem] = (),
        oldest_cursor: str | None = None,
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.code = code
        self.retry_after = retry_after
        """Seconds after which the service asks to come back."""
        self.problems = tuple(problems)
        self.oldest_cursor = oldest_cursor


class Unauthorized(Refusal):
    """There is no token, or it is unknown, expired or revoked."""


class Forbidden(Refusal):
    """The token is valid and may not do this."""


class NotFound(Refusal):
    """It is unknown, or belongs to somebody else: the two are never told apart."""


class Conflict(Refusal):
    """Not in the present state of things."""


class Gone(Refusal):
    """What follows on a cursor was removed; the feed goes on at `oldest_cursor`."""


class TooLarge(Refusal):
    """More bytes or messages than the instance takes at a time."""


class Invalid(Refusal):
    """The request does not validate; `problems` names each field."""


class TooMany(Refusal):
    """The same was asked for too often."""


class Unavailable(Refusal):
    """The service cannot do it now; nothing was stored, or repeating it finds what was."""


BY_STATUS: dict[int, type[Refusal]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    413: TooLarge,
    422: Invalid,
    429: TooMany,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}
