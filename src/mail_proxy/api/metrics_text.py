"""The text of `/metrics`: written on a thread of its own, and given to all who ask within a second."""  # G11

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

FRESH = 1.0
"""Seconds for which a text is given, from when it was begun."""


class MetricsText:
    """Has the text written one at a time, so that it costs the same however many ask."""

    def __init__(self, render: Callable[[], bytes], monotonic: Callable[[], float]) -> None:
        self._render = render
        self._monotonic = monotonic
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="metrics")
        self._text: asyncio.Future[bytes] | None = None
        self._began = 0.0

    async def get(self) -> bytes:
        """Return a text of no more than `FRESH` seconds ago, or the one that is being written."""
        if self._text is None or (self._text.done() and not self._is_fresh(self._text)):
            self._began = self._monotonic()
            self._text = asyncio.get_running_loop().run_in_executor(self._thread, self._render)
        return await asyncio.shield(self._text)  # others wait for it as well

    def _is_fresh(self, text: asyncio.Future[bytes]) -> bool:
        return text.exception() is None and self._monotonic() - self._began < FRESH
