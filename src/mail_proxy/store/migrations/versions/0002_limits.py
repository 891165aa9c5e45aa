"""Rate limits, fallback accounts, and how often a message was in the hands of an instance that ended.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision: str | None = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns to tenants, accounts and messages, and the table of what was used."""
    op.add_column("tenants", sa.Column("limit_per_hour", sa.Integer(), nullable=True))
    op.add_column("tenants", sa.Column("limit_per_day", sa.Integer(), nullable=True))
    op.add_column("accounts", sa.Column("limit_per_minute", sa.Integer(), nullable=True))
    op.add_column("accounts", sa.Column("limit_per_hour", sa.Integer(), nullable=True))
    op.add_column("accounts", sa.Column("limit_per_day", sa.Integer(), nullable=True))
    op.add_column("accounts", sa.Column("limit_behavior", sa.Text(), nullable=False, server_default="defer"))
    op.add_column("accounts", sa.Column("limited_until", sa.Double(), nullable=True))
    op.add_column("accounts", sa.Column("limited_reason", sa.Text(), nullable=True))
    op.add_column("accounts", sa.Column("fallback_account_id", sa.Text(), nullable=True))
    op.add_column("messages", sa.Column("reserved", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("messages", sa.Column("limit_told", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("messages", sa.Column("crashes", sa.Integer(), nullable=False, server_default="0"))
    op.create_index(
        "ix_messages_reserved",
        "messages",
        ["tenant_id", "account_pk"],
        sqlite_where=sa.text("reserved"),
        postgresql_where=sa.text("reserved"),
    )
    op.create_table(
        "usage",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("until", sa.Double(), nullable=False),
        sa.Column("used", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "until"),
        sqlite_with_rowid=False,
    )
