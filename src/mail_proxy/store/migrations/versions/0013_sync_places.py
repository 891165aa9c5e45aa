"""Which endpoint what is known of reporting is about, and whether that one said that it is gone.

Revision ID: 0013
Revises: 0012
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision: str | None = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; NULL is about whichever endpoint the tenant has."""
    op.add_column("sync_leases", sa.Column("place", sa.Text(), nullable=True))
    op.add_column("sync_leases", sa.Column("gone", sa.Boolean(), nullable=False, server_default=sa.false()))
