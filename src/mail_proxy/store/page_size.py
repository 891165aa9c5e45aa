"""How many messages fit into a page that is bounded in bytes."""  # G11

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, func, select

from mail_proxy.store.schema import contents

PAGE_BYTES = 8_000_000
"""Bytes of contents on a page, or characters where that is what the database tells; a page has a message at least."""


def fitting(connection: Connection, dialect: str, pks: Sequence[int]) -> int:
    """Return how many of these messages, from the first on, fit into a page. No content is fetched for it."""
    # PostgreSQL knows the length without looking at the text; SQLite reads it, so that few are looked at to begin with
    length = (func.length if dialect == "sqlite" else func.octet_length)(contents.c.fields)
    room, fit, looked_at = PAGE_BYTES, 0, 1
    while fit < len(pks):
        some = pks[fit : fit + looked_at]
        statement = select(contents.c.message_pk, length.label("length")).where(contents.c.message_pk.in_(some))
        lengths = {row.message_pk: row.length for row in connection.execute(statement)}
        for pk in some:
            room -= lengths.get(pk, 0)
            if room < 0:
                return max(fit, 1)
            fit += 1
        looked_at *= 2
    return fit
