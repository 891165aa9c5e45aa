"""Credentials of attachments, and whose token a message came with.

Revision ID: 0014
Revises: 0013
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision: str | None = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns to contents. What is there has no attachments; it counts as the tenants' own."""
    op.add_column("contents", sa.Column("auths", sa.Text(), nullable=True))
    op.add_column("contents", sa.Column("by_tenant", sa.Boolean(), nullable=False, server_default=sa.true()))
    where = sa.text("auths IS NOT NULL")
    op.create_index("ix_contents_auths", "contents", ["message_pk"], sqlite_where=where, postgresql_where=where)
