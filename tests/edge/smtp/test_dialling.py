"""From a host's name to a connection: each address is tried, and no name can take the service down."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from mail_proxy.domain.attempt import AccountRefused, HostFailed
from mail_proxy.smtp.dialling import address_literal, dial, is_loopback
from mail_proxy.smtp.pool import SmtpTransport
from tests.edge.smtp.conftest import SHORT
from tests.edge.smtp.making import Dots, account, envelope, wire
from tests.support.smtp_servers import Dialogue, scripted_server


@pytest.fixture
def resolver() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "localhost.", "127.0.0.1", "127.8.9.1", "::1", "[::1]"])
def test_names_of_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["", "0", "0.0.0.0", "example.com", "localhost.example.com", "10.0.0.1", "::", "127.1", "fe80::1"],  # noqa: S104
)
def test_names_that_may_lead_elsewhere(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("address", "literal"),
    [("192.0.2.1", "[192.0.2.1]"), ("2001:db8::1", "[IPv6:2001:db8::1]"), ("fe80::1%eth0", "[IPv6:fe80::1]")],
)
def test_an_address_as_ehlo_takes_it(address: str, literal: str) -> None:
    assert address_literal(address) == literal


async def test_the_address_of_the_connection_is_said_where_no_name_is_set() -> None:
    transport = SmtpTransport(timeouts=SHORT)
    async with scripted_server(Dialogue()) as server:
        assert (await transport.send(account(server.port), envelope(), wire(), Dots())).answers[0].accepted
        await transport.close()
    assert server.heard[0][0] == "EHLO [127.0.0.1]"


async def test_the_next_address_is_tried_when_one_refuses(
    resolver: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scripted_server(Dialogue()) as server:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            addresses = [closed.getsockname(), ("127.0.0.1", server.port)]
            found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
            with await dial("mail.example.com", 25, 5, resolver) as connected:
                assert connected.getpeername() == ("127.0.0.1", server.port)


async def test_a_name_that_is_not_known_is_the_hosts_failure(
    transport: SmtpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    attempt = await transport.send(account(25, host="nowhere.invalid"), envelope(), wire(), Dots())
    assert attempt.failure == HostFailed("connecting: the host's name was not resolved: Name or service not known")


async def test_a_name_server_that_hangs_is_given_up(
    resolver: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(*_: object, **__: object) -> list[object]:
        asyncio.run_coroutine_threadsafe(answer.wait(), loop).result()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    with pytest.raises((TimeoutError, asyncio.TimeoutError)):
        await dial("mail.example.com", 25, 0.05, resolver)
    answer.set()


@pytest.mark.parametrize("host", ["a" * 64 + ".example.com", "a..example.com", ".example.com"])
async def test_what_cannot_be_a_name_is_the_accounts_fault(transport: SmtpTransport, host: str) -> None:
    attempt = await transport.send(account(25, host=host), envelope(), wire(), Dots())
    assert attempt.failure == AccountRefused("connecting: the host is not a host name")
