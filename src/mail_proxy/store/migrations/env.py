"""Runs the migrations on the connection that `store.open` hands over."""

from __future__ import annotations

from alembic import context

from mail_proxy.store.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
context.run_migrations()
