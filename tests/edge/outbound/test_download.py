"""Downloads: what is followed, with what, and what never is."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from mail_proxy.domain.secret import Secret
from mail_proxy.domain.tenant import ClientAuth, ClientAuthMethod
from mail_proxy.outbound.body import PIECE, BodyCorrupt, BodyOverflow, Decoder
from mail_proxy.outbound.client import Request, Response
from mail_proxy.outbound.download import DownloadClient, HttpDownloader
from mail_proxy.outbound.guard import Guarded, Trusted, parse_networks
from mail_proxy.outbound.resolver import AddressInfo, system_lookup
from mail_proxy.ports.attachments import Download, FetchFailed
from tests.support.callback_server import CallbackServer, Manner, Reply

BEARER = ClientAuth(ClientAuthMethod.BEARER, token=Secret("s3cr3t-canary"))
SPELLINGS = [  # of 127.0.0.2, and of all that leads to this machine
    *(
        "127.0.0.2",
        "127.2",
        "127.0.2",
        "2130706434",
        "017700000002",
        "0177.0.0.2",
        "0x7f.0.0.2",
        "0x7f000002",
        "0x7f.2",
    ),
    *("127.0.0.2.", "127。0。0。2", "１２７.0.0.2", "①②⑦.0.0.②", "127.0.0.%32", "0", "0.0.0.0"),  # noqa: S104 - asked for
    *("[::ffff:127.0.0.2]", "[::ffff:7f00:2]", "[0:0:0:0:0:ffff:7f00:0002]", "[::127.0.0.2]", "[64:ff9b::7f00:2]"),
    *("[2002:7f00:2::]", "[2001:0:7f00:2::]", "[::]", "[::1]", "[fe80::1%25lo]", "[::ffff:0:7f00:2]"),
    *("localhost", "localhost.", "inside.example", "rebound.example"),
    *(
        "user@127.0.0.2",
        "127.0.0.1@127.0.0.2",
        "127.0.0.1%40127.0.0.2",
        "127.0.0.1\\@127.0.0.2",
        "127.0.0.1#@127.0.0.2",
    ),
]


class Names:
    """Leads inside: `rebound` the second time that it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, host: str, port: int, family: int) -> Sequence[AddressInfo]:
        if host.startswith("inside"):
            host = "127.0.0.2"
        elif host.startswith("rebound"):
            self.asked += 1
            host = "127.0.0.1" if self.asked == 1 else "127.0.0.2"
        return system_lookup(host, port, family)


async def fetched(downloader: HttpDownloader, url: str, *, trusted: bool = False, auth: ClientAuth = BEARER) -> bytes:
    data = bytearray()

    async def write(piece: bytes) -> None:
        data.extend(piece)

    await downloader.download(Download(url, 5.0, 10_000, auth, trusted), write)
    return bytes(data)


@pytest.mark.parametrize("host", SPELLINGS)
async def test_no_spelling_and_no_redirect_to_it_leads_inside(server: CallbackServer, host: str) -> None:
    # 127.0.0.1 stands for a public server, 127.0.0.2 for one inside.
    public = Guarded(parse_networks(["127.0.0.1/32"]))
    async with (
        CallbackServer("127.0.0.2") as inside,
        DownloadClient(Trusted()) as trusted,
        DownloadClient(public, lookup=Names()) as guarded,
    ):
        downloader = HttpDownloader(trusted, guarded)
        url = f"http://{host}:{inside.port}/x?key=s3cr3t-canary"
        for scheme in (url, url.removeprefix("http:")):
            server.script(Reply(302, b"", {"Location": scheme.encode().decode("latin-1")}))
            with pytest.raises(FetchFailed) as failed:
                await fetched(downloader, server.url, auth=ClientAuth())
            assert "s3cr3t" not in failed.value.reason
        with pytest.raises(FetchFailed) as failed:
            await fetched(downloader, url)
        assert "s3cr3t" not in failed.value.reason
        assert inside.connections == 0


