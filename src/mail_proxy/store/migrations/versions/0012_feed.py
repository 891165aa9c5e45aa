"""A feed of all events: an index, how far it has been cut off, and a mark on what deleted messages left.

Revision ID: 0012
Revises: 0011
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision: str | None = "0011"
branch_labels = None
depends_on = None

_INDEXES = {
    "ix_events_feed": (["tenant_id", "event_id"], "event_id > 0"),
    "ix_events_left_told": (["ts"], "left_behind AND reported_ts IS NOT NULL"),
    "ix_events_left_untold": (["tenant_id", "ts"], "left_behind AND reported_ts IS NULL"),
}


def upgrade() -> None:
    """Add table, column and indexes; mark what is left of messages that are gone, and begin each feed at what is left.

    Of what was removed before nothing is known but that it was below the oldest event of its tenant; where there is
    none, below the last one of all.
    """
    op.create_table(
        "feed_horizons",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("event_id", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id"),
    )
    op.add_column("events", sa.Column("left_behind", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.execute(
        "UPDATE events SET left_behind = TRUE "
        "WHERE NOT EXISTS (SELECT 1 FROM messages WHERE messages.pk = events.message_pk)"
    )
    for name, (columns, condition) in _INDEXES.items():
        where = sa.text(condition)
        op.create_index(name, "events", columns, sqlite_where=where, postgresql_where=where)
    op.execute(
        "INSERT INTO feed_horizons (tenant_id, event_id) "
        "SELECT id, first FROM (SELECT id, COALESCE("
        "(SELECT min(event_id) - 1 FROM events WHERE tenant_id = tenants.id AND event_id > 0), "
        "(SELECT max(event_id) FROM events)) AS first FROM tenants) AS oldest WHERE first > 0"
    )
