"""Which encryption key each instance has as its own.

Revision ID: 0006
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision: str | None = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; NULL for an instance of an earlier version, which is waited for like any other."""
    op.add_column("instances", sa.Column("key_id", sa.Text(), nullable=True))
