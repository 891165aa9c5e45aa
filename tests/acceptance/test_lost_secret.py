"""A stored secret that no key opens: the trouble of its account or tenant alone, and a new one ends it."""  # G8, G16

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Column, create_engine, make_url, select, update

from mail_proxy.domain.secret import Secret
from mail_proxy.domain.signing import signatures
from mail_proxy.store.schema import accounts, tenants
from tests.acceptance.tenants import new_tenant
from tests.support.callback_server import CallbackServer, Reply
from tests.support.file_server import ENDPOINT, FileServer
from tests.support.instance import Instance, a_message, eventually
from tests.support.smtp_servers import real_server

PASSWORD = "the right one"


def mix_up(instance: Instance, tenant_id: str) -> None:
    """Put the sealed password of `other` where that of `main` stands, as a restore by hand might do."""
    place = instance.settings["DB_PATH"]
    url = make_url(place) if "://" in place else make_url(f"sqlite:///{place}")
    engine = create_engine(url.set(drivername="postgresql+psycopg") if "://" in place else url)
    mine = accounts.c.tenant_id == tenant_id
    with engine.begin() as connection:
        other = connection.execute(select(accounts.c.password).where(mine, accounts.c.id == "other")).scalar_one()
        connection.execute(update(accounts).where(mine, accounts.c.id == "main").values(password=other))
    engine.dispose()


def lose(instance: Instance, tenant_id: str, *columns: Column[Any]) -> None:
    """Put what no key opens where secrets of a tenant stand."""
    place = instance.settings["DB_PATH"]
    url = make_url(place) if "://" in place else make_url(f"sqlite:///{place}")
    engine = create_engine(url.set(drivername="postgresql+psycopg") if "://" in place else url)
    with engine.begin() as connection:
        held = connection.execute(select(*columns).where(tenants.c.id == tenant_id)).one()
        lost = {column: f"{text[:-8]}AAAAAAA=" for column, text in zip(columns, held, strict=True)}
        connection.execute(update(tenants).where(tenants.c.id == tenant_id).values(lost))
    engine.dispose()


async def test_an_account_whose_password_cannot_be_opened_goes_on_hold_until_it_is_given_anew(
    on_each_database: Instance,
) -> None:
    instance = on_each_database
    login = {"user": "ann", "password": PASSWORD, "tls": "none"}
    async with (
        real_server(users={"ann": PASSWORD}, auth_in_clear=True) as server,
        new_tenant(instance, server.port, **login) as acme,
    ):
        await acme.put_account("other", server.port, **login)
        assert await instance.stop() == 0
        mix_up(instance, acme.id)
        await instance.start()

        await acme.client.submit(a_message("M1", account_id="main"), a_message("M2", account_id="other"))
        await eventually(lambda: instance.logged("account on hold", tenant_id=acme.id), "the account is on hold")
        (line,) = instance.logged("account on hold", tenant_id=acme.id)
        assert line["account_id"] == "main"
        assert "cannot be opened with any key" in line["reason"]
        await acme.client.message_when("M2", "sent")
        shown = {each["id"]: each for each in (await acme.client.get("/accounts"))["accounts"]}
        assert "give it anew" in shown["main"]["hold"]["reason"]
        assert shown["other"]["hold"] is None

        less = await acme.client.ask("POST", "/account", json={"id": "main", "ttl": 5})
        assert (less.status_code, less.json()["detail"][0]["field"]) == (422, "password")
        await acme.client.post("/account", {"id": "main", "password": PASSWORD})
        assert (await acme.client.message_when("M1", "sent"))["account_id"] == "main"


