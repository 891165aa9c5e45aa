"""The ledger of files looks at no row that it does not need, however many files and links there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event

from mail_proxy.domain.large_file import DAY, LinkWanted, StorageKind, StoragePlace
from mail_proxy.store.opening import database_url
from mail_proxy.store.schema import file_links, file_storages, kept_files
from tests.support.stores import open_test_store

NOW = 1_800_000_000.0
PLACE = StoragePlace(StorageKind.S3, "s3://files")
TABLES = {table.name for table in (file_storages, kept_files, file_links)}


async def test_every_statement_goes_by_an_index(tmp_path: Path) -> None:
    store = await open_test_store(database_url(str(tmp_path / "mail.db")))
    plans: dict[str, list[str]] = {}

    def look(
        connection: Connection, _cursor: object, statement: str, parameters: Any, _context: object, _many: object
    ) -> None:
        if any(name in statement for name in TABLES) and not statement.startswith("EXPLAIN"):
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
            plans[statement] = [str(row[-1]) for row in rows]

    files = store.files
    event.listen(store.database.engine, "before_cursor_execute", look)
    try:
        kept = await files.reserve("acme", PLACE, "1" * 64, 12, NOW)
        link = await files.link(LinkWanted(kept.pk, 1, NOW, 0, "a", "a/b", NOW + DAY, NOW, DAY))
        assert link is not None
        await files.reserve("acme", PLACE, "1" * 64, 12, NOW)
        await files.linked(link.pk)
        await files.downloaded(link.pk, NOW)
        doomed = await files.doomed(NOW + 3 * DAY, 10)
        await files.removed([each.pk for each in doomed])
        await store.directory.delete_tenant("acme", force=True)
    finally:
        event.remove(store.database.engine, "before_cursor_execute", look)
        await store.close()
    assert len(plans) > 10
    scans = {statement: [step for step in plan if step.startswith("SCAN")] for statement, plan in plans.items()}
    assert {statement: steps for statement, steps in scans.items() if steps} == {}
