"""`python -m tests.upgrades.make`: keeps a database of the present schema, for later versions to open.

Run it when a version is released whose schema is new. What is in it is what a real instance has written: messages in
every state, with reports that are told and that are not, accounts with passwords, a suspended batch, a command log.
"""

from __future__ import annotations

import asyncio
import lzma
import sqlite3
import sys
import tempfile
from pathlib import Path

from tests.acceptance.sinks import running_sink
from tests.support.instance import Instance, a_message

FOLDER = Path(__file__).parent
KEY = "0123456789abcdef" * 4
PASSWORD = "the password of the account"


async def _write(folder: Path) -> None:
    instance = Instance(folder, ENCRYPTION_KEY=KEY, MAX_RETRIES="2", RETRY_DELAYS="3000")
    await instance.start()
    try:
        async with running_sink() as sink, instance.client() as client:
            sink.rcpt = {"no@example.net": "550 5.1.1 no", "later@example.net": "450 later"}.get
            # Nobody is there: what is to be reported waits.
            await client.post("/tenant", {"id": "acme", "name": "ACME", "client_base_url": "http://127.0.0.1:9"})
            await client.post("/tenant", {"id": "quiet"})
            server = {"host": "127.0.0.1", "port": sink.port, "limit_per_hour": 500}
            await client.post("/account", {"id": "main", "tenant_id": "acme", **server})
            away = {"host": "127.0.0.1", "port": 9, "user": "mailer", "password": PASSWORD}
            await client.post("/account", {"id": "away", "tenant_id": "acme", **away})
            await client.post("/account", {"id": "main", "tenant_id": "quiet", **server})
            await client.post("/commands/suspend", tenant_id="acme", batch_code="held")

            async def submit(*messages: dict[str, object], tenant_id: str = "acme") -> None:
                await client.submit(*({"account_id": "main", "tenant_id": tenant_id, **each} for each in messages))

            await submit(
                a_message("sent", metadata={"order": 7}),
                a_message("failed", "no@example.net"),
                a_message("partly", ["b@example.net", "no@example.net"]),
                a_message("put-off", "later@example.net"),
                a_message("expired", deferred_ts=4_000_000_000, expires_ts=4_000_000_001),
                a_message("cancelled", deferred_ts=4_000_000_000),
                a_message("much-later", deferred_ts=4_000_000_000, subject="Grüße"),
                a_message("held", batch_code="held"),
                a_message("waiting", account_id="away", priority="immediate"),
            )
            await submit(a_message("sent"), tenant_id="quiet")
            for name, state in (("sent", "sent"), ("failed", "failed"), ("partly", "sent")):
                await _until(client, name, state)
            await client.post("/commands/delete-messages", {"ids": ["cancelled"], "tenant_id": "acme"})
            await asyncio.sleep(1)
        await instance.stop()
    finally:
        instance.close()


async def _until(client: object, name: str, state: str) -> None:
    for _ in range(300):
        answer = await client.get(f"/messages/{name}", tenant_id="acme")  # type: ignore[attr-defined]
        if answer["state"] == state:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{name} is not {state}")


def main() -> None:
    """Write the file."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_write(Path(folder)))
        with sqlite3.connect(Path(folder) / "mail_service.db") as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            (schema,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
            database.execute("VACUUM")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.close()
        packed = lzma.compress((Path(folder) / "mail_service.db").read_bytes())
    file = FOLDER / f"{schema}.db.xz"
    file.write_bytes(packed)
    sys.stdout.write(f"{file}: {len(packed)} bytes\n")


if __name__ == "__main__":
    main()
