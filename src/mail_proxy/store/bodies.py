"""Removing what finished messages say, before the messages themselves go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import (
    Connection,
    Double,
    Integer,
    Text,
    bindparam,
    func,
    literal_column,
    select,
    true,
    update,
)

from mail_proxy.domain.attachment import INLINE
from mail_proxy.domain.requeue import BODY_REMOVED
from mail_proxy.store.operation import Transaction
from mail_proxy.store.rows import among, pack, packed, unpack
from mail_proxy.store.schema import HAS_BODY, contents, messages
from mail_proxy.store.shown import Without

CHUNK_BYTES = 4_000_000
"""Bytes of submissions in one transaction; one message at least."""  # G11
REMOVED = ("body", "text", "html", "raw", "headers", "attachments", INLINE)
"""What is not kept; who it was from and to, its subject, and what belongs to the client's own bookkeeping stay."""


@dataclass(frozen=True, slots=True)
class BodiesRequest:
    """Remove the bodies of up to `limit` messages that had ended by then."""

    finished_before: float
    now: float
    limit: int


class RemoveBodies:
    """Takes the bodies of the messages that ended first. Whoever sends one again holds its row, or finds it bare."""

    def __init__(self, dialect: str) -> None:
        old = (
            select(messages.c.pk, messages.c.size)
            .where(literal_column(HAS_BODY), messages.c.finished_ts <= bindparam("before", type_=Double))
            .order_by(messages.c.finished_ts)
            .limit(bindparam("limit", type_=Integer))
        )
        self.look = packed(dialect, old.subquery("old"))
        self.old = packed(dialect, old.with_for_update(of=messages).subquery("old"))
        # an object that begins with one more member; none is empty
        left = bindparam("begin", type_=Text) + func.substr(Without(contents.c.fields, *REMOVED), 2)
        self.strip = update(contents).where(among(dialect, contents.c.message_pk)).values(fields=left, auths=None)
        length = select(func.length(contents.c.fields)).where(contents.c.message_pk == messages.c.pk).scalar_subquery()
        self.mark = (
            update(messages)
            .where(among(dialect, messages.c.pk))
            .values(body_removed=true(), size=func.coalesce(length, 0))
        )

    def any(self, connection: Connection, before: float) -> bool:
        """Say whether there is anything to do."""
        return bool(unpack(connection.execute(self.look, {"before": before, "limit": 1}).scalar()))

    def run(self, transaction: Transaction, requests: Sequence[BodiesRequest]) -> Sequence[int]:
        """Take one chunk for each request; answer how many messages it was."""
        return [self._take(transaction.connection, request) for request in requests]

    def _take(self, connection: Connection, request: BodiesRequest) -> int:
        rows = unpack(
            connection.execute(self.old, {"before": request.finished_before, "limit": request.limit}).scalar()
        )
        pks: list[int] = []
        room = CHUNK_BYTES
        for pk, size in rows:
            room -= size
            if pks and room < 0:
                break
            pks.append(pk)
        if pks:
            chosen = {"pks": pack(pks)}
            connection.execute(self.strip, {**chosen, "begin": f'{{"{BODY_REMOVED}":{request.now!r},'})
            connection.execute(self.mark, chosen)
        return len(pks)
