"""One HTTP request at a time, bounded in time and size, to an address that was checked.

The guard sits where the socket is made: there it sees the address that is connected to, whatever name, spelling or
name server led to it.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import SplitResult, urlsplit

import aiohttp
import anyio
from typing_extensions import Self

from mail_proxy import __version__
from mail_proxy.outbound.answer_bounds import BoundedConnector
from mail_proxy.outbound.body import BodyCorrupt, BodyOverflow, BodyReader
from mail_proxy.outbound.errors import Blocked, Broken, OutboundError, TimedOut, TooLong, Unreachable, Unusable
from mail_proxy.outbound.guard import Policy, refusal
from mail_proxy.outbound.resolver import AddressRefused, GuardedResolver, Lookup, system_lookup

USER_AGENT = f"genro-mail-proxy/{__version__}"

_NOT_IN_A_URL = re.compile(r"[\x00-\x20\x7f\\]|[\ud800-\udfff]")
_NOT_IN_A_HEADER = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]|[\ud800-\udfff]")  # RFC 9110, 5.5
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")  # RFC 9110, 5.6.2
_LONGEST_URL = 8000
_LARGE = 1 << 20
"""Bytes that are written piece by piece, so that the event loop is not held up."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How many connections a client keeps. Times in seconds. 0 connections: whoever asks keeps the number down."""

    connections: int = 256
    connections_per_host: int = 64
    """Below `connections`, so that one host that hangs leaves room for the others."""  # G11
    lookups: int = 16
    """Name servers asked at a time; one that is dead holds its thread for 10 s and more."""  # G11
    connect_timeout: float = 10.0
    """For one address; a host that drops packets is given up sooner than one that is slow to answer."""
    keep_alive: float = 4.0
    """Shorter than what common servers allow (5 s), so that no request meets a connection that just ends."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked. `timeout` covers everything from the name to the last byte; `max_bytes` counts decoded bytes."""

    method: str
    url: str
    timeout: float
    max_bytes: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer, whatever its status. Names of headers are in lower case; of equal ones the first counts."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class OutboundClient:
    """Sends requests under one policy. Redirects are answers like others: nothing is followed, nothing is remembered.

    Connections are kept per host and never shared between clients, so that a guarded request cannot use one that a
    trusted request opened. Make it inside a running event loop.
    """

    def __init__(
        self,
        policy: Policy,
        limits: Limits | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        lookup: Lookup = system_lookup,
    ) -> None:
        limits = limits or Limits()
        self._policy = policy
        self._session = aiohttp.ClientSession(
            connector=BoundedConnector(
                limit=limits.connections,
                limit_per_host=limits.connections_per_host,
                keepalive_timeout=limits.keep_alive,
                resolver=GuardedResolver(policy, lookup, limits.lookups),
                socket_factory=self._checked_socket,
                ssl=tls if tls is not None else True,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=limits.connect_timeout),
            auto_decompress=False,
            trust_env=False,
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
        )

    async def request(self, request: Request) -> Response:
        """Send a request and read the whole answer. Raises `OutboundError` for everything that can go wrong outside.

        The library's own errors are not chained: they show URLs and headers.
        """
        parts = self._checked(request)
        host = _shown(parts)
        try:
            with anyio.fail_after(request.timeout):
                return await self._exchange(request, host)
        except OutboundError:
            raise
        except (TimeoutError, asyncio.TimeoutError) as error:
            if isinstance(error, aiohttp.ConnectionTimeoutError):
                raise Unreachable(f"{host} does not take the connection") from None
            raise TimedOut(f"{host} did not answer in {request.timeout:g} s") from None
        except aiohttp.ClientError as error:
            raise _translated(error, host) from None
        except OSError as error:
            raise Broken(f"the connection to {host} broke: {_reason(error)}") from None
        except RuntimeError:
            # uvloop raises it for a connection that ended while it was being set up.
            if self._session.closed:
                raise
            raise Broken(f"the connection to {host} broke") from None

    async def close(self) -> None:
        """End all connections."""
        await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _exchange(self, request: Request, host: str) -> Response:
        body = request.body
        data = io.BytesIO(body) if body is not None and len(body) > _LARGE else body
        async with self._session.request(
            request.method, request.url, data=data, headers=request.headers, allow_redirects=False
        ) as answer:
            headers: dict[str, str] = {}
            for name, value in answer.headers.items():
                headers.setdefault(name.lower(), value)
            try:
                reader = BodyReader(headers.get("content-encoding", ""), request.max_bytes)
                async for chunk in answer.content.iter_any():
                    reader.feed(chunk)
                return Response(answer.status, headers, reader.finish())
            except BodyOverflow:
                answer.close()  # the rest is not waited for
                raise TooLong(
                    f"the answer of {host} is longer than {request.max_bytes} bytes", answer.status, headers
                ) from None
            except BodyCorrupt as error:
                answer.close()
                raise Broken(f"the answer of {host} cannot be read: {error}") from None

    def _checked(self, request: Request) -> SplitResult:
        """Refuse what must not be sent; aiohttp would take some of it, and show the whole URL in its error."""
        parts = url_parts(request.url)
        literal = parts.hostname or ""
        kind = refusal(literal, self._policy) if ":" in literal or _dotted(literal) else None
        if kind is not None:
            raise Blocked(f"{_shown(parts)} is not allowed: {kind} address")
        for name, value in request.headers:
            if not _TOKEN.match(name) or _NOT_IN_A_HEADER.search(value):
                raise Unusable(f"the header {name!r} has characters that no header may carry")
        return parts

    def _checked_socket(self, info: tuple[Any, ...]) -> socket.socket:
        """Make the socket for an address that the policy allows. The connection goes to this address and no other."""
        family, kind, protocol, _, address = info
        refused = refusal(str(address[0]), self._policy)
        if refused is not None:
            raise AddressRefused(refused)
        return socket.socket(family=family, type=kind, proto=protocol)


