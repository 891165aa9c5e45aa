"""Access tokens from a real token server over a real store: asked for once, kept, replaced, and never lost."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote_plus

import pytest
from typing_extensions import override

from mail_proxy.domain.account import Account, AuthMethod
from mail_proxy.domain.attempt import AccountRefused, HostFailed, Step
from mail_proxy.domain.errors import StoreUnavailable
from mail_proxy.domain.oauth import LONGEST_TOKEN, OAuth
from mail_proxy.domain.secret import Secret
from mail_proxy.domain.tenant import Tenant
from mail_proxy.outbound.access_tokens import RefreshedTokens
from mail_proxy.outbound.client import OutboundClient
from mail_proxy.outbound.guard import Guarded, Trusted
from mail_proxy.outbound.resolver import AddressInfo
from mail_proxy.store.directory import StoreDirectory
from mail_proxy.store.opening import database_url
from mail_proxy.store.store import Store
from tests.support.callback_server import CallbackServer, Manner, Reply
from tests.support.certificates import create_authority
from tests.support.stores import SetClock, open_test_store

SECRET, FIRST = "canary/client-secret", "canary-refresh-1"
Token = Secret | HostFailed | AccountRefused


def granted(token: str = "T1", **fields: Any) -> Reply:
    body = {"access_token": token, "token_type": "Bearer", "expires_in": 3600, **fields}
    return Reply(200, json.dumps(body).encode())


def refused(word: object, description: object = None, status: int = 400) -> Reply:
    return Reply(status, json.dumps({"error": word, "error_description": description}).encode())


@dataclass
class Bench:
    """One instance's tokens, a token server, and the account that uses both."""

    store: Store
    clock: SetClock
    server: CallbackServer
    tokens: RefreshedTokens
    trusted: OutboundClient
    guarded: OutboundClient
    account: Account
    lookups: list[str] = field(default_factory=list)

    @property
    def used(self) -> list[str]:
        """The refresh token of each question."""
        return [parse_qs(request.body.decode())["refresh_token"][0] for request in self.server.requests]

    async def stored(self) -> OAuth:
        await self.store.directory.refresh()
        account = await self.store.directory.account(self.account.pk)
        assert account is not None
        assert account.oauth is not None
        return account.oauth

    async def ask(self, **options: Any) -> Token:
        return await self.tokens.token(self.account, **options)

    def another(self, **options: Any) -> RefreshedTokens:
        """Tokens of another instance, or of this one after a restart."""
        directory = self.store.directory
        return RefreshedTokens(self.trusted, self.guarded, directory, directory, self.clock, **options)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with opened_bench(tmp_path) as opened:
        yield opened


@asynccontextmanager
async def opened_bench(folder: Path) -> AsyncIterator[Bench]:
    clock = SetClock()
    store = await open_test_store(database_url(str(folder / "mail_service.db")), clock=clock)
    lookups: list[str] = []

    def look_up(host: str, port: int, _family: int) -> Sequence[AddressInfo]:
        lookups.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    async with (
        CallbackServer() as server,
        OutboundClient(Trusted()) as trusted,
        OutboundClient(Guarded(), lookup=look_up) as guarded,
    ):
        oauth = OAuth(f"{server.url}/token", "app", Secret(SECRET), Secret(FIRST), "g1", "mail.send")
        await store.directory.put_tenant(Tenant("acme"), None)
        account = await store.directory.put_account(
            Account(0, "acme", "main", "smtp.example.com", 587, user="u", oauth=oauth, auth=AuthMethod.XOAUTH2)
        )
        directory = store.directory
        tokens = RefreshedTokens(trusted, guarded, directory, directory, clock)
        server.by_default = granted()
        yield Bench(store, clock, server, tokens, trusted, guarded, account, lookups)
        await tokens.close()
    await store.close()


async def test_however_many_ask_the_server_is_asked_once_until_shortly_before_the_end(bench: Bench) -> None:
    assert set(await asyncio.gather(*(bench.ask() for _ in range(20)))) == {Secret("T1")}
    (request,) = bench.server.requests
    assert (request.method, request.path) == ("POST", "/token")
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert parse_qs(request.body.decode()) == {
        "grant_type": ["refresh_token"],
        "refresh_token": [FIRST],
        "client_id": ["app"],
        "client_secret": [SECRET],
        "scope": ["mail.send"],
    }
    bench.clock.time += 3539
    assert await bench.ask() == Secret("T1")
    bench.server.by_default = granted("T2", expires_in="100")  # some servers send text
    bench.clock.time += 1
    assert await bench.ask() == Secret("T2")
    bench.clock.time += 91
    await bench.ask()
    assert len(bench.server.requests) == 3


