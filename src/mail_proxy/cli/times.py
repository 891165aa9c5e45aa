"""Times as people write them on a command line."""

from __future__ import annotations

import re
import time
from datetime import datetime

import click

_SPAN = re.compile(r"([+-])(\d+(?:\.\d+)?)([smhd])\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def point(text: str | None, option: str) -> float | None:
    """Return a time in Unix seconds: ISO 8601, `+10m` from now, `-7d` ago, or Unix seconds.

    Without a zone the one of this machine is meant. Raises `click.UsageError`, naming the option.
    """
    if text is None:
        return None
    if span := _SPAN.match(text):
        return time.time() + float(span[1] + span[2]) * _SECONDS[span[3]]
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text).timestamp()
    except (ValueError, OverflowError):
        raise click.UsageError(
            f"{option}: {text!r} is no time: write 2026-07-01, 2026-07-01T12:00:00Z, +10m or -7d"
        ) from None
