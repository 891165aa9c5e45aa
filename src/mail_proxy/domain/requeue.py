"""The decision on a message that is to be sent again because somebody said so: to those whom it has failed to reach."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from mail_proxy.domain.claim import Claimed
from mail_proxy.domain.message import MessageState
from mail_proxy.domain.poison import MOST_CRASHES
from mail_proxy.domain.recipient import Recipient, RecipientState

BODY_REMOVED = "body_removed_ts"
"""Stands in a submission from which the body was removed, with the time of it; no client can give it."""
_FAILED = frozenset({RecipientState.FAILED, RecipientState.EXPIRED})


class Skipped(str, Enum):
    """Why a message is not sent again."""

    NOT_FOUND = "not_found"
    NOT_FAILED = "not_failed"
    """It is not finished, or everybody has it."""
    CANCELLED = "cancelled"
    """Somebody said that it shall not be sent."""
    EXPIRED = "expired"
    """Its `expires_ts` has passed."""
    NO_ACCOUNT = "no_account"
    """Its account is gone."""
    BODY_REMOVED = "body_removed"
    """There is nothing left to send: its body was removed."""


@dataclass(frozen=True, slots=True)
class Requeued:
    """A finished message as it goes back into the queue: its attempts start anew, its content stays as it is."""  # G4

    pk: int
    expires_ts: float | None
    recipients: tuple[Recipient, ...]
    """Those that wait again, each with the last word on it."""
    everybody: bool
    """Nobody else was served or cancelled: all of them share the message's state again."""


def requeue(message: Claimed, state: MessageState, now: float) -> Requeued | Skipped:
    """Decide on a message in that state. Who was accepted is never sent to again."""  # G7
    if state is MessageState.CANCELLED:
        return Skipped.CANCELLED
    waiting = tuple(replace(r, state=RecipientState.WAITING, ts=None) for r in message.recipients if r.state in _FAILED)
    if not state.final or not waiting:
        return Skipped.NOT_FAILED
    expires_ts = _submitted_expiry(message)
    if expires_ts is not None and expires_ts <= now:
        return Skipped.EXPIRED
    if _submitted(message).get(BODY_REMOVED) is not None:
        return Skipped.BODY_REMOVED
    return Requeued(message.pk, expires_ts, waiting, everybody=len(waiting) == len(message.recipients))


def _submitted_expiry(message: Claimed) -> float | None:
    """Return what the client said; of what was held as poison the row says when that was to end."""
    if message.crashes < MOST_CRASHES:
        return message.expires_ts
    submitted = _submitted(message).get("expires_ts")
    return float(submitted) if isinstance(submitted, int | float) else None


def _submitted(message: Claimed) -> Mapping[str, object]:
    """Return what was submitted; nothing where that cannot be read."""
    try:
        fields = json.loads(message.fields)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}
