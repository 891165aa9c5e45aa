"""The secrets that sign a tenant's reports.

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision: str | None = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column to tenants; nobody's reports are signed yet."""
    op.add_column("tenants", sa.Column("signing", sa.Text(), nullable=True))
