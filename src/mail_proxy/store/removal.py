"""Cancelling what waits for an account that is being deleted, and telling its tenant."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import BigInteger, bindparam, select, text, update

from mail_proxy.domain.settlement import cancel
from mail_proxy.store.database import Transaction
from mail_proxy.store.loading import Loader
from mail_proxy.store.rows import among, pack
from mail_proxy.store.schema import IS_WAITING, messages
from mail_proxy.store.settle import Settle
from mail_proxy.store.usage import Usage, UsageSettings

CHUNK = 500
TOKEN = "cancelled"  # noqa: S105 - the name of a claim, not a secret


class CancelWaiting:
    """Cancels waiting messages of an account, a chunk at a time; each is reported."""  # G9

    def __init__(self, dialect: str) -> None:
        self.waiting = (
            select(messages.c.pk)
            .where(messages.c.account_pk == bindparam("account", type_=BigInteger))
            .where(messages.c.finished_ts.is_(None))
            .where(text(IS_WAITING))
            .limit(CHUNK)
            .with_for_update()
        )
        self.mark = update(messages).where(among(dialect, messages.c.pk)).values(token=TOKEN)
        self.loader = Loader(dialect)
        self.settle = Settle(dialect, Usage(dialect, UsageSettings()))  # what waits has nothing reserved

    def run(self, transaction: Transaction, wanted: Sequence[tuple[int, float]]) -> Sequence[int]:
        """Cancel one chunk for each (account, time); answer how many were cancelled."""
        return [self._cancel(transaction, account_pk, now) for account_pk, now in wanted]

    def _cancel(self, transaction: Transaction, account_pk: int, now: float) -> int:
        connection = transaction.connection
        pks = list(connection.execute(self.waiting, {"account": account_pk}).scalars())
        if pks:
            connection.execute(self.mark, {"pks": pack(pks)})
            claims = self.loader.load(connection, pks)
            self.settle.run(transaction, [cancel(claimed, now, "the account was deleted") for claimed in claims])
        return len(pks)
