"""Files by HTTP, handed on piece by piece: however large, a download holds one piece in memory."""  # G11

from __future__ import annotations

import asyncio
import base64
import zlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import anyio
from typing_extensions import assert_never, override

from mail_proxy.domain.tenant import ClientAuth, ClientAuthMethod
from mail_proxy.outbound.body import BodyCorrupt
from mail_proxy.outbound.client import OutboundClient, Request, Response
from mail_proxy.outbound.errors import Blocked, Broken, OutboundError, TooLong, Unusable
from mail_proxy.ports import Download, Downloader, FetchFailed

MAX_REDIRECTS = 3
_TEMPORARY = frozenset({408, 425, 429})  # RFC 9110, 15.5.9; RFC 8470, 5.2; RFC 6585, 4
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GOOD = frozenset({200, 201, 203})
_PIECE = 256 * 1024
_PORTS = {"http": 80, "https": 443}

Write = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Streamed(Request):
    """A request whose answer, if it is a good one, goes to `write` and is not collected."""

    write: Write | None = None


class DownloadClient(OutboundClient):
    """Hands bodies on as they come."""

    @override
    async def _exchange(self, request: Request, host: str) -> Response:
        if not isinstance(request, Streamed) or request.write is None:
            return await super()._exchange(request, host)
        async with self._session.request(
            request.method, request.url, data=request.body, headers=request.headers, allow_redirects=False
        ) as answer:
            headers: dict[str, str] = {}
            for name, value in answer.headers.items():
                headers.setdefault(name.lower(), value)
            if answer.status not in _GOOD:
                answer.close()  # what it says is of no use
                return Response(answer.status, headers, b"")
            left = request.max_bytes
            try:
                body = Decoding(headers.get("content-encoding", ""))
                async for chunk in answer.content.iter_any():
                    for piece in body.feed(chunk):
                        left -= len(piece)
                        if left < 0:
                            sentence = f"the answer of {host} is longer than {request.max_bytes} bytes"
                            raise TooLong(sentence, answer.status, headers)
                        await request.write(piece)
                body.finish()
            except BodyCorrupt as error:
                raise Broken(f"the answer of {host} cannot be read: {error}") from None
            finally:
                if not answer.content.at_eof():
                    answer.close()  # the rest is not waited for
            return Response(answer.status, headers, b"")


class Decoding:
    """Takes a content coding off, in pieces of bounded size. Raises `BodyCorrupt`."""

    def __init__(self, coding: str) -> None:
        word = coding.strip().lower()
        if word not in {"", "identity", "gzip", "x-gzip", "deflate"}:
            raise BodyCorrupt("it comes in a content coding that was not asked for")
        self._zlib: zlib._Decompress | None = None
        if word not in {"", "identity"}:
            self._zlib = zlib.decompressobj(zlib.MAX_WBITS if word == "deflate" else 16 + zlib.MAX_WBITS)
        self._begun = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what the next bytes decode to."""
        decoder = self._zlib
        if decoder is None:
            if chunk:
                yield chunk
            return
        while chunk:
            self._begun = True
            if decoder.eof:  # gzip files may be strung together (RFC 1952, 2.2)
                decoder = self._zlib = zlib.decompressobj(16 + zlib.MAX_WBITS)
            try:
                piece = decoder.decompress(chunk, _PIECE)
            except zlib.error:
                raise BodyCorrupt("its compressed body is corrupt") from None
            chunk = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
            if piece:
                yield piece

    def finish(self) -> None:
        """Raise where a compressed body ends too early."""
        if self._zlib is not None and self._begun and not self._zlib.eof:
            raise BodyCorrupt("its compressed body is incomplete")


class HttpDownloader(Downloader):
    """Downloads by two clients: what the operator has set by one that reaches everything, all else by a guarded one."""

    def __init__(self, trusted: DownloadClient, guarded: DownloadClient) -> None:
        self._trusted = trusted
        self._guarded = guarded

    @override
    async def download(self, wanted: Download, write: Write) -> None:
        try:
            with anyio.fail_after(wanted.timeout):
                await self._follow(wanted, write)
        except (TimeoutError, asyncio.TimeoutError):
            reason = f"it was not fetched within {wanted.timeout:g} s"
            raise FetchFailed(reason, permanent=False) from None
        except OutboundError as error:
            permanent = isinstance(error, Unusable | Blocked | TooLong)
            raise FetchFailed(str(error), permanent=permanent) from None

    async def _follow(self, wanted: Download, write: Write) -> None:
        """Ask, and follow redirects of a GET; credentials go to the first origin only."""
        client = self._trusted if wanted.trusted else self._guarded
        url, origin = wanted.url, _origin(wanted.url)
        method = "GET" if wanted.json_body is None else "POST"
        for _ in range(MAX_REDIRECTS + 1):
            headers = authorization(wanted.auth) if _origin(url) == origin else ()
            if wanted.json_body is not None:
                headers = (("Content-Type", "application/json"), *headers)
            answer = await client.request(
                Streamed(method, url, wanted.timeout, wanted.max_bytes, headers, wanted.json_body, write)
            )
            location = answer.headers.get("location")
            if answer.status not in _REDIRECTS or location is None or method == "POST":
                _judge(answer.status, _host(url))
                return
            url = urljoin(url, location)
            # Where a server of the operator's sends on to is not the operator's word.
            client = client if _origin(url) == origin else self._guarded
        raise FetchFailed(f"{_host(url)} redirects more than {MAX_REDIRECTS} times", permanent=True)


def _judge(status: int, host: str) -> None:
    """Say what a status means for trying again."""
    if status not in _GOOD:
        raise FetchFailed(f"{host} answered {status}", permanent=status < 500 and status not in _TEMPORARY)


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


def _origin(url: str) -> tuple[str, str, int | None]:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        raise Unusable("the URL is malformed") from None


def authorization(auth: ClientAuth) -> tuple[tuple[str, str], ...]:
    """Return the headers that carry credentials."""
    match auth.method:
        case ClientAuthMethod.NONE:
            return ()
        case ClientAuthMethod.BEARER:
            return (("Authorization", f"Bearer {auth.token.reveal() if auth.token else ''}"),)
        case ClientAuthMethod.BASIC:
            # RFC 7617: UTF-8 is what the field's software reads.
            pair = f"{auth.user or ''}:{auth.password.reveal() if auth.password else ''}"
            return (("Authorization", "Basic " + base64.b64encode(pair.encode(errors="replace")).decode("ascii")),)
        case _:
            assert_never(auth.method)
