"""Claims that nobody heard of: the caller was cancelled, or the commit's answer was lost with its connection.

A call that raises promises to have changed nothing. Where that is not sure, the token is kept, and what stands under it
is put back as soon as the database can be written again. Without this it would stay in the hands of a living instance
that does not know of it, and no other would ever take it over.
"""  # G4, G5

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Text, bindparam, false, literal_column, update

from mail_proxy.domain.message import MessageState
from mail_proxy.store.database import Transaction
from mail_proxy.store.rows import among, pack
from mail_proxy.store.schema import messages


@dataclass(frozen=True, slots=True)
class Unanswered:
    """What such calls have taken: claims by their tokens, and rescued messages, which keep theirs, by number."""

    claims: set[str] = field(default_factory=set)
    expiries: set[str] = field(default_factory=set)
    rescued: set[int] = field(default_factory=set)

    def copy(self) -> Unanswered:
        """Return those that are known now."""
        return Unanswered(set(self.claims), set(self.expiries), set(self.rescued))

    def remove(self, done: Unanswered) -> None:
        """Forget some."""
        self.claims.difference_update(done.claims)
        self.expiries.difference_update(done.expiries)
        self.rescued.difference_update(done.rescued)


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
        self.after_rescue = mine.where(
            messages.c.state == MessageState.SENDING.value, among(dialect, messages.c.pk)
        ).values(instance_id=bindparam("nobody", type_=Text))

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
                connection.execute(
                    self.after_rescue, {"mine": instance_id, "pks": pack(sorted(taken.rescued)), **nobody}
                )
        return [None] * len(calls)
