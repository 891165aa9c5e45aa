"""The decision on a message that is to be sent again because somebody said so: to those whom it has failed to reach."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from enum import Enum

from mail_proxy.domain.claim import Claimed
from mail_proxy.domain.message import MessageState
from mail_proxy.domain.poison import MOST_CRASHES
from mail_proxy.domain.recipient import Recipient, RecipientState

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
    return Requeued(message.pk, expires_ts, waiting, everybody=len(waiting) == len(message.recipients))


def _submitted_expiry(message: Claimed) -> float | None:
    """Return what the client said; of what was held as poison the row says when that was to end."""
    if message.crashes < MOST_CRASHES:
        return message.expires_ts
    try:
        fields = json.loads(message.fields)
    except ValueError:
        return None
    submitted = fields.get("expires_ts") if isinstance(fields, dict) else None
    return float(submitted) if isinstance(submitted, int | float) else None
