"""A look into an SQLite file that nobody owns: ids for shells to complete, without opening the store."""

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


def _ids(file: Path | None, query: str, *values: str) -> Sequence[str]:
    if file is None or not file.is_file():
        return []
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            return [str(each) for (each,) in connection.execute(query, values)]
    except sqlite3.Error:
        return []