async def test_reports_wait_for_secrets_of_their_tenant_and_its_mail_and_its_neighbours_do_not(
    on_each_database: Instance,
) -> None:
    instance = on_each_database
    auth = {"method": "bearer", "token": "t0ken"}
    async with (
        real_server() as server,
        CallbackServer() as endpoint,
        CallbackServer() as other,
        new_tenant(instance, server.port, callback=endpoint.url, tls="none") as acme,
        new_tenant(instance, server.port, callback=other.url, tls="none") as neighbour,
    ):
        assert (await acme.admin.ask("PUT", f"/tenant/{acme.id}", json={"client_auth": auth})).status_code == 200
        await acme.admin.post(f"/tenant/{acme.id}/signing-secret")
        assert await instance.stop() == 0
        lose(instance, acme.id, tenants.c.client_auth, tenants.c.signing)
        await instance.start()

        await acme.client.submit(a_message("M1"))
        await neighbour.client.submit(a_message("N1"))
        await acme.client.message_when("M1", "sent")
        await eventually(lambda: other.entries, "the neighbour is told")
        reason = "{0} of the tenant cannot be opened with any key; give it anew".format
        both = f"{reason('client_auth')}; {reason('signing_secret')}"
        await acme.sync_status(lambda status: status["last_error"] == both)
        listed = {each["id"]: each for each in (await acme.admin.get("/tenants"))["tenants"]}
        assert listed[acme.id]["unreadable_secrets"] == ["client_auth", "signing_secret"]
        assert listed[acme.id]["signs_reports"]
        assert listed[neighbour.id]["unreadable_secrets"] == []

        assert (await acme.admin.ask("PUT", f"/tenant/{acme.id}", json={"client_auth": auth})).status_code == 200
        await acme.sync_status(lambda status: status["last_error"] == reason("signing_secret"))
        assert endpoint.requests == []
        secret = (await acme.admin.post(f"/tenant/{acme.id}/signing-secret"))["signing_secret"]
        await eventually(lambda: endpoint.entries, "it is told")
        request = endpoint.requests[0]
        assert request.headers["authorization"] == "Bearer t0ken"
        headers = {name: request.headers[name] for name in ("webhook-id", "webhook-timestamp", "webhook-signature")}
        signed = signatures([Secret(secret)], headers["webhook-id"], int(headers["webhook-timestamp"]), request.body)
        assert headers["webhook-signature"] == signed
        lost = [line for line in instance.logged("secrets cannot be opened") if acme.id in str(line["places"])]
        assert len(lost) == 2  # both of them, and the one that is left
        assert len(instance.logged("report_failed", tenant_id=acme.id)) == 1


async def test_an_endpoint_is_not_asked_for_attachments_without_the_credentials_that_it_had(
    on_each_database: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = on_each_database
    async with (
        real_server() as server,
        FileServer() as files,
        new_tenant(instance, server.port, tls="none") as acme,
    ):
        files.put(ENDPOINT, Reply(200, b"a;b"))
        settings = {"client_base_url": files.url, "client_auth": {"method": "bearer", "token": "t0ken"}}
        assert (await acme.admin.ask("PUT", f"/tenant/{acme.id}", json=settings)).status_code == 200
        assert await instance.stop() == 0
        lose(instance, acme.id, tenants.c.client_auth)
        monkeypatch.setitem(instance.settings, "RETRY_DELAYS", "5")
        await instance.start()
        attachment = {"filename": "a.csv", "fetch_mode": "endpoint", "storage_path": "1"}
        await acme.client.submit(a_message("M1", attachments=[attachment]), a_message("M2"))
        await acme.client.message_when("M2", "sent")
        waiting = await acme.client.message_when("M1", "waiting")
        assert "client_auth of the tenant cannot be opened with any key; give it anew" in str(waiting)
        assert files.requests == []
        changes = {"client_auth": settings["client_auth"]}
        assert (await acme.admin.ask("PUT", f"/tenant/{acme.id}", json=changes)).status_code == 200
        await acme.client.message_when("M1", "sent")
        assert files.asked(ENDPOINT)[0].headers["authorization"] == "Bearer t0ken"
        assert await instance.stop() == 0
