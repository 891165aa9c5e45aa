"""Queues of any size, written by the database itself: a hundred thousand messages in a few seconds."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from sqlalchemy import text

from mail_proxy.domain.account import Account
from mail_proxy.store.store import Store

_STATEMENTS = (
    """
    INSERT INTO messages (tenant_id, id, account_pk, account_id, priority, batch_code, state, attempts, digest, size,
        created_ts)
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)
    SELECT a.tenant_id, :prefix || i, a.pk, a.id, :priority, :batch, :state, 0, 'digest', 100, 1800000000.0
    FROM accounts AS a, n WHERE a.tenant_id = :tenant AND a.id = :account
    """,
    """
    INSERT INTO contents (message_pk, fields, message_id, date)
    SELECT pk, '{"from": "a@example.com", "to": "b@example.net", "subject": "S", "body": "B"}', id || '@example.com',
        created_ts
    FROM messages WHERE pk > :before
    """,
    """
    INSERT INTO recipients (message_pk, n, address, kind)
    SELECT pk, 0, 'b@example.net', 'to' FROM messages WHERE pk > :before
    """,
)
_LAST = "SELECT coalesce(max(pk), 0) FROM messages"


def _values(
    tenant_id: str, account_id: str, count: int, *, prefix: str, batch_code: str | None, priority: int, state: str
) -> dict[str, object]:
    return {
        "tenant": tenant_id,
        "account": account_id,
        "count": count,
        "prefix": prefix,
        "batch": batch_code,
        "priority": priority,
        "state": state,
    }


def fill(
    store: Store,
    account: Account,
    count: int,
    *,
    prefix: str = "bulk-",
    batch_code: str | None = None,
    priority: int = 2,
    state: str = "ready",
) -> None:
    """Put so many messages of an account into an open store, behind those that are there."""
    values = _values(
        account.tenant_id,
        account.id,
        count,
        prefix=prefix,
        batch_code=batch_code,
        priority=priority,
        state=state,
    )
    with store.database.engine.begin() as connection:
        values["before"] = connection.execute(text(_LAST)).scalar_one()
        for statement in _STATEMENTS:
            names = {name: value for name, value in values.items() if f":{name}" in statement}
            connection.execute(text(statement), names)


def fill_file(
    file: Path,
    tenant_id: str,
    account_id: str,
    count: int,
    *,
    prefix: str = "bulk-",
    batch_code: str | None = None,
    priority: int = 2,
) -> None:
    """Put so many messages of an account into the SQLite file of an instance that is not running."""
    values = _values(
        tenant_id, account_id, count, prefix=prefix, batch_code=batch_code, priority=priority, state="ready"
    )
    connection = sqlite3.connect(file)
    try:
        with connection:
            values["before"] = connection.execute(_LAST).fetchone()[0]
            for statement in _STATEMENTS:
                connection.execute(statement, values)
    finally:
        connection.close()
