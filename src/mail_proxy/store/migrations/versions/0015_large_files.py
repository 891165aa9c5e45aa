"""Large files in storages, and the links that lead to them.

Revision ID: 0015
Revises: 0014
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision: str | None = "0014"
branch_labels = None
depends_on = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Add what tenants want done with large files, and the tables; nothing is kept yet."""
    op.add_column("tenants", sa.Column("large_files", sa.Text(), nullable=True))
    op.create_table(
        "file_storages",
        sa.Column("pk", _SERIAL, primary_key=True, autoincrement=True),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("access", sa.Text(), nullable=False),
        sa.UniqueConstraint("tenant_id", "url", name="uq_file_storages"),
    )
    op.create_table(
        "kept_files",
        sa.Column("pk", _SERIAL, primary_key=True, autoincrement=True),
        sa.Column("storage_pk", sa.BigInteger(), sa.ForeignKey("file_storages.pk"), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("until", sa.Double(), nullable=False),
    )
    op.create_index("ix_kept_files_content", "kept_files", ["storage_pk", "sha256"])
    op.create_index("ix_kept_files_until", "kept_files", ["until"])
    op.create_table(
        "file_links",
        sa.Column("pk", _SERIAL, primary_key=True, autoincrement=True),
        sa.Column("file_pk", sa.BigInteger(), sa.ForeignKey("kept_files.pk", ondelete="CASCADE"), nullable=False),
        sa.Column("message_pk", sa.BigInteger(), nullable=False),
        sa.Column("message_ts", sa.Double(), nullable=False),
        sa.Column("n", sa.SmallInteger(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("mime_type", sa.Text(), nullable=False),
        sa.Column("until", sa.Double(), nullable=False),
        sa.Column("lifespan", sa.Double(), nullable=True),
        sa.Column("downloaded_ts", sa.Double(), nullable=True),
        sa.UniqueConstraint("message_pk", "message_ts", "n", "file_pk", name="uq_file_links"),
    )
    op.create_index("ix_file_links_file", "file_links", ["file_pk"])
