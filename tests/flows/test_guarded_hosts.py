"""A whole instance in this process, with a name server of the test's: what a tenant names leads nowhere inside."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mail_proxy.administration.requests import AccountIn, TenantIn
from mail_proxy.domain.attempt import AccountRefused, Probed
from mail_proxy.domain.errors import Invalid
from mail_proxy.domain.message import MessageState
from mail_proxy.runtime.app import App, open_app
from mail_proxy.runtime.settings import Settings
from tests.support.instance import a_message, eventually
from tests.support.smtp_servers import Dialogue, scripted_server

INSIDE = ["localhost", "10.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "::1", "192.168.1.1"]
SPELLED = ["0177.0.0.1", "127.1", "2130706433", "0x7f.1", "localhost.", "[::1]", "169.254.169.254"]


def an_account(**fields: Any) -> AccountIn:
    return AccountIn.model_validate({"id": "main", **fields})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    variables = {"GMP_API_TOKEN": "t", "GMP_DATA_DIR": str(tmp_path), "GMP_SEND_LOOP_INTERVAL": "0.1"}
    return Settings.load(variables, key_file=tmp_path / "none")


async def test_a_name_that_leads_inside_holds_a_tenants_account_and_carries_the_operators_mail(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., Any] = socket.getaddrinfo

    def look_up(host: str, *others: Any, **options: Any) -> Any:
        return real("127.0.0.1" if host == "rebound.example" else host, *others, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    async with scripted_server(Dialogue()) as server, open_app(settings, "in this process") as app:
        running = asyncio.ensure_future(app.run())
        await app.tenants.put(TenantIn(id="acme"))
        there = {"host": "rebound.example", "port": server.port}
        await app.accounts.put("acme", an_account(**there), by_tenant=True)
        for by_tenant in (True, False):  # a test tells what sending would meet
            tested = await app.account_tests.test("acme", "main", by_tenant=by_tenant)
            assert isinstance(tested, AccountRefused)
            assert "must not be loopback; ask the operator" in tested.text
        await app.intake.submit("acme", [a_message("M1")])
        await _held(app)
        assert server.peers == []

        await app.accounts.put("acme", an_account(ttl=5.0), by_tenant=False)  # not the host: it stays the tenant's
        await _held(app)
        assert server.peers == []
        await app.accounts.put("acme", an_account(host="rebound.example"), by_tenant=False)
        assert isinstance(await app.account_tests.test("acme", "main", by_tenant=True), Probed)
        await eventually(lambda: any("DATA" in verbs for verbs in server.verbs), "the message goes out")
        app.stop()
        await running


async def test_what_is_seen_to_lead_inside_is_refused_at_once(settings: Settings) -> None:
    async with open_app(settings, "in this process") as app:
        await app.tenants.put(TenantIn(id="acme"))
        for host in INSIDE:
            with pytest.raises(Invalid, match="host: must not be"):
                await app.accounts.put("acme", an_account(host=host, port=25), by_tenant=True)
        for host in SPELLED:
            oauth = {
                "token_url": f"https://{host}/token",
                "client_id": "app",
                "client_secret": "s",
                "refresh_token": "r",
            }
            asked = an_account(host="smtp.example.com", port=25, user="u", auth="xoauth2", oauth=oauth)
            with pytest.raises(Invalid, match=r"oauth\.token_url: must not be"):
                await app.accounts.put("acme", asked, by_tenant=True)
            await app.accounts.put("acme", asked.model_copy(update={"id": "o"}), by_tenant=False)


async def _held(app: App) -> None:
    """Return once the account is on hold and its message waits again, with all its attempts."""
    for _ in range(500):
        details = await app.store.archive.message("acme", "M1")
        assert details is not None
        waits = (details.state, details.attempts) == (MessageState.READY, 0)
        if waits and await app.accounts.on_hold():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the account is not on hold, or its message does not wait")
