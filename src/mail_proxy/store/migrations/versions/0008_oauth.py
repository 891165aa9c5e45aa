"""What accounts log in with by XOAUTH2, and whose token has set where they lead.

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision: str | None = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns to accounts. Nobody knows who has set those that are there: they go on as the operator's."""
    op.add_column("accounts", sa.Column("oauth", sa.Text(), nullable=True))
    op.add_column("accounts", sa.Column("host_by_tenant", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("accounts", sa.Column("token_url_by_tenant", sa.Boolean(), nullable=False, server_default=sa.false()))
