"""Who asked for which change, and what came of it.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision: str | None = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the command log."""
    op.create_table(
        "command_log",
        sa.Column("pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("ts", sa.Double(), nullable=False),
        sa.Column("by_admin", sa.Boolean(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=True),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("code", sa.Text(), nullable=True),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("details", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("pk"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_command_log_ts", "command_log", ["ts", "pk"])
    has_tenant = sa.text("tenant_id IS NOT NULL")
    op.create_index(
        "ix_command_log_tenant",
        "command_log",
        ["tenant_id", "ts", "pk"],
        sqlite_where=has_tenant,
        postgresql_where=has_tenant,
    )
