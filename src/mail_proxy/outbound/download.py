"""Files by HTTP, handed on piece by piece: however large, a download holds one piece in memory."""  # G11

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import anyio
from typing_extensions import override

from mail_proxy.outbound.body import FRAMING, BodyCorrupt, BodyOverflow, Decoder
from mail_proxy.outbound.client import OutboundClient, Request, Response
from mail_proxy.outbound.credentials import authorization
from mail_proxy.outbound.errors import Blocked, Broken, OutboundError, TooLong, Unusable
from mail_proxy.ports.attachments import Download, Downloader, FetchFailed

MAX_REDIRECTS = 3
_TEMPORARY = frozenset({408, 425, 429})  # RFC 9110, 15.5.9; RFC 8470, 5.2; RFC 6585, 4
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GOOD = frozenset({200, 201, 203})
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
            try:
                body = Decoder(headers.get("content-encoding", ""), request.max_bytes)
                if (answer.content_length or 0) > request.max_bytes + FRAMING:
                    raise BodyOverflow  # noqa: TRY301 - as where it is counted
                async for chunk in answer.content.iter_any():
                    for piece in body.feed(chunk):
                        await request.write(piece)
                body.finish()
            except BodyOverflow:
                sentence = f"the answer of {host} is longer than {request.max_bytes} bytes"
                raise TooLong(sentence, answer.status, headers) from None
            except BodyCorrupt as error:
                raise Broken(f"the answer of {host} cannot be read: {error}") from None
            finally:
                if not answer.content.at_eof():
                    answer.close()  # the rest is not waited for
            return Response(answer.status, headers, b"")


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
        """Ask, and follow redirects of a GET.

        Once they have led to another origin, the rest is guarded and without credentials, also if it leads back: who
        answers there must not choose what is fetched in somebody's name.
        """
        client = self._trusted if wanted.trusted else self._guarded
        url, auth = wanted.url, authorization(wanted.auth)
        origin = _origin(url)
        method, kind = ("GET", ()) if wanted.json_body is None else ("POST", (("Content-Type", "application/json"),))
        for _ in range(MAX_REDIRECTS + 1):
            request = Streamed(method, url, wanted.timeout, wanted.max_bytes, (*kind, *auth), wanted.json_body, write)
            answer = await client.request(request)
            location = answer.headers.get("location")
            if answer.status not in _REDIRECTS or location is None or method == "POST":
                _judge(answer.status, _host(url))
                return
            url = _joined(url, location)
            if _origin(url) != origin:
                client, auth = self._guarded, ()
        raise FetchFailed(f"{_host(url)} redirects more than {MAX_REDIRECTS} times", permanent=True)


def _judge(status: int, host: str) -> None:
    """Say what a status means for trying again."""
    if status not in _GOOD:
        raise FetchFailed(f"{host} answered {status}", permanent=status < 500 and status not in _TEMPORARY)


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        raise Unusable(f"{_host(url)} redirects to a URL that is malformed") from None


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


def _origin(url: str) -> tuple[str, str, int | None]:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        raise Unusable("the URL is malformed") from None
