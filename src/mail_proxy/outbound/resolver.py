"""Names become addresses on threads of their own, and addresses that the policy refuses do not come out."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

from aiohttp.abc import AbstractResolver, ResolveResult
from typing_extensions import override

from mail_proxy.outbound.guard import Policy, refusal

AddressInfo: TypeAlias = "tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]"
"""As `socket.getaddrinfo` gives it."""

Lookup: TypeAlias = "Callable[[str, int, int], Sequence[AddressInfo]]"
"""Blocks until it knows the addresses for host, port and family; raises `OSError` if there are none."""


class AddressRefused(OSError):
    """The policy refuses what a name or a literal leads to. An `OSError`, as connectors expect."""


def system_lookup(host: str, port: int, family: int) -> Sequence[AddressInfo]:
    """Ask the operating system."""
    return socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)


class GuardedResolver(AbstractResolver):
    """Resolves names for one policy. It only makes refusals early and clear: what counts is the check at the socket."""

    def __init__(self, policy: Policy, lookup: Lookup = system_lookup, at_once: int = 16) -> None:
        self._policy = policy
        self._lookup = lookup
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="resolver")

    @override
    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Give the addresses that may be reached; raises `AddressRefused` where none may, `OSError` where none is."""
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._threads, self._lookup, host, port, family)
        except ValueError as error:  # a label that is empty or too long fails in the codec, before any name server
            raise socket.gaierror(socket.EAI_NONAME, "not a name") from error
        results: list[ResolveResult] = []
        refused: str | None = None
        for found_family, _, protocol, _, address in found:
            if found_family not in {socket.AF_INET, socket.AF_INET6}:
                continue
            kind = refusal(str(address[0]), self._policy)
            if kind is not None:
                refused = kind
                continue
            results.append(
                ResolveResult(
                    hostname=host,
                    host=_scoped(address),
                    port=int(address[1]),
                    family=found_family,
                    proto=protocol,
                    flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                )
            )
        if results:
            return results
        if refused is not None:
            raise AddressRefused(refused)
        raise socket.gaierror(socket.EAI_NONAME, "no address")

    @override
    async def close(self) -> None:
        """Let the threads go; one that still waits for a name server ends with its answer."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _scoped(address: tuple[Any, ...]) -> str:
    """Keep the zone of a link-local IPv6 address (RFC 4007, 11), which leads nowhere without it."""
    host = str(address[0])
    scope = address[3] if len(address) > 3 else 0
    return f"{host}%{scope}" if scope and "%" not in host else host
