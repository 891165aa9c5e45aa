"""What the page on deployment says of a database's role, and of administering an instance of `mail-proxy serve`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg

from mail_proxy.store.opening import database_url, prepare
from tests.docs.pages import Block, page
from tests.docs.session import session
from tests.support.instance import ADMIN_TOKEN, Instance
from tests.support.postgres import PostgresServer

DEPLOYMENT = page("docs/deployment.md")


def marked(mark: str) -> Block:
    """The one block of the page that a comment names."""
    (block,) = (block for block in DEPLOYMENT.blocks if block.mark == mark)
    return block


def test_the_role_of_the_page_may_do_what_the_service_needs(postgres: PostgresServer) -> None:
    postgres.start()
    statements = marked("sql").text.replace("ROLE mail", "ROLE page_role").replace("OWNER mail", "OWNER page_role")
    statements = statements.replace("DATABASE mail", "DATABASE page_database")
    url = postgres.url("page_database")
    mine = f"postgresql://page_role:a-long-random-text@{url.rpartition('@')[2]}"
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as administrator:
        for statement in filter(str.strip, statements.split(";")):
            administrator.execute(statement.encode())
        try:
            prepare(database_url(mine), lambda held: held or "checked").engine.dispose()
        finally:
            administrator.execute("DROP DATABASE IF EXISTS page_database WITH (FORCE)")
            administrator.execute("DROP ROLE page_role")


async def test_an_instance_of_serve_is_administered_by_its_api(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    settings = tmp_path / "mail-proxy.env"
    settings.write_text(f"GMP_API_TOKEN={ADMIN_TOKEN}\n", encoding="utf-8")
    instance = Instance(data)
    try:
        await instance.start()
        instead = {"http://127.0.0.1:8000": instance.address, "/etc/mail-proxy/mail-proxy.env": str(settings)}
        with session(tmp_path, instead) as reading:
            tenant, account = await asyncio.to_thread(reading.answers, marked("run"))
        assert isinstance(tenant, dict)
        assert (tenant["created"], account) == (True, {"ok": True, "created": True})
        async with instance.client(tenant["api_key"]) as client:
            assert [each["id"] for each in (await client.get("/accounts"))["accounts"]] == ["main"]
    finally:
        instance.close()
