"""One request: what goes out, what an answer means, and whether to ask again. Pure; the clients do the I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import quote

from .errors import BY_STATUS, ClientError, NoAnswer, Problem, Refusal, TooMany, Unavailable

LONGEST_PAUSE = 30.0
"""Seconds; a service that asks for a longer one is not waited for."""


@dataclass(frozen=True)
class Call:
    """A request to a route. `repeats`: asking twice comes to the same as asking once."""

    method: str
    path: str
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    repeats: bool = True

    @property
    def parameters(self) -> dict[str, str]:
        """The query, without what was not given."""
        return {name: _written(value) for name, value in self.query.items() if value is not None}


@dataclass(frozen=True)
class Patience:
    """How often to ask again, and how long to wait in between."""

    retries: int = 4
    first_pause: float = 0.5
    rng: Random = field(default_factory=Random)

    def pause(self, call: Call, attempt: int, error: ClientError) -> float | None:
        """Return the seconds to wait before asking again, or None where that would be wrong or pointless."""
        if attempt >= self.retries or not _may_ask_again(call, error):
            return None
        asked = error.retry_after if isinstance(error, Refusal) else None
        if asked is not None:
            return asked if asked <= LONGEST_PAUSE else None
        return min(self.first_pause * 2.0**attempt, LONGEST_PAUSE) * self.rng.uniform(0.5, 1.0)


class NotReached(NoAnswer):
    """Nobody took the connection, so that nothing can have been done."""


def path(template: str, **ids: str) -> str:
    """Put ids into a path, whatever characters they have."""
    return template.format(**{name: quote(value, safe="") for name, value in ids.items()})


def understand(status: int, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """Return what the service answered; raises `Refusal` where it did not do it."""
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if 200 <= status < 300 and isinstance(answer, dict):
        return answer
    fields = answer if isinstance(answer, dict) else {}
    sentence = fields.get("error") or f"The service answered {status}, and not in JSON: is a proxy in between?"
    details = fields.get("detail")
    raise BY_STATUS.get(status, Refusal)(
        str(sentence),
        status=status,
        code=str(fields.get("code", "http_error")),
        retry_after=_seconds(headers.get("retry-after")),
        problems=[Problem(each["field"], each["problem"]) for each in details] if isinstance(details, list) else (),
        oldest_cursor=fields.get("oldest_cursor"),
    )


def _may_ask_again(call: Call, error: ClientError) -> bool:
    match error:
        case NotReached() | TooMany():
            return True
        case Unavailable() | NoAnswer():
            return call.repeats
        case _:
            return False


def _written(value: object) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else max(0.0, float(text))
    except ValueError:
        return None
