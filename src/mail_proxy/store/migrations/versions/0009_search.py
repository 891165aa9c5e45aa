"""Indexes for the lists of messages, newest first by time, and more of what is known of reporting.

Revision ID: 0009
Revises: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision: str | None = "0008"
branch_labels = None
depends_on = None

_INDEXES = {
    "ix_messages_sending": (["instance_id", "tenant_id", "created_ts", "pk"], "state = 'sending'"),
    "ix_messages_list_unfinished": (["tenant_id", "created_ts", "pk"], "finished_ts IS NULL AND pk > 0"),
    "ix_messages_list_finished": (["tenant_id", "state", "created_ts", "pk"], "finished_ts IS NOT NULL AND pk > 0"),
    "ix_messages_list_account": (["tenant_id", "account_id", "created_ts", "pk"], "pk > 0"),
    "ix_messages_list_batch": (["tenant_id", "batch_code", "created_ts", "pk"], "batch_code IS NOT NULL AND pk > 0"),
}


def upgrade() -> None:
    """Make the lists, widen the index of what is being sent, and add columns to the turns."""
    op.drop_index("ix_messages_sending", "messages")
    for name, (columns, condition) in _INDEXES.items():
        where = sa.text(condition)
        op.create_index(name, "messages", columns, sqlite_where=where, postgresql_where=where)
    op.add_column("sync_leases", sa.Column("due", sa.Double(), nullable=True))
    op.add_column("sync_leases", sa.Column("last_error", sa.Text(), nullable=True))
