"""What an HTTP connection may send and how long it may take, on real sockets, before a small application."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import ANY

import pytest

from mail_proxy.domain.client_network import client_network
from mail_proxy.runtime import http_connection, http_places
from mail_proxy.runtime.http_server import HttpServer, listening_socket
from tests.support.instance import eventually

POST = b"POST / HTTP/1.1\r\nhost: x\r\n"
GET = b"GET / HTTP/1.1\r\nhost: x\r\n"
MEGABYTES = 2_000_000
LONG_ANSWER = b"x" * 30_000_000


@dataclass(slots=True)
class Peer:
    """A client that says exactly what it is told to."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    ids: list[str] = field(default_factory=list)
    """Of the answers so far that the connection itself gave."""

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        try:
            await self.writer.drain()
        except ConnectionError:
            return  # what was answered is there all the same

    async def rest(self) -> bytes:
        """Return all that comes until the other side closes, in good order or not."""
        found = b""
        try:
            while more := await asyncio.wait_for(self.reader.read(2**20), 20):
                found += more
        except ConnectionError:
            pass
        return found

    async def answer(self) -> tuple[int, dict[str, Any]]:
        """Return status and body of one answer; a failure has an id, which is kept."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 20)
        self.ids += [line[14:].decode() for line in head.split(b"\r\n") if line.startswith(b"x-request-id: ")]
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return int(head[9:12]), json.loads(await self.reader.readexactly(length))


@dataclass(slots=True)
class Served:
    port: int
    requests: list[str]
    held: asyncio.Event
    """Requests for /held are answered when it is set."""
    holding: asyncio.Event
    """Set when there is one."""
    told: list[tuple[str | None, str, str]]
    """Where requests came from that were refused, the codes and the ids of their answers."""

    @asynccontextmanager
    async def peer(self, limit: int = 2**16, address: str = "127.0.0.1") -> AsyncIterator[Peer]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=limit, local_addr=(address, 0))
        try:
            yield Peer(reader, writer)
        finally:
            writer.close()

    async def asked(self, data: bytes) -> tuple[int, str | None]:
        """Return status and code of the answer to these bytes, sent as long as they are taken."""
        async with self.peer() as peer:
            talking = asyncio.ensure_future(peer.say(data))
            try:
                status, body = await peer.answer()
            finally:
                talking.cancel()
            return status, body.get("code")


@asynccontextmanager
async def serving(limit: int = 100) -> AsyncIterator[Served]:
    held, holding = asyncio.Event(), asyncio.Event()
    requests: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        requests.append(scope["path"])
        body = b'{"ok":true}'
        if scope["path"] == "/held":
            holding.set()
            await held.wait()
        if scope["path"] == "/long":
            body = LONG_ANSWER
        while scope["path"] != "/unread" and (event := await receive()).get("more_body", False):
            pass
        if scope["path"] != "/unread" and event["type"] == "http.disconnect":
            return
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    told: list[tuple[str | None, str, str]] = []

    def hear(address: str | None, code: str, request_id: str) -> None:
        told.append((address, code, request_id))

    listening = listening_socket("127.0.0.1", 0)
    port = listening.getsockname()[1]
    server, started = HttpServer(application, listening, limit, hear), asyncio.Event()
    running = asyncio.ensure_future(server.run(started.set))
    await started.wait()
    try:
        yield Served(port, requests, held, holding, told)
    finally:
        held.set()
        server.stop()
        await running


def chunked(framing: bytes) -> bytes:
    return POST + b"transfer-encoding: chunked\r\n\r\n" + framing


HOSTILE: dict[str, tuple[bytes, int, str]] = {
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20, 400, "bad_request"),
    "NUL in the path": (b"GET /a\0b HTTP/1.1\r\nhost: x\r\n\r\n", 400, "bad_request"),
    "a path that is no ASCII": ("GET /é HTTP/1.1\r\nhost: x\r\n\r\n".encode(), 400, "bad_request"),
    "a control character in a header": (GET + b"a: b\0c\r\n\r\n", 400, "bad_request"),
    "a header in two lines": (GET + b"a: b\r\n c\r\n\r\n", 400, "bad_request"),
    "a space before the colon": (GET + b"a : b\r\n\r\n", 400, "bad_request"),
    "two lengths": (POST + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}x", 400, "bad_request"),
    "a length and chunks": (POST + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n", 400, "bad_request"),
    "a negative length": (POST + b"content-length: -2\r\n\r\n{}", 400, "bad_request"),
    "a length beyond all": (POST + b"content-length: " + b"9" * 30 + b"\r\n\r\n{}", 400, "bad_request"),
    "an unknown coding": (POST + b"transfer-encoding: xchunked\r\n\r\n", 400, "bad_request"),
    "two codings": (POST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400, "bad_request"),
    "a coding twice": (POST + b"transfer-encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n", 400, "bad_request"),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400, "bad_request"),
    "two hosts": (GET + b"Host: y\r\n\r\n", 400, "bad_request"),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\nhost: x\r\n\r\n", 400, "bad_request"),
    "a chunk without a size": (chunked(b"zz\r\n"), 400, "bad_request"),
    "a tunnel": (b"CONNECT x:25 HTTP/1.1\r\nhost: x\r\n\r\n", 400, "bad_request"),
    "a URL of megabytes": (b"GET /" + b"a" * MEGABYTES, 414, "url_too_long"),
    "a header of megabytes": (GET + b"a: " + b"b" * MEGABYTES, 431, "headers_too_large"),
    "a name of megabytes": (GET + b"a" * MEGABYTES, 431, "headers_too_large"),
    "thousands of headers": (GET + b"a: b\r\n" * 10_000, 431, "headers_too_large"),
    "a token of megabytes": (GET + b"X-API-Token: " + b"t" * MEGABYTES, 401, "unauthorized"),
    "a bearer token of megabytes": (GET + b"a: b\r\nAuthorization: Bearer " + b"t" * MEGABYTES, 401, "unauthorized"),
    "a token of some kilobytes": (GET + b"x-api-token: " + b"t" * 70_000 + b"\r\n\r\n", 401, "unauthorized"),
    "empty lines without end": (b"\r\n" * MEGABYTES, 431, "headers_too_large"),
    "a chunk extension of megabytes": (chunked(b"1;" + b"a" * MEGABYTES), 431, "headers_too_large"),
    "thousands of trailers": (chunked(b"1\r\n{\r\n0\r\n" + b"a: b\r\n" * 10_000), 431, "headers_too_large"),
    "a trailer of megabytes": (chunked(b"1\r\n{\r\n0\r\na: " + b"b" * MEGABYTES), 431, "headers_too_large"),
}


async def test_what_is_no_bearable_request_is_answered_in_our_words_and_the_next_client_is_served() -> None:
    async with serving() as served:
        for name, (data, status, code) in HOSTILE.items():
            assert await served.asked(data) == (status, code), name
        assert await served.asked(GET + b"\r\n") == (200, None)
        assert [code for _, code, _ in served.told] == [code for _, _, code in HOSTILE.values()]


async def test_each_refusal_has_an_id_of_its_own_and_is_told_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "HEAD_PATIENCE", 0.2)
    refused = {
        "bad_request": b"garbage\r\n\r\n",
        "timeout": GET,
        "url_too_long": b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        "headers_too_large": GET + b"a: b\r\n" * 101 + b"\r\n",
    }
    ids = []
    async with serving() as served:
        for code, data in refused.items():
            async with served.peer() as peer:
                await peer.say(data)
                assert (await peer.answer())[1]["code"] == code
                (request_id,) = peer.ids
                ids.append(request_id)
        assert served.told == [("127.0.0.1", code, each) for code, each in zip(refused, ids, strict=True)]
    assert all(len(each) == 32 and each.isalnum() for each in ids)
    assert len(set(ids)) == len(ids)


async def test_an_answer_beyond_the_limit_has_an_id_and_is_not_told_as_a_mistake() -> None:
    mine = GET + b"X-Request-ID: mine\r\n\r\n"
    async with serving(limit=1) as served, served.peer() as one:
        await one.say(b"GET /held HTTP/1.1\r\nhost: x\r\n\r\n")
        await asyncio.wait_for(served.holding.wait(), 20)
        async with served.peer() as two, served.peer() as three:
            await two.say(mine)
            await three.say(GET + b"\r\n")
            for peer in (two, three):
                assert (await peer.answer())[1]["code"] == "too_many_connections"
            assert two.ids == ["mine"]
            assert len(three.ids[0]) == 32
        assert served.told == []


async def test_one_that_gives_way_unasked_has_an_id_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_places, "HEAD_SHORT", 0.0)
    async with serving(limit=1) as served, served.peer() as one:
        await one.say(GET)
        assert await served.asked(GET + b"\r\n") == (200, None)
        assert (await one.answer())[1]["code"] == "too_many_connections"
        assert len(one.ids[0]) == 32


async def test_what_is_odd_but_right_is_served() -> None:
    odd = {
        "absolute": b"GET http://elsewhere.example/ HTTP/1.1\r\nhost: x\r\n\r\n",
        "HTTP/1.0": b"GET / HTTP/1.0\r\n\r\n",
        "escapes that are none": b"GET /%zz%00%ff HTTP/1.1\r\nhost: x\r\n\r\n",
        "an upgrade": GET + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n",
        "chunks of a byte": chunked(b"1\r\nx\r\n" * 50_000 + b"0\r\n\r\n"),
        "trailers": chunked(b"1\r\nx\r\n0\r\nx-api-token: t\r\n\r\n"),
    }
    async with serving() as served:
        for name, data in odd.items():
            assert await served.asked(data) == (200, None), name
        async with served.peer() as peer:  # a large body and the next request arrive together
            await peer.say(POST + b"content-length: 200000\r\n\r\n" + b"x" * 200_000 + GET + b"\r\n")
            assert (await peer.answer())[0] == (await peer.answer())[0] == 200


async def test_headers_that_do_not_come_to_their_end_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "HEAD_PATIENCE", 0.2)
    async with serving() as served:
        async with served.peer() as peer:
            assert await peer.rest() == b""  # it has asked nothing, so it is answered nothing
        async with served.peer() as peer:
            await peer.say(GET)
            status, body = await peer.answer()
            assert (status, body["code"]) == (408, "timeout")
            assert await peer.rest() == b""
        async with served.peer() as peer:
            await peer.say(GET + b"\r\n")
            assert (await peer.answer())[0] == 200
            await peer.say(b"\r\n")  # also what only keeps the connection busy
            assert await peer.rest() == b""
        async with served.peer() as peer:
            await peer.say(b"GET /held HTTP/1.1\r\nhost: x\r\n\r\nGET /")  # the first is not cut short by the second
            await asyncio.wait_for(served.holding.wait(), 20)
            asyncio.get_running_loop().call_later(0.5, served.held.set)
            assert (await peer.answer())[0] == 200
            assert (await peer.answer())[0] == 408


async def test_a_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "PROGRESS_EVERY", 0.3)
    async with serving() as served, served.peer(limit=1000) as reading, served.peer(limit=1000) as waiting:
        for peer in (reading, waiting):
            await peer.say(b"GET /long HTTP/1.1\r\nhost: x\r\n\r\n")
        got = 0
        while got < len(LONG_ANSWER):  # it takes longer than the patience, but goes on
            got += len(await reading.reader.read(500_000))
            await asyncio.sleep(0.02)
        assert len(await waiting.rest()) < len(LONG_ANSWER)


async def test_a_refused_body_does_not_take_the_answer_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "LINGER", 0.5)
    body = b"content-length: 20000000\r\n\r\n" + b"x" * 20_000_000
    unread = b"POST /unread HTTP/1.1\r\nhost: x\r\n"
    async with serving() as served:
        assert await served.asked(unread + b"connection: close\r\n" + body) == (200, None)
        async with served.peer() as peer:
            await peer.say(unread + body)  # it came to its end, so that the connection goes on
            await peer.say(GET + b"\r\n")
            assert (await peer.answer())[0] == (await peer.answer())[0] == 200
        async with served.peer() as peer:
            await peer.say(unread + body[:1_000_000])
            assert (await peer.answer())[0] == 200
            assert await peer.rest() == b""  # and here it did not


async def test_what_is_wrong_with_a_later_request_is_not_answered_to_an_earlier_one() -> None:
    async with serving() as served, served.peer() as peer:
        await peer.say(b"POST /held HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}garbage\r\n\r\n")
        await asyncio.wait_for(served.holding.wait(), 20)
        served.held.set()
        assert (await peer.answer())[0] == 200
        assert await peer.rest() == b""


async def test_few_requests_wait_behind_another_one() -> None:
    async with serving() as served, served.peer() as peer:
        await peer.say(b"GET /held HTTP/1.1\r\nhost: x\r\n\r\n" + (GET + b"\r\n") * 1000)
        await asyncio.wait_for(served.holding.wait(), 20)
        served.held.set()
        await peer.rest()
        assert len(served.requests) == 1 + http_connection.MAX_PIPELINED


async def test_beyond_the_limit_of_connections_those_in_use_go_on_and_health_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_connection, "RESERVED_PATIENCE", 0.2)
    health = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
    async with serving(limit=2) as served, served.peer() as one, served.peer() as two:
        for peer in (one, two):
            await peer.say(GET + b"\r\n")
            assert (await peer.answer())[0] == 200
        assert await served.asked(GET + b"\r\n") == (503, "too_many_connections")
        assert await served.asked(health) == (200, None)
        async with served.peer() as silent:
            assert await silent.rest() == b""
        monkeypatch.setattr(http_connection, "RESERVED_PATIENCE", 20)
        async with served.peer() as silent:
            many = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(http_places.RESERVED)]
            assert await silent.answer() == (503, {"ok": False, "error": ANY, "code": "too_many_connections"})
            assert await served.asked(health) == (200, None)
            for _, writer in many:
                writer.close()
            left_to_read = []
            for _ in range(http_places.MOST_BEYOND):
                reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
                left_to_read.append(writer)
                writer.write(POST + b"content-length: 9\r\n\r\n")  # what it goes on to send has to end somewhere
                await reader.readuntil(b"\r\n\r\n")
            async with served.peer() as cut_off:
                assert await cut_off.rest() == b""
            for writer in left_to_read:
                writer.close()
        for peer in (one, two):
            await peer.say(GET + b"\r\n")
            assert (await peer.answer())[0] == 200
        monkeypatch.setattr(http_places, "IDLE_LONG", 0.0)
        assert await served.asked(GET + b"\r\n") == (200, None)  # `one`, idle for longer, made place
        assert await one.rest() == b""
        await two.say(GET + b"\r\n")
        assert (await two.answer())[0] == 200


ELSEWHERE = "127.0.0.2"


async def test_those_that_send_no_request_make_place_the_longest_of_the_most_crowded_address_first() -> None:
    async with serving(limit=6) as served, served.peer() as patient, AsyncExitStack() as many:
        silent = [await many.enter_async_context(served.peer(address=ELSEWHERE)) for _ in range(5)]
        for peer in silent:
            await peer.say(GET)  # a head that never ends
        assert await served.asked(GET + b"\r\n") == (200, None)
        assert (await silent[0].answer())[1]["code"] == "too_many_connections"
        for _ in range(20):  # in any number
            await many.enter_async_context(served.peer(address=ELSEWHERE))
            assert await served.asked(GET + b"\r\n") == (200, None)
        await patient.say(GET + b"\r\n")  # who waits longer than all of them, but alone
        assert (await patient.answer())[0] == 200


async def test_bodies_that_do_not_come_make_place_and_requests_in_progress_never_do() -> None:
    async with serving(limit=3) as served, served.peer() as working, AsyncExitStack() as many:
        await working.say(b"POST /held HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
        await asyncio.wait_for(served.holding.wait(), 20)
        slow = [await many.enter_async_context(served.peer(address=ELSEWHERE)) for _ in range(2)]
        for peer in slow:
            await peer.say(POST + b"content-length: 60000\r\n\r\n{")
        await eventually(lambda: len(served.requests) == 3, "headers have come")
        first = await many.enter_async_context(served.peer())  # who takes long to ask is not the next to go
        assert (await slow[0].answer())[1]["code"] == "too_many_connections"
        second = await many.enter_async_context(served.peer())
        assert (await slow[1].answer())[1]["code"] == "too_many_connections"
        for peer in (first, second):
            await peer.say(b"GET /held HTTP/1.1\r\nhost: x\r\n\r\n")
        await eventually(lambda: len(served.requests) == 5, "both are being answered")
        assert await served.asked(GET + b"\r\n") == (503, "too_many_connections")  # nobody is cut off who is served
        served.held.set()
        for peer in (working, first, second):
            assert (await peer.answer())[0] == 200


@pytest.mark.parametrize("more", [b"", b"connection: close\r\n"])
async def test_an_answer_that_is_not_taken_makes_place(monkeypatch: pytest.MonkeyPatch, more: bytes) -> None:
    async with serving(limit=1) as served, served.peer(limit=1000) as waiting:
        await waiting.say(b"GET /long HTTP/1.1\r\nhost: x\r\n" + more + b"\r\n")
        await waiting.reader.readexactly(1)
        assert await served.asked(GET + b"\r\n") == (503, "too_many_connections")
        monkeypatch.setattr(http_places, "IDLE_LONG", 0.0)
        assert await served.asked(GET + b"\r\n") == (200, None)
        assert len(await waiting.rest()) < len(LONG_ANSWER)


def test_an_address_is_the_network_of_one_client() -> None:
    of = client_network
    assert of("2001:db8::1") == of("2001:db8::2") != of("2001:db8:0:1::1")
    assert of("::ffff:192.0.2.1") == of("192.0.2.1") != of("::ffff:192.0.2.2")
    assert of("fe80::1%eth0") == of("fe80::1")
