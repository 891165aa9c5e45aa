"""What a tenant's answer to a report means."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

from mail_proxy.ports.report_sink import SinkAnswer


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The report counts as received, but for the messages that the tenant could not take."""  # G9

    refused_ids: frozenset[str] = frozenset()
    """Message ids listed in `error`: their events are sent again later."""
    queued: int = 0
    """How many messages the tenant has waiting to be submitted."""
    next_sync_after: float | None = None
    """Unix seconds before which the tenant wants no empty sync; None if the answer does not say."""
    ignored: tuple[str, ...] = ()
    """Fields of a wrong type, which were passed over."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing is acknowledged; everything is sent again after `retry_after` seconds at least."""

    reason: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Paused:
    """The endpoint is gone for good (HTTP 410): nothing more is sent to it."""

    reason: str


_HINTS = {
    401: "the endpoint does not accept the credentials in client_auth",
    403: "the endpoint does not accept the credentials in client_auth",
    404: "there is nothing at client_base_url with client_sync_path",
    405: "the endpoint takes no POST",
    413: "the endpoint takes no body of that size",
    429: "the endpoint is asked too often",
}

Answer: TypeAlias = "Acknowledged | Refused | Paused"


def understand(answer: SinkAnswer) -> Answer:
    """Decide what an answer means. Only a 2xx with a JSON object in which `ok` is absent or true acknowledges."""
    if answer.status is None:
        return Refused(answer.error or "no answer", answer.retry_after)
    if answer.status == 410:
        return Paused("HTTP 410: the endpoint is gone")
    if 300 <= answer.status < 400:
        return Refused(f"HTTP {answer.status}: redirects are not followed", answer.retry_after)
    if not 200 <= answer.status < 300:
        hint = _HINTS.get(answer.status)
        return Refused(f"HTTP {answer.status}" + ("" if hint is None else f": {hint}"), answer.retry_after)
    if answer.error is not None:
        return Refused(answer.error, answer.retry_after)
    try:
        fields: object = json.loads(answer.body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError; depth is bounded by the interpreter
        return Refused(f"HTTP {answer.status}, but the answer is not JSON", answer.retry_after)
    if not isinstance(fields, dict):
        return Refused(f"HTTP {answer.status}, but the answer is not a JSON object", answer.retry_after)
    if fields.get("ok", True) is not True:
        return Refused(f"HTTP {answer.status}, but the answer says that it is not ok", answer.retry_after)
    return _acknowledged(fields)


def _acknowledged(fields: dict[str, object]) -> Acknowledged:
    """Read the fields that say more. A null is as good as no field."""
    ignored: list[str] = []
    refused: frozenset[str] = frozenset()
    match fields.get("error"):
        case None:
            pass
        case list() as listed:
            refused = frozenset(_ids(listed))
            if not all(_is_id(each) for each in listed):
                ignored.append("error")
        case count if _number(count) is not None:
            pass  # older clients answer a summary: {"sent": 12, "error": 1, "deferred": 3}
        case _:
            ignored.append("error")
    not_found = fields.get("not_found")  # acknowledged like all that is not refused
    if not_found is not None and not isinstance(not_found, list):
        ignored.append("not_found")
    queued = _number(fields.get("queued"))
    if fields.get("queued") is not None and (queued is None or queued < 0 or queued != math.floor(queued)):
        ignored.append("queued")
        queued = None
    next_sync_after = _number(fields.get("next_sync_after"))
    if fields.get("next_sync_after") is not None and next_sync_after is None:
        ignored.append("next_sync_after")
    return Acknowledged(refused, int(queued or 0), next_sync_after, tuple(ignored))


def _ids(listed: list[object]) -> Iterator[str]:
    """Give the ids of a list. A client that keeps its ids as numbers may write them so."""
    return (str(each) for each in listed if _is_id(each))


def _is_id(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _number(value: object) -> float | None:
    """Give a finite number, or None; `true` is none, although Python takes it for one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _refuse_constant(constant: str) -> NoReturn:
    """Refuse NaN and the infinities, which Python reads and JSON does not have (RFC 8259, 6)."""
    raise ValueError(constant)
