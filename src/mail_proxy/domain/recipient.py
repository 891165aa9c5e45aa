"""The people that a message goes to, each with an outcome of its own."""  # G7

from __future__ import annotations

from enum import Enum

from mail_proxy.domain.value import value


class RecipientKind(str, Enum):
    """The header that names the recipient; `bcc` is named by none."""

    TO = "to"
    CC = "cc"
    BCC = "bcc"


class RecipientState(str, Enum):
    """Where one recipient stands; all but `waiting` are final."""

    WAITING = "waiting"
    SENT = "sent"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """True when nothing more will be tried for this recipient."""
        return self is not RecipientState.WAITING


@value
class Recipient:
    """One recipient of a message; `n` numbers them from 0 in the order to, cc, bcc."""

    n: int
    address: str
    kind: RecipientKind
    state: RecipientState = RecipientState.WAITING
    reply: str | None = None
    """The server's last word on this recipient, as `code enhanced text`."""
    ts: float | None = None
    """When `state` or `reply` last changed, Unix seconds."""
