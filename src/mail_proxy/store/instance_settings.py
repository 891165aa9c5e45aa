"""What is kept in the database for all instances on it, in rows of the table `settings`."""

from __future__ import annotations

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from mail_proxy.domain.instance import InstanceSettings
from mail_proxy.store.claim import SCHEDULER_ACTIVE
from mail_proxy.store.operation import Transaction
from mail_proxy.store.schema import settings

NAME = "instance_name"
_READ = select(settings).where(settings.c.name.in_((SCHEDULER_ACTIVE, NAME)))


def read_instance_settings(connection: Connection) -> InstanceSettings:
    """Return what is kept; what is not there has its default."""
    held = {row.name: row.value for row in connection.execute(_READ)}
    return InstanceSettings(scheduler_active=held.get(SCHEDULER_ACTIVE) != "false", name=held.get(NAME))


def write_instance_settings(transaction: Transaction, after: InstanceSettings) -> None:
    """Keep these values."""
    _put(transaction, SCHEDULER_ACTIVE, "true" if after.scheduler_active else "false")
    _put(transaction, NAME, after.name)


def _put(transaction: Transaction, name: str, value: str | None) -> None:
    if value is None:
        transaction.connection.execute(delete(settings).where(settings.c.name == name))
        return
    upsert = postgresql_insert if transaction.dialect == "postgresql" else sqlite_insert
    statement = upsert(settings).values(name=name, value=value)
    statement = statement.on_conflict_do_update(index_elements=["name"], set_={"value": value})
    transaction.connection.execute(statement)