@pytest.mark.parametrize(
    "location",
    [
        "http://[",
        "//[::1",
        "http://127.0.0.1:99999/",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "\\\\127.0.0.1\\",
        "/a b",
    ],
)
async def test_a_redirect_to_what_is_no_url_to_fetch_fails_for_good(server: CallbackServer, location: str) -> None:
    server.script(Reply(302, b"", {"Location": location}))
    async with DownloadClient(Trusted()) as client:
        with pytest.raises(FetchFailed) as failed:
            await fetched(HttpDownloader(client, client), server.url)
    assert failed.value.permanent
    assert len(server.requests) == 1


async def test_where_an_operators_server_sends_on_to_is_guarded(server: CallbackServer) -> None:
    async with (
        CallbackServer("127.0.0.2") as other,
        DownloadClient(Trusted()) as trusted,
        DownloadClient(Guarded()) as guarded,
    ):
        downloader = HttpDownloader(trusted, guarded)
        server.script(Reply(302, b"", {"Location": "/here"}), Reply(200, b"data"))
        assert await fetched(downloader, server.url, trusted=True) == b"data"
        server.script(Reply(302, b"", {"Location": other.url}))
        with pytest.raises(FetchFailed, match="not allowed"):
            await fetched(downloader, server.url, trusted=True)
        assert other.connections == 0


@dataclass
class Scripted:
    """Stands for a client: redirects along its list, and keeps what it was asked."""

    locations: list[str]
    requests: list[Request] = field(default_factory=list)

    async def request(self, request: Request) -> Response:
        self.requests.append(request)
        if self.locations:
            return Response(302, {"location": self.locations.pop(0)}, b"")
        return Response(200, {}, b"")


@pytest.mark.parametrize(
    ("locations", "with_credentials"),
    [
        (["/b", "https://a.example:443/c"], [True, True, True]),
        (["http://a.example/b"], [True, False]),  # downgraded
        (["https://a.example:8443/b"], [True, False]),
        (["https://a.example./b"], [True, False]),
        (["https://b.example/", "https://a.example/c"], [True, False, False]),  # and back
        (["https://A.EXAMPLE/b"], [True, True]),
    ],
)
async def test_credentials_stay_with_their_origin(locations: list[str], with_credentials: list[bool]) -> None:
    client = Scripted(list(locations))
    await fetched(HttpDownloader(client, client), "https://a.example/a")  # type: ignore[arg-type]
    assert [bool(dict(each.headers).get("Authorization")) for each in client.requests] == with_credentials


async def test_a_length_that_is_too_much_is_not_waited_for(server: CallbackServer) -> None:
    server.script(Reply(body=b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\nx", manner=Manner.RAW))
    async with DownloadClient(Trusted()) as client:
        with pytest.raises(FetchFailed, match="longer than 10000 bytes") as failed:
            await fetched(HttpDownloader(client, client), server.url)
    assert failed.value.permanent


def test_decoding_gives_small_pieces_and_stops_at_the_cap() -> None:
    bomb = gzip.compress(bytes(10 * PIECE))
    assert [len(piece) for piece in Decoder("gzip", 10 * PIECE).feed(bomb)] == [PIECE] * 10
    sizes: list[int] = []
    with pytest.raises(BodyOverflow):
        sizes.extend(len(piece) for piece in Decoder("gzip", PIECE + 1).feed(bomb))
    for nested in ("gzip, gzip", "gzip,deflate", "br"):
        with pytest.raises(BodyCorrupt):
            Decoder(nested, 10)
    with pytest.raises(BodyOverflow):
        list(Decoder("gzip", 10_000_000).feed(gzip.compress(b"") * 1000))
    many = gzip.compress(b"x" * 2000) * 1000
    assert sum(map(len, Decoder("gzip", 10_000_000).feed(many))) == 2_000_000
