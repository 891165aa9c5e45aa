"""Which finished messages still have their bodies.

Revision ID: 0011
Revises: 0010
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision: str | None = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a mark, and an index of those that have them."""
    op.add_column("messages", sa.Column("body_removed", sa.Boolean(), nullable=False, server_default=sa.false()))
    condition = sa.text("finished_ts IS NOT NULL AND NOT body_removed")
    op.create_index(
        "ix_messages_bodies", "messages", ["finished_ts"], sqlite_where=condition, postgresql_where=condition
    )
