"""A look into a database without opening the store: ids for shells to complete, and by which key it goes."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path


def tenant_ids(file: Path | None) -> Sequence[str]:
    """Return the tenants in a file; none where it cannot be read."""
    return _ids(file, "SELECT id FROM tenants ORDER BY id")


def account_ids(file: Path | None, tenant_id: str) -> Sequence[str]:
    """Return a tenant's accounts in a file; none where it cannot be read."""
    return _ids(file, "SELECT id FROM accounts WHERE tenant_id = ? ORDER BY id", tenant_id)


def key_check(database: Path | str) -> str | None:
    """Return what tells the key of a database, a file or a URL; None where it has none yet.

    Raises `StoreUnavailable` and `StoreRefused` where PostgreSQL cannot be asked.
    """
    from mail_proxy.store.sealed import CHECK, CHECK_VALUE  # noqa: PLC0415 - takes a while

    if isinstance(database, Path):
        return next(iter(_ids(database, "SELECT value FROM settings WHERE name = ?", CHECK)), None)
    from sqlalchemy.engine import make_url  # noqa: PLC0415 - takes a while
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    from mail_proxy.domain.errors import StoreUnavailable  # noqa: PLC0415
    from mail_proxy.store.engines import postgresql_engine  # noqa: PLC0415
    from mail_proxy.store.errors import is_not_made, translate  # noqa: PLC0415
    from mail_proxy.store.opening import NO_DRIVER, StoreRefused, database_url  # noqa: PLC0415

    try:
        engine = postgresql_engine(make_url(database_url(database)), connections=1)
    except ImportError:
        raise StoreRefused(NO_DRIVER) from None
    try:
        with engine.connect() as connection:
            held = connection.execute(CHECK_VALUE).scalar()
            return None if held is None else str(held)
    except SQLAlchemyError as error:
        if is_not_made(error):
            return None
        failure = translate(error, starting=True)
        if isinstance(failure, StoreUnavailable):
            raise failure from None
        raise StoreRefused(f"the database cannot be asked for its key: {error.__cause__ or error}") from None
    finally:
        engine.dispose()


def _ids(file: Path | None, query: str, *values: str) -> Sequence[str]:
    if file is None or not file.is_file():
        return []
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return [str(each) for (each,) in connection.execute(query, values)]
    except sqlite3.Error:
        return []
