"""Turns of the event loop for what was begun there and is not ours to wait for."""

from __future__ import annotations

import asyncio


async def a_few_turns() -> None:
    """Return when connections that were being accepted have their protocols, and those that were aborted are closed."""
    for _ in range(5):
        await asyncio.sleep(0)


async def stop_listening(listener: asyncio.Server) -> None:
    """Close a server when all that it has accepted have their protocols.

    asyncio fails on those that it makes a transport for when their server is closed, and leaves their sockets open.
    """
    loop = asyncio.get_running_loop()
    for each in listener.sockets:
        loop.remove_reader(each.fileno())
    await a_few_turns()
    listener.close()