async def test_secrets_go_to_a_token_server_with_a_valid_certificate_only(bench: Bench, tmp_path: Path) -> None:
    authority = create_authority(tmp_path)
    directory, trusting = bench.store.directory, ssl.create_default_context(cafile=str(authority.path))
    async with (
        CallbackServer(tls=authority.server_context("127.0.0.1")) as server,
        OutboundClient(Trusted(), tls=trusting) as client,
    ):
        server.by_default = granted()
        oauth = replace(await bench.stored(), token_url=f"{server.url}/token")
        account = await directory.put_account(replace(bench.account, oauth=oauth))
        distrusted = await bench.tokens.token(account)
        assert isinstance(distrusted, HostFailed)
        assert "certificate" in distrusted.text
        assert server.requests == []
        tokens = RefreshedTokens(client, bench.guarded, directory, directory, bench.clock)
        assert await tokens.token(account) == Secret("T1")


async def test_a_token_that_was_not_taken_is_asked_for_once_by_all_who_met_that(bench: Bench) -> None:
    first = await bench.ask()
    bench.server.by_default = granted("T2")
    assert isinstance(first, Secret)
    assert set(await asyncio.gather(*(bench.ask(refused=first) for _ in range(5)))) == {Secret("T2")}
    assert await bench.ask(refused=first) == Secret("T2")
    assert len(bench.server.requests) == 2


async def test_a_new_refresh_token_is_written_down_and_used_from_then_on(bench: Bench) -> None:
    bench.server.script(granted(refresh_token="R2"), granted(refresh_token="R3"))
    assert await bench.ask() == Secret("T1")
    assert (await bench.stored()).refresh_token == Secret("R2")
    assert await bench.another().token(bench.account) == Secret("T1")  # its snapshot is older
    assert bench.used == [FIRST, "R2"]
    assert (await bench.stored()).refresh_token == Secret("R3")


