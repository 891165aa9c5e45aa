"""Guarded requests: whatever the spelling, the name or the name server, nothing inside is reached."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Sequence

import pytest

from mail_proxy.outbound.client import OutboundClient, Request
from mail_proxy.outbound.errors import Blocked, OutboundError
from mail_proxy.outbound.guard import Guarded, Trusted, parse_networks
from mail_proxy.outbound.resolver import AddressInfo, AddressRefused, GuardedResolver
from tests.support.callback_server import CallbackServer


def get(url: str) -> Request:
    return Request("GET", url, 5.0, 10_000)


def info(address: str, port: int) -> AddressInfo:
    if ":" in address:
        return socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port, 0, 0)
    return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port)


class Names:
    """A name server that answers from a script, and the last answer from then on."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = itertools.chain(answers, itertools.repeat(answers[-1]))
        self.asked = 0

    def __call__(self, host: str, port: int, family: int) -> Sequence[AddressInfo]:
        self.asked += 1
        return [info(address, port) for address in next(self._answers)]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.2",
        "127.1",
        "127.0.1",
        "2130706433",
        "017700000001",
        "0177.0.0.1",
        "0177.0.0.01",
        "0x7f.0.0.1",
        "0x7f000001",
        "0x7f.1",
        "127.0.0.1.",
        "0.0.0.0",  # noqa: S104 - leads to this machine
        "0",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[fe80::1%25lo]",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "①②⑦.0.0.1",
        "127。0。0。1",
        "%31%32%37.0.0.1",
    ],
)
async def test_no_spelling_of_this_machine_is_reached(
    server: CallbackServer, guarded: OutboundClient, host: str
) -> None:
    with pytest.raises(OutboundError):
        await guarded.request(get(f"http://{host}:{server.port}/"))
    assert server.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "127.1", "localhost", "[::ffff:127.0.0.1]"])
async def test_the_refusal_is_said(server: CallbackServer, guarded: OutboundClient, host: str) -> None:
    with pytest.raises(Blocked, match="is not allowed"):
        await guarded.request(get(f"http://{host}:{server.port}/"))


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.0.0.1", "169.254.169.254"])
async def test_a_name_that_leads_inside_is_refused(server: CallbackServer, address: str) -> None:
    async with OutboundClient(Guarded(), lookup=Names([address])) as client:
        with pytest.raises(Blocked, match=r"evil\.example:\d+ is not allowed"):
            await client.request(get(f"http://evil.example:{server.port}/"))
    assert server.connections == 0


async def test_the_resolver_gives_only_what_may_be_reached() -> None:
    resolver = GuardedResolver(
        Guarded(), Names(["127.0.0.1", "8.8.8.8", "fe80::1", "2606:4700::1111"], ["10.0.0.1"], [])
    )
    assert [each["host"] for each in await resolver.resolve("mixed.example", 80)] == ["8.8.8.8", "2606:4700::1111"]
    with pytest.raises(AddressRefused, match="private"):
        await resolver.resolve("inside.example", 80)
    with pytest.raises(socket.gaierror):
        await resolver.resolve("nothing.example", 80)
    await resolver.close()


async def test_of_several_addresses_only_the_public_ones_are_tried(server: CallbackServer) -> None:
    # 192.0.2.1 stands for a public address that leads nowhere; it is allowed so that it is tried at all.
    policy = Guarded(parse_networks(["192.0.2.1"]))
    async with OutboundClient(policy, lookup=Names(["127.0.0.1", "192.0.2.1", "::1"])) as client:
        with pytest.raises(OutboundError):
            await client.request(Request("GET", f"http://evil.example:{server.port}/", 0.5, 100))
    assert server.connections == 0


async def test_a_name_that_leads_elsewhere_the_second_time_is_refused_then(server: CallbackServer) -> None:
    # The first address stands for a public one. Whichever lookup a connection is made from, its address is checked.
    policy = Guarded(parse_networks(["127.0.0.1"]))
    async with CallbackServer("127.0.0.2") as inside:
        names = Names(["127.0.0.1"], ["127.0.0.2"])
        async with OutboundClient(policy, lookup=names) as client:
            first = await client.request(get(f"http://evil.example:{server.port}/"))
            with pytest.raises(Blocked):
                await client.request(get(f"http://evil.example:{inside.port}/"))
        assert first.status == 200
        assert names.asked == 2
        assert inside.connections == 0


async def test_the_socket_is_guarded_even_if_a_lookup_lets_something_through(
    server: CallbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mail_proxy.outbound.resolver.refusal", lambda address, policy: None)
    async with OutboundClient(Guarded(), lookup=Names(["127.0.0.1"])) as client:
        with pytest.raises(Blocked, match="loopback"):
            await client.request(get(f"http://evil.example:{server.port}/"))
    async with OutboundClient(Guarded(), lookup=Names(["127.0.0.1", "::1", "127.0.0.1"])) as client:
        with pytest.raises(OutboundError):
            await client.request(get(f"http://evil.example:{server.port}/"))
    assert server.connections == 0


async def test_a_literal_is_guarded_at_the_socket_as_well(
    server: CallbackServer, guarded: OutboundClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def only_at_the_socket(address: str, policy: object) -> str | None:
        seen.append(address)
        return None if len(seen) == 1 else "loopback"

    monkeypatch.setattr("mail_proxy.outbound.client.refusal", only_at_the_socket)
    with pytest.raises(Blocked, match="loopback"):
        await guarded.request(get(server.url))
    assert seen == ["127.0.0.1", "127.0.0.1"]
    assert server.connections == 0


async def test_a_guarded_client_does_not_use_a_connection_of_a_trusted_one(
    server: CallbackServer, trusted: OutboundClient, guarded: OutboundClient
) -> None:
    assert (await trusted.request(get(server.url))).status == 200
    with pytest.raises(Blocked):
        await guarded.request(get(server.url))
    assert len(server.requests) == 1


async def test_allowed_networks_are_reached_and_their_neighbours_are_not(server: CallbackServer) -> None:
    async with (
        CallbackServer("127.0.0.2") as neighbour,
        OutboundClient(Guarded(parse_networks(["127.0.0.1/32"]))) as client,
    ):
        assert (await client.request(get(server.url))).status == 200
        with pytest.raises(Blocked):
            await client.request(get(neighbour.url))
        assert neighbour.connections == 0


async def test_a_trusted_client_reaches_this_machine_by_address_and_by_name(server: CallbackServer) -> None:
    async with OutboundClient(Trusted()) as client:
        assert (await client.request(get(server.url))).status == 200
        assert (await client.request(get(f"http://localhost:{server.port}/"))).status == 200
