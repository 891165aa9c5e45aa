"""Answers with long lists, written without holding up everybody else."""  # G11

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from starlette.responses import Response

from mail_proxy.api.errors import to_json

ItemT = TypeVar("ItemT")
LONG = 50
"""Items from which a list is written on a thread: one by one, so that others get their turns."""


async def in_thread_if_long(items: Sequence[ItemT], view: Callable[[ItemT], Mapping[str, object]]) -> bytes:
    """Return a list as JSON, each item as `view` shows it."""

    def written() -> bytes:
        return b"[%s]" % b",".join(to_json(view(item)) for item in items)

    return await asyncio.to_thread(written) if len(items) > LONG else written()


def answer_with_list(name: str, items: bytes, others: Mapping[str, object]) -> Response:
    """Answer with an object that holds a list that is written already, and other fields."""
    rest = to_json(others)[1:-1]
    return Response(b'{"ok":true,"%s":%s,%s}' % (name.encode(), items, rest), media_type="application/json")