async def test_a_question_whose_asker_has_gone_is_ended_and_its_new_refresh_token_kept(bench: Bench) -> None:
    bench.server.script(replace(granted(refresh_token="R2"), delay=0.05))
    asking = asyncio.ensure_future(bench.ask())
    await bench.server.wait_for(1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await bench.tokens.close()
    assert (await bench.stored()).refresh_token == Secret("R2")


async def test_a_change_of_something_else_does_not_bring_the_old_refresh_token_back(bench: Bench) -> None:
    snapshot = await bench.store.directory.account(bench.account.pk)
    assert snapshot is not None
    bench.server.script(granted(refresh_token="R2"))
    await bench.ask()
    await bench.store.directory.put_account(replace(snapshot, ttl=5.0), snapshot)
    assert (await bench.stored()).refresh_token == Secret("R2")


async def test_what_somebody_gives_meanwhile_is_not_replaced_by_a_late_answer(bench: Bench) -> None:
    bench.server.script(replace(granted(refresh_token="R2"), delay=0.05))
    asking = asyncio.ensure_future(bench.ask())
    await bench.server.wait_for(1)
    given = replace(await bench.stored(), refresh_token=Secret("given"), grant="g2")
    await bench.store.directory.put_account(replace(bench.account, oauth=given))
    assert await asking == Secret("T1")
    assert (await bench.stored()).refresh_token == Secret("given")
    outdated = await bench.another().token(bench.account)
    assert isinstance(outdated, HostFailed)
    assert outdated.shared
    assert await bench.another().token(replace(bench.account, oauth=given)) == Secret("T1")
    assert bench.used == [FIRST, "given"]


async def test_a_refresh_token_that_another_instance_had_replaced_is_no_reason_for_a_hold(bench: Bench) -> None:
    @dataclass(slots=True)
    class Meanwhile(SetClock):
        """While this instance waits, another one writes down what it was given."""

        @override
        async def sleep(self, seconds: float) -> None:
            await bench.store.directory.replace_refresh_token(bench.account.pk, await bench.stored(), Secret("R2"))

    bench.server.script(refused("invalid_grant"), granted("T9"))
    directory = bench.store.directory
    tokens = RefreshedTokens(bench.trusted, bench.guarded, directory, directory, Meanwhile(), alone=False)
    assert await tokens.token(bench.account) == Secret("T9")
    assert bench.used == [FIRST, "R2"]


class Away(StoreDirectory):
    """A directory whose database goes away for one write."""

    gone = True

    @override
    async def replace_refresh_token(self, account_pk: int, used: OAuth, fresh: Secret) -> bool:
        if self.gone:
            raise StoreUnavailable("the database is away")
        return await super().replace_refresh_token(account_pk, used, fresh)


async def test_a_new_refresh_token_outlasts_a_database_that_is_away(bench: Bench, monkeypatch: Any) -> None:
    monkeypatch.setattr(bench.store.directory, "__class__", Away)
    bench.server.script(granted(refresh_token="R2"))
    with pytest.raises(StoreUnavailable):
        await bench.ask()
    monkeypatch.setattr(Away, "gone", False)
    assert await bench.ask() == Secret("T1")
    assert (len(bench.server.requests), (await bench.stored()).refresh_token) == (1, Secret("R2"))


HOLDING = {
    "a revoked consent": (refused("invalid_grant", "Token has been \x1b[2J revoked."), "invalid_grant: Token has been"),
    "a wrong client": (refused("invalid_client", status=401), "invalid_client"),
    "a scope that is not granted": (refused("invalid_scope", {"not": "text"}), "invalid_scope"),
    "secrets that come back": (refused("invalid_request", f"{SECRET} and {FIRST}"), "******** and ********"),
    "what was said": (refused("invalid_request", f"client_secret={quote_plus(SECRET)}"), "client_secret=********"),
}
TEMPORARY = {
    "500": Reply(500, b'{"error": "invalid_grant"}'),
    "503": Reply(503, b"<html>"),
    "429": refused("invalid_grant", status=429),
    "400 without a word": Reply(400, b"bad"),
    "a word that is none": refused(["invalid_grant"]),
    "a word for later": refused("temporarily_unavailable"),
    "a redirect": Reply(302, headers={"Location": "/elsewhere"}),
    "no JSON": Reply(200, b"hello"),
    "no object": Reply(200, b"[]"),
    "deep JSON": Reply(200, b"[" * 60_000),
    "no token": granted(None),  # type: ignore[arg-type]
    "a token with a line break": granted("T\r\nQUIT"),
    "an endless token": granted("T" * (LONGEST_TOKEN + 1)),
    "another type": granted(token_type="mac"),
    "a life that is none": granted(expires_in=True),
    "a life before now": granted(expires_in=-1),
    "a refresh token that is none": granted(refresh_token=5),
    "megabytes": Reply(200, b" " * 65536, manner=Manner.ENDLESS),
    "a reset": Reply(manner=Manner.RESET),
    "no HTTP": Reply(body=b"220 smtp.example.com ESMTP\r\n", manner=Manner.RAW),
    "nothing": Reply(manner=Manner.HANG),
}


async def test_what_the_server_refuses_holds_and_what_it_cannot_say_is_temporary(bench: Bench) -> None:
    for name, (reply, words) in HOLDING.items():
        bench.server.script(reply)
        outcome = await bench.ask()
        assert isinstance(outcome, AccountRefused), name
        assert words in outcome.text, name
        assert outcome.text.isprintable(), name
        assert not any(secret in outcome.text for secret in (SECRET, FIRST)), name
    for name, reply in TEMPORARY.items():
        bench.tokens.timeout = 0.1 if name == "nothing" else 10
        bench.server.script(reply)
        failed = await bench.ask()
        assert isinstance(failed, HostFailed), name
        assert (failed.shared, failed.step) == (True, Step.TOKEN), name  # no message pays for it
    assert len(bench.server.requests) == len(HOLDING) + len(TEMPORARY)
    assert await bench.ask() == Secret("T1")


INSIDE = [
    "localhost",
    "127.0.0.1",
    "127.1",
    "0177.0.0.1",
    "0x7f000001",
    "2130706433",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "rebound.example",
]


async def test_a_token_server_inside_the_network_is_not_reached_for_a_tenant(bench: Bench) -> None:
    oauth = await bench.stored()
    for host in INSIDE:
        inside = replace(oauth, token_url=f"http://{host}:{bench.server.port}/token")
        by_tenant = replace(bench.account, oauth=inside, token_url_by_tenant=True)
        outcome = await bench.tokens.token(await bench.store.directory.put_account(by_tenant))
        assert isinstance(outcome, AccountRefused), host
        assert "is not allowed" in outcome.text, host
    assert bench.server.connections == 0
    assert "rebound.example" in bench.lookups
    by_operator = replace(bench.account, oauth=replace(oauth, token_url=f"http://localhost:{bench.server.port}/token"))
    assert await bench.tokens.token(await bench.store.directory.put_account(by_operator)) == Secret("T1")
