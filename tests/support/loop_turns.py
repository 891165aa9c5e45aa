"""Turns of the event loop for what was begun there and is not ours to wait for."""

from __future__ import annotations

import asyncio


async def a_few_turns() -> None:
    """Return when connections that were being accepted have their protocols, and those that were aborted are closed."""
    for _ in range(5):
        await asyncio.sleep(0)