def url_parts(url: str) -> SplitResult:
    """Take a URL apart that a request may go to: http or https, with a host, without credentials.

    Raises `Unusable`, saying why, for all others.
    """
    if len(url) > _LONGEST_URL:
        raise Unusable(f"the URL is longer than {_LONGEST_URL} characters")
    if _NOT_IN_A_URL.search(url):
        raise Unusable("the URL has spaces, backslashes or control characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Unusable("the URL is malformed") from None
    if parts.scheme not in {"http", "https"}:
        raise Unusable("the URL does not begin with http:// or https://")
    if "@" in parts.netloc:
        raise Unusable("the URL carries credentials; set them where credentials go")
    if not parts.hostname or port == 0:
        raise Unusable("the URL names no host and port to connect to")
    return parts


def _dotted(host: str) -> bool:
    """True for what the operating system takes for an IPv4 address without asking a name server (`127.1`, `0x7f.1`)."""
    try:
        socket.inet_aton(host)
    except (OSError, ValueError):
        return False
    return True


def _shown(parts: SplitResult) -> str:
    """The part of a URL that errors may show: paths and queries can hold secrets."""
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{parts.port}" if parts.port is not None else host


def _translated(error: aiohttp.ClientError, host: str) -> OutboundError:
    """Turn each of aiohttp's errors into one of ours. The more special classes stand first."""
    match error:
        case aiohttp.InvalidURL():
            return Unusable(f"{host} cannot be connected to: the URL is malformed")
        case aiohttp.ClientConnectorCertificateError():  # first, since it is a connector error without an `os_error`
            return Unreachable(f"the certificate of {host} is not trusted: {_reason(error.certificate_error)}")
        case aiohttp.ClientConnectorError(os_error=AddressRefused() as cause):
            return Blocked(f"{host} is not allowed: {cause} address")
        case aiohttp.ClientConnectorDNSError():
            return Unreachable(f"{host} is not known: {_reason(error.os_error)}")
        case aiohttp.ClientConnectorError():
            return Unreachable(f"{host} cannot be reached: {_reason(error.os_error)}")
        case aiohttp.ServerDisconnectedError():
            return Broken(f"{host} ended the connection without an answer")
        case aiohttp.ClientPayloadError():
            return Broken(f"the answer of {host} is incomplete")
        case aiohttp.ClientResponseError():
            return Broken(f"{host} does not answer in HTTP")
        case aiohttp.ClientOSError():
            return Broken(f"the connection to {host} broke: {_reason(error)}")
        case _:
            return Broken(f"the request to {host} failed ({type(error).__name__})")


def _reason(error: BaseException) -> str:
    """A few words on an error of the operating system, without the address that it was about."""
    match error:
        case ssl.SSLCertVerificationError():
            return error.verify_message
        case socket.gaierror():  # its numbers are not those of other errors
            return error.strerror or type(error).__name__
        case ssl.SSLError():
            return error.reason or type(error).__name__
        case OSError(errno=int(number)):
            return os.strerror(number)
        case _:
            return type(error).__name__
