"""What is logged while a test looks, without the line that each request has at level debug."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from structlog.testing import capture_logs


@contextmanager
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    """Give the list that has the lines afterwards."""
    kept: list[MutableMapping[str, Any]] = []
    with capture_logs() as lines:
        try:
            yield kept
        finally:
            kept += [line for line in lines if line["event"] != "request"]
