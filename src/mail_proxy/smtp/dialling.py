"""How a host's name becomes a connected socket."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

SocketAddress = tuple[socket.AddressFamily, tuple[Any, ...]]
"""As `getaddrinfo` names it; the tuple is the family's own affair."""
AddressRefusal = Callable[[str], "str | None"]
"""Says why an address may not be connected to, or None."""


class AddressRefused(Exception):
    """Every address of the host is one that may not be connected to; the text says what kind it is."""


def any_address(_address: str) -> None:
    """Let every address be connected to."""


def is_loopback(host: str) -> bool:
    """True when a host, as the account names it, can only be this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def address_literal(address: str) -> str:
    """Return an IP address as EHLO takes it (RFC 5321 section 4.1.3)."""
    bare = address.partition("%")[0]
    return f"[IPv6:{bare}]" if ":" in bare else f"[{bare}]"


async def dial(
    host: str, port: int, patience: float, resolver: Executor, address_refusal: AddressRefusal = any_address
) -> socket.socket:
    """Return a socket connected to the first address of the host that answers; `patience` (seconds) holds for each.

    Names are resolved in threads of `resolver`: a name server that hangs must not keep others from theirs (G11).
    Raises `OSError` (`socket.gaierror`, `TimeoutError` among them), `asyncio.TimeoutError`, or `UnicodeError` for what
    cannot be a host name, and `AddressRefused` where no address may be tried.
    """
    last: Exception | None = None
    refused: str | None = None
    for family, address in await _resolve(host.strip("[]"), port, patience, resolver):
        kind = address_refusal(str(address[0]))
        if kind is not None:
            refused = kind
            continue
        try:
            return await _connect(family, address, patience)
        except (OSError, asyncio.TimeoutError) as error:
            last = error
    if last is None and refused is not None:
        raise AddressRefused(refused)
    if last is None:
        raise socket.gaierror(socket.EAI_NONAME, "the name has no address")
    raise last


async def _resolve(host: str, port: int, patience: float, resolver: Executor) -> list[SocketAddress]:
    def look_up() -> list[SocketAddress]:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [(family, address) for family, _, _, _, address in found]

    try:
        ipaddress.ip_address(host)
    except ValueError:
        found = asyncio.get_running_loop().run_in_executor(resolver, look_up)
        return await asyncio.wait_for(found, patience)
    return look_up()


async def _connect(family: socket.AddressFamily, address: tuple[Any, ...], patience: float) -> socket.socket:
    connecting = socket.socket(family, socket.SOCK_STREAM)
    try:
        connecting.setblocking(False)
        await asyncio.wait_for(asyncio.get_running_loop().sock_connect(connecting, address), patience)
    except BaseException:
        connecting.close()
        raise
    return connecting
