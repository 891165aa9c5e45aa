"""The outbound client against servers that behave, and against those that don't."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gzip
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

import mail_proxy
from mail_proxy.outbound import errors
from mail_proxy.outbound.client import Limits, OutboundClient, Request, _translated, url_parts
from mail_proxy.outbound.errors import Broken, OutboundError, TimedOut, TooLong, Unreachable, Unusable
from mail_proxy.outbound.guard import Trusted
from tests.support.callback_server import CallbackServer, Manner, Reply

CANARY = "s3cr3t-canary"


def get(url: str, *, timeout: float = 5.0, max_bytes: int = 10_000) -> Request:
    return Request("GET", url, timeout, max_bytes)


async def test_status_headers_and_body_come_back(server: CallbackServer, trusted: OutboundClient) -> None:
    server.script(Reply(404, b"no", {"X-Why": "not here"}))
    response = await trusted.request(get(f"{server.url}/a/b?c=d"))
    assert (response.status, response.body, response.headers["x-why"]) == (404, b"no", "not here")
    (request,) = server.requests
    assert (request.method, request.path) == ("GET", "/a/b?c=d")
    assert request.headers["user-agent"] == f"genro-mail-proxy/{mail_proxy.__version__}"


async def test_method_headers_and_body_go_out(server: CallbackServer, trusted: OutboundClient) -> None:
    body = "ü".encode()
    await trusted.request(Request("POST", server.url, 5, 1000, (("X-Note", "hello"),), body))
    (request,) = server.requests
    assert (request.method, request.headers["x-note"], request.body) == ("POST", "hello", body)


async def test_a_body_of_many_megabytes_goes_out_whole(server: CallbackServer, trusted: OutboundClient) -> None:
    body = bytes(range(256)) * 12_000
    await trusted.request(Request("POST", server.url, 20, 1000, (), body))
    (request,) = server.requests
    assert request.body == body
    assert request.headers["content-length"] == str(len(body))


async def test_a_connection_is_used_again(server: CallbackServer, trusted: OutboundClient) -> None:
    for _ in range(5):
        await trusted.request(get(server.url))
    assert (len(server.requests), server.connections) == (5, 1)


async def test_redirects_are_not_followed(server: CallbackServer, trusted: OutboundClient) -> None:
    server.script(Reply(302, b"", {"Location": "/elsewhere"}))
    response = await trusted.request(get(server.url))
    assert (response.status, response.headers["location"]) == (302, "/elsewhere")
    assert len(server.requests) == 1


async def test_cookies_are_forgotten(server: CallbackServer, trusted: OutboundClient) -> None:
    url = f"http://localhost:{server.port}/"  # jars keep no cookies of plain addresses
    server.script(Reply(headers={"Set-Cookie": "session=1; Path=/"}))
    await trusted.request(get(url))
    await trusted.request(get(url))
    assert "cookie" not in server.requests[1].headers


async def test_proxies_and_netrc_of_the_environment_are_ignored(
    server: CallbackServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login someone password anything\n")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(netrc))
    async with OutboundClient(Trusted()) as client:
        assert (await client.request(get(server.url))).status == 200
    assert "authorization" not in server.requests[0].headers


async def test_a_compressed_answer_is_read_and_its_cap_counts_decoded_bytes(
    server: CallbackServer, trusted: OutboundClient
) -> None:
    server.by_default = Reply(body=gzip.compress(b"x" * 5000), headers={"Content-Encoding": "gzip"})
    assert (await trusted.request(get(server.url))).body == b"x" * 5000
    with pytest.raises(TooLong):
        await trusted.request(get(server.url, max_bytes=4999))


# Servers that don't behave


async def test_an_endless_body_is_cut_at_the_cap(server: CallbackServer, trusted: OutboundClient) -> None:
    server.script(Reply(503, b"x" * 65536, {"Retry-After": "7"}, manner=Manner.ENDLESS))
    with pytest.raises(TooLong) as caught:
        await trusted.request(get(server.url))
    assert (caught.value.status, caught.value.headers["retry-after"]) == (503, "7")
    assert (await trusted.request(get(server.url))).status == 200


@pytest.mark.parametrize(
    "reply",
    [
        Reply(manner=Manner.HANG),
        Reply(body=b"x" * 9000, manner=Manner.DRIP),
        Reply(delay=30),
        Reply(body=b"HTTP/1.1 100 Continue\r\n\r\n", manner=Manner.ENDLESS),
    ],
)
async def test_time_is_bounded_from_the_first_byte_to_the_last(
    server: CallbackServer, trusted: OutboundClient, reply: Reply
) -> None:
    server.script(reply)
    start = time.monotonic()
    with pytest.raises((TimedOut, TooLong)):
        await trusted.request(get(server.url, timeout=0.3))
    assert time.monotonic() - start < 3


@pytest.mark.parametrize(
    "reply",
    [
        Reply(manner=Manner.RESET),
        Reply(manner=Manner.CUT),
        Reply(body=b"", manner=Manner.RAW),
        Reply(body=b"hello\r\n", manner=Manner.RAW),
        Reply(body=b"HTTP/1.1 two hundred\r\n\r\n", manner=Manner.RAW),
        Reply(body=b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", manner=Manner.RAW),
        Reply(body=b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", manner=Manner.RAW),
        Reply(body=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", manner=Manner.RAW),
        Reply(body=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", manner=Manner.RAW),
        Reply(body=b"HTTP/1.1 200 OK\r\nbroken header\r\n\r\n", manner=Manner.RAW),
        Reply(body=b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", manner=Manner.RAW),
        Reply(body=b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000 + b"\r\n", manner=Manner.RAW),
        Reply(body=b"SSH-2.0-OpenSSH_9.9\r\n", manner=Manner.RAW),
        Reply(headers={"Content-Encoding": "br"}),
        Reply(headers={"Content-Encoding": "gzip"}),
    ],
)
async def test_what_is_not_a_whole_http_answer_is_broken(
    server: CallbackServer, trusted: OutboundClient, reply: Reply
) -> None:
    server.script(reply)
    with pytest.raises(Broken):
        await trusted.request(Request("POST", server.url, 5.0, 10_000))
    assert len(server.requests) == 1


_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("start", "again"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"),
        (b"", b"\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
        (_CHUNKED, b"0"),
        (_CHUNKED + b"5;", b"name=value;"),
        (_CHUNKED + b"5\r\nabcde\r\n0\r\n", b"X: y\r\n"),
        (_CHUNKED + b"5\r\nabcde\r\n0\r\nX: ", b"y"),
    ],
    ids=["100", "103", "blank lines", "headers", "header", "chunk size", "chunk extensions", "trailers", "trailer"],
)
async def test_what_never_comes_to_an_answer_is_given_up_after_a_few_kilobytes(
    trusted: OutboundClient, start: bytes, again: bytes
) -> None:
    """And long before its time is over: the event loop would have nothing else to do until then."""  # G11
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(start)
        with contextlib.suppress(ConnectionError):
            while sent < 50_000_000:
                writer.write(again * (8192 // len(again)))
                sent += 8192
                await writer.drain()
        writer.transport.abort()

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    async with server:
        with pytest.raises(Broken):
            await trusted.request(get(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", timeout=60))
    assert sent < 10_000_000  # what the sockets between hold, and a little more


async def test_a_few_interim_answers_are_passed_over(server: CallbackServer, trusted: OutboundClient) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\n" + b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 4
    server.script(Reply(body=interim + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", manner=Manner.RAW))
    assert (await trusted.request(get(server.url))).body == b"{}"


async def test_a_body_in_chunks_of_one_byte_is_read(server: CallbackServer, trusted: OutboundClient) -> None:
    server.script(Reply(body=_CHUNKED + b"1\r\nx\r\n" * 30_000 + b"0\r\n\r\n", manner=Manner.RAW))
    assert (await trusted.request(get(server.url, max_bytes=30_000))).body == b"x" * 30_000


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(), st.binary().map(lambda rest: b"HTTP/1.1 200 OK\r\n" + rest)))
def test_garbage_gives_an_answer_or_one_of_our_errors(garbage: bytes) -> None:
    async def try_it() -> None:
        async with CallbackServer() as server, OutboundClient(Trusted()) as client:
            server.script(Reply(body=garbage, manner=Manner.RAW))
            with contextlib.suppress(OutboundError):
                await client.request(get(server.url, timeout=2))

    asyncio.run(try_it())


async def test_a_port_where_nobody_listens_is_unreachable(trusted: OutboundClient) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(Unreachable, match="refused"):
            await trusted.request(get(f"http://127.0.0.1:{taken.getsockname()[1]}/{CANARY}"))


async def test_a_host_that_drops_packets_is_given_up_before_the_whole_time() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(address)
            async with OutboundClient(Trusted(), Limits(connect_timeout=0.2)) as client:
                with pytest.raises(Unreachable, match="does not take"):
                    await client.request(get(f"http://127.0.0.1:{address[1]}/", timeout=20))
        finally:
            for filler in fillers:
                filler.close()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64 + ".example", "a..b", "x" * 300])
async def test_a_name_without_address_is_unreachable(host: str) -> None:
    def lookup(name: str, port: int, family: int) -> list[tuple[object, ...]]:
        name.encode("idna")  # as the operating system's lookup does first
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with OutboundClient(Trusted(), lookup=lookup) as client:  # type: ignore[arg-type]
        with pytest.raises((Unreachable, Unusable)):
            await client.request(get(f"http://{host}/"))


async def test_a_name_server_that_hangs_costs_no_more_than_the_time_allowed() -> None:
    released = asyncio.Event()
    loop = asyncio.get_running_loop()
    done = asyncio.run_coroutine_threadsafe

    def lookup(name: str, port: int, family: int) -> list[tuple[object, ...]]:
        done(released.wait(), loop).result(20)
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    async with OutboundClient(Trusted(), lookup=lookup) as client:  # type: ignore[arg-type]
        with pytest.raises(TimedOut):
            await client.request(get("http://slow.example/", timeout=0.2))
        released.set()


async def test_one_host_that_hangs_leaves_connections_to_others(server: CallbackServer) -> None:
    limits = Limits(connections=4, connections_per_host=2)
    async with CallbackServer() as dead, OutboundClient(Trusted(), limits) as client:
        dead.by_default = Reply(manner=Manner.HANG)
        hanging = [asyncio.create_task(client.request(get(dead.url, timeout=5))) for _ in range(20)]
        await dead.wait_for(2)
        for _ in range(5):
            assert (await client.request(get(server.url, timeout=2))).status == 200
        assert dead.connections == 2
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)


async def test_a_client_whose_caller_keeps_the_number_down_has_no_bound_of_its_own(server: CallbackServer) -> None:
    async with CallbackServer() as dead, OutboundClient(Trusted(), Limits(0, 0)) as client:
        dead.by_default = Reply(manner=Manner.HANG)
        hanging = [asyncio.create_task(client.request(get(dead.url, timeout=20))) for _ in range(300)]
        await dead.wait_for(300)
        assert (await client.request(get(server.url))).status == 200
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)


# TLS


def _self_signed(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "certificate.pem", folder / "key.pem"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file


async def test_a_certificate_is_checked_against_those_that_are_trusted(tmp_path: Path) -> None:
    certificate, key = _self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    async with CallbackServer("localhost", context) as server:
        async with OutboundClient(Trusted(), tls=ssl.create_default_context(cafile=certificate)) as client:
            assert (await client.request(get(server.url))).status == 200
            with pytest.raises(Unreachable, match="certificate"):  # the name is not in it
                await client.request(get(f"https://127.0.0.1:{server.port}/"))
        async with OutboundClient(Trusted()) as client:
            with pytest.raises(Unreachable, match="certificate"):
                await client.request(get(server.url))
    assert len(server.requests) == 1


async def test_tls_to_a_port_that_speaks_none_is_unreachable(server: CallbackServer, trusted: OutboundClient) -> None:
    server.by_default = Reply(body=b"HTTP/1.1 400 Bad Request\r\n\r\n", manner=Manner.RAW)
    with pytest.raises(OutboundError):
        await trusted.request(get(f"https://127.0.0.1:{server.port}/"))


# What must not be sent


@pytest.mark.parametrize(
    "url",
    [
        "",
        "acme.example/path",
        "//acme.example/",
        "ftp://acme.example/",
        "file:///etc/passwd",
        "gopher://acme.example/",
        "javascript:alert(1)",
        "http://",
        "http:///path",
        "http://:80/",
        "http://user:pw@acme.example/",
        "http://user@acme.example/",
        "http://@acme.example/",
        "http://acme.example:0/",
        "http://acme.example:99999/",
        "http://acme.example:x/",
        "http://acme .example/",
        "http://acme.example/\r\nHost: other",
        "http://acme.example\\@other.example/",
        "http://acme.example/\x00",
        "http://acme.example/\ud800",
        "http://[::1/",
        "http://[not-an-address]/",
        "http://acme.example/" + "x" * 8000,
    ],
)
async def test_an_unusable_url_is_refused_before_anything_is_sent(trusted: OutboundClient, url: str) -> None:
    with pytest.raises(Unusable) as caught:
        await trusted.request(get(url))
    assert "pw" not in str(caught.value)


def test_scheme_and_host_may_be_in_capitals() -> None:
    assert url_parts("HTTPS://ACME.example/x").hostname == "acme.example"


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb", "a\x00b", "a\x7fb", "\ud800"])
async def test_a_header_that_would_break_out_is_refused(
    server: CallbackServer, trusted: OutboundClient, value: str
) -> None:
    with pytest.raises(Unusable, match="Authorization"):
        await trusted.request(Request("GET", server.url, 5, 100, (("Authorization", value),)))
    with pytest.raises(Unusable):
        await trusted.request(Request("GET", server.url, 5, 100, ((value, "x"),)))
    assert server.requests == []


# Errors


@pytest.mark.parametrize(
    "reply",
    [
        Reply(manner=Manner.RESET),
        Reply(manner=Manner.CUT),
        Reply(manner=Manner.HANG),
        Reply(body=b"x" * 5000, manner=Manner.ENDLESS),
        Reply(body=b"nonsense", manner=Manner.RAW),
        Reply(headers={"Content-Encoding": "gzip"}),
    ],
)
async def test_errors_show_no_secrets(server: CallbackServer, trusted: OutboundClient, reply: Reply) -> None:
    server.script(reply)
    headers = (("Authorization", f"Bearer {CANARY}"),)
    url = f"{server.url}/{CANARY}?token={CANARY}"
    with pytest.raises(OutboundError) as caught:
        await trusted.request(Request("POST", url, 0.3, 1000, headers, CANARY.encode()))
    assert CANARY not in str(caught.value) + repr(caught.value)
    assert caught.value.__suppress_context__


def _all_client_errors(kind: type[aiohttp.ClientError]) -> set[type[aiohttp.ClientError]]:
    return {kind}.union(*(_all_client_errors(each) for each in kind.__subclasses__()))


@pytest.mark.parametrize("kind", sorted(_all_client_errors(aiohttp.ClientError), key=str))
def test_each_error_of_the_library_becomes_one_of_ours(kind: type[aiohttp.ClientError]) -> None:
    error = kind.__new__(kind)
    cause = OSError(111, "Connection refused")
    for name in ("os_error", "_os_error", "certificate_error", "_certificate_error"):
        _try_to_set(error, name, cause)
    ours = _translated(error, "acme.example")
    assert isinstance(ours, OutboundError)
    assert type(ours) in vars(errors).values()
    assert "acme.example" in str(ours)


def _try_to_set(error: Exception, name: str, value: object) -> None:
    setter: Callable[[str, object], None] = error.__setattr__
    try:
        setter(name, value)
    except AttributeError:
        assert hasattr(type(error), name)  # a property over another of these names
