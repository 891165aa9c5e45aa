"""The first schema.

Revision ID: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None
branch_labels = None
depends_on = None

serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make all tables of an empty database, and its first settings."""
    op.create_table(
        "contents",
        sa.Column("message_pk", serial, autoincrement=False, nullable=False),
        sa.Column("fields", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("date", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("message_pk"),
    )
    op.create_table(
        "events",
        sa.Column("event_id", serial, autoincrement=True, nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("message_pk", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("ts", sa.Double(), nullable=False),
        sa.Column("entry", sa.Text(), nullable=False),
        sa.Column("reported_ts", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("event_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_message", "events", ["message_pk"])
    op.create_index(
        "ix_events_unreported",
        "events",
        ["tenant_id", "event_id"],
        sqlite_where=sa.text("reported_ts IS NULL"),
        postgresql_where=sa.text("reported_ts IS NULL"),
    )
    op.create_table(
        "instances",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("counter", sa.BigInteger(), nullable=False),
        sa.Column("started_ts", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "messages",
        sa.Column("pk", serial, autoincrement=True, nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("account_pk", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("batch_code", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("due", sa.Double(), nullable=True),
        sa.Column("expires_ts", sa.Double(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("token", sa.Text(), nullable=True),
        sa.Column("instance_id", sa.Text(), nullable=True),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("reply", sa.Text(), nullable=True),
        sa.Column("created_ts", sa.Double(), nullable=False),
        sa.Column("first_attempt_ts", sa.Double(), nullable=True),
        sa.Column("finished_ts", sa.Double(), nullable=True),
        sa.Column("reported_ts", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("pk"),
        sa.UniqueConstraint("tenant_id", "id", name=op.f("uq_messages_tenant_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_messages_expiring",
        "messages",
        ["expires_ts"],
        sqlite_where=sa.text("expires_ts IS NOT NULL AND state IN ('held', 'ready', 'scheduled')"),
        postgresql_where=sa.text("expires_ts IS NOT NULL AND state IN ('held', 'ready', 'scheduled')"),
    )
    op.create_index(
        "ix_messages_held",
        "messages",
        ["tenant_id", "batch_code"],
        sqlite_where=sa.text("state = 'held'"),
        postgresql_where=sa.text("state = 'held'"),
    )
    op.create_index(
        "ix_messages_ready",
        "messages",
        ["account_pk", "priority", "pk"],
        sqlite_where=sa.text("state = 'ready'"),
        postgresql_where=sa.text("state = 'ready'"),
    )
    op.create_index(
        "ix_messages_reported",
        "messages",
        ["finished_ts"],
        sqlite_where=sa.text("finished_ts IS NOT NULL AND reported_ts IS NOT NULL"),
        postgresql_where=sa.text("finished_ts IS NOT NULL AND reported_ts IS NOT NULL"),
    )
    op.create_index(
        "ix_messages_scheduled",
        "messages",
        ["priority", "due"],
        sqlite_where=sa.text("state = 'scheduled'"),
        postgresql_where=sa.text("state = 'scheduled'"),
    )
    op.create_index(
        "ix_messages_sending",
        "messages",
        ["instance_id"],
        sqlite_where=sa.text("state = 'sending'"),
        postgresql_where=sa.text("state = 'sending'"),
    )
    op.create_index(
        "ix_messages_tenant",
        "messages",
        ["tenant_id", "pk"],
        sqlite_where=sa.text("pk > 0"),
        postgresql_where=sa.text("pk > 0"),
    )
    op.create_index(
        "ix_messages_unfinished",
        "messages",
        ["account_pk", "batch_code", "finished_ts"],
        sqlite_where=sa.text("finished_ts IS NULL"),
        postgresql_where=sa.text("finished_ts IS NULL"),
    )
    op.create_index(
        "ix_messages_unreported",
        "messages",
        ["tenant_id", "finished_ts"],
        sqlite_where=sa.text("finished_ts IS NOT NULL AND reported_ts IS NULL"),
        postgresql_where=sa.text("finished_ts IS NOT NULL AND reported_ts IS NULL"),
    )
    op.create_table(
        "recipients",
        sa.Column("message_pk", sa.BigInteger(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=True),
        sa.Column("reply", sa.Text(), nullable=True),
        sa.Column("ts", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("message_pk", "n"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "settings",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "tenants",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("client_base_url", sa.Text(), nullable=True),
        sa.Column("client_sync_path", sa.Text(), nullable=False),
        sa.Column("client_attachment_path", sa.Text(), nullable=False),
        sa.Column("client_auth", sa.Text(), nullable=True),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("on_uncertain", sa.Text(), nullable=False),
        sa.Column("api_key_hash", sa.Text(), nullable=True),
        sa.Column("api_key_expires_at", sa.Double(), nullable=True),
        sa.Column("suspended", sa.Boolean(), nullable=False),
        sa.Column("created_ts", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("api_key_hash", name=op.f("uq_tenants_api_key_hash")),
    )
    op.create_table(
        "accounts",
        sa.Column("pk", serial, autoincrement=True, nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("user", sa.Text(), nullable=True),
        sa.Column("password", sa.Text(), nullable=True),
        sa.Column("auth", sa.Text(), nullable=False),
        sa.Column("tls", sa.Text(), nullable=False),
        sa.Column("verify_tls", sa.Boolean(), nullable=False),
        sa.Column("ttl", sa.Double(), nullable=False),
        sa.Column("max_connections", sa.Integer(), nullable=False),
        sa.Column("batch_size", sa.Integer(), nullable=True),
        sa.Column("on_uncertain", sa.Text(), nullable=True),
        sa.Column("is_default", sa.Boolean(), nullable=False),
        sa.Column("hold_reason", sa.Text(), nullable=True),
        sa.Column("hold_since", sa.Double(), nullable=True),
        sa.Column("created_ts", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("pk"),
        sa.UniqueConstraint("tenant_id", "id", name=op.f("uq_accounts_tenant_id")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_accounts_id", "accounts", ["id"])
    op.create_table(
        "suspended_batches",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("batch_code", sa.Text(), nullable=False),
        sa.Column("ending", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("tenant_id", "batch_code"),
    )
    op.execute("INSERT INTO settings (name, value) VALUES ('directory_version', '1')")
