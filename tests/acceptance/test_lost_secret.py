"""A stored secret that no key opens: it is its account's trouble alone, and a new one ends it."""  # G8, G16

from __future__ import annotations

from sqlalchemy import create_engine, make_url, select, update

from mail_proxy.store.schema import accounts
from tests.acceptance.tenants import new_tenant
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
