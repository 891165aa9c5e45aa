"""Claims that nobody heard of: the caller was cancelled or gave up, or the commit's answer was lost on its way.

A call that raises promises to have changed nothing. Where that is not sure, the token is kept, and what stands under it
is put back as soon as the database can be written again. Without this it would stay in the hands of a living instance
that does not know of it, and no other would ever take it over.

Once is not enough: a server that was stopped, or a line that held the commit back, may carry it out after that. So it
is done with several heartbeats, for longer than a session may leave a transaction open (`store/engines.py`).
"""  # G4, G5

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Text, bindparam, false, literal_column, update

from mail_proxy.domain.message import MessageState
from mail_proxy.store.operation import Transaction
from mail_proxy.store.rows import among, pack
from mail_proxy.store.schema import messages

TIMES = 6
"""Heartbeats, 5 s apart: half a minute."""


@dataclass(frozen=True, slots=True)
class Unanswered:
    """What such calls may have taken, by the tokens of claims. No later claim has the same, so all can be repeated."""

    claims: set[str] = field(default_factory=set)
    expiries: set[str] = field(default_factory=set)
    rescued: set[str] = field(default_factory=set)


class Remembered:
    """Such calls, until they were put back often enough."""

    def __init__(self) -> None:
        self._claims: dict[str, int] = {}
        self._expiries: dict[str, int] = {}
        self._rescued: dict[str, int] = {}

    def claim(self, *tokens: str) -> None:
        """Remember a claim."""
        self._claims.update(dict.fromkeys(tokens, TIMES))

    def expiry(self, token: str) -> None:
        """Remember a claim of what has expired."""
        self._expiries[token] = TIMES

    def rescue(self, tokens: Sequence[str]) -> None:
        """Remember what was taken over, by the tokens of those who had claimed it."""
        self._rescued.update(dict.fromkeys(tokens, TIMES))

    def all(self) -> Unanswered:
        """Return those that are known now."""
        return Unanswered(set(self._claims), set(self._expiries), set(self._rescued))

    def were_put_back(self, done: Unanswered) -> None:
        """Take note that these were put back once more."""
        for left, tokens in (
            (self._claims, done.claims),
            (self._expiries, done.expiries),
            (self._rescued, done.rescued),
        ):
            for token in tokens:
                left[token] -= 1
                if not left[token]:
                    del left[token]


class PutBack:
    """Puts messages back to where they were before an unanswered call."""

    def __init__(self, dialect: str) -> None:
        mine = update(messages).where(messages.c.instance_id == bindparam("mine", type_=Text))
        claimed = mine.where(
            messages.c.state == literal_column("'sending'"), among(dialect, messages.c.token, "tokens")
        )
        ready = claimed.values(state=MessageState.READY.value, token=None, instance_id=None, reserved=false())
        self.after_claim = ready.values(attempts=messages.c.attempts - 1)
        self.after_expiry = ready
        # given to an instance that never was, so that they are rescued once more
        self.after_rescue = claimed.values(instance_id=bindparam("nobody", type_=Text))

    def run(self, transaction: Transaction, calls: Sequence[tuple[str, Unanswered]]) -> Sequence[None]:
        """Put back for each (instance, tokens)."""
        connection = transaction.connection
        for instance_id, taken in calls:
            if taken.claims:
                connection.execute(self.after_claim, {"mine": instance_id, "tokens": pack(sorted(taken.claims))})
            if taken.expiries:
                connection.execute(self.after_expiry, {"mine": instance_id, "tokens": pack(sorted(taken.expiries))})
            if taken.rescued:
                nobody = {"nobody": f"{instance_id} (unanswered)"}
                tokens = {"tokens": pack(sorted(taken.rescued))}
                connection.execute(self.after_rescue, {"mine": instance_id, **tokens, **nobody})
        return [None] * len(calls)
