"""Cursors: places in a list, written so that nobody is led to make one up."""

from __future__ import annotations

import math
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode

from mail_proxy.ports.archive import Place

CURSOR = r"^[A-Za-z0-9_-]{21}[AQgw]$"
"""What every cursor looks like: sixteen bytes as URL-safe base64."""
_PLACE = struct.Struct(">dq")


def cursor_to(place: Place) -> str:
    """Write a place down."""
    return urlsafe_b64encode(_PLACE.pack(place.created_ts, place.pk)).decode("ascii").rstrip("=")


def place_at(cursor: str) -> Place:
    """Read a text that is a `CURSOR`; raises `ValueError` where it is no place."""
    place = Place(*_PLACE.unpack(urlsafe_b64decode(f"{cursor}==")))
    if not math.isfinite(place.created_ts):
        raise ValueError("is no cursor")
    return place
