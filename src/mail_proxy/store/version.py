"""The directory's version: one number that every change of tenants, accounts or suspensions raises.

Intake checks a message against what it knows of the directory and then asks, inside the transaction that writes the
message, whether that is still so. An instance never acts on settings that another one has changed.
"""

from __future__ import annotations

from sqlalchemy import Connection, Integer, cast, select, update
from sqlalchemy.types import Text

from mail_proxy.store.schema import settings

NAME = "directory_version"


class VersionCheck:
    """Reads the version; `shared` keeps it from changing until the transaction ends."""

    def __init__(self, dialect: str, *, shared: bool = False) -> None:
        self.statement = select(settings.c.value).where(settings.c.name == NAME)
        if shared and dialect == "postgresql":
            self.statement = self.statement.with_for_update(read=True)

    def read(self, connection: Connection) -> int:
        """Return the version."""
        return int(connection.execute(self.statement).scalar_one())


_RAISE = update(settings).where(settings.c.name == NAME).values(value=cast(cast(settings.c.value, Integer) + 1, Text))


def raise_version(connection: Connection) -> None:
    """Tell every instance that the directory has changed; the row's lock also orders the changes."""
    connection.execute(_RAISE)
