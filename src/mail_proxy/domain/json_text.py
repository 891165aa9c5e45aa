"""JSON that this software writes for itself and reads again: compact, in UTF-8, an order of magnitude faster.

What others send is read in `api/bodies.py`, strictly.
"""

from __future__ import annotations

import json
from typing import Any

import orjson

_slow = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_slow_in_order = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True).encode


def to_text(value: object) -> str:
    """Write dicts, lists, tuples, texts, numbers, booleans, None, and enums of them; the keys of dicts are texts.

    Half a surrogate pair is written as it is, and a number that is not finite as null: who writes numbers that may be
    wrong looks at them first.
    """
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # half a surrogate pair, or a number beyond 64 bits
        return _slow(value)


def canonical(value: object) -> bytes:
    """Write what `to_text` takes with the keys of every dict in order: the same bytes for the same content.

    Raises `UnicodeEncodeError` for half a surrogate pair.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        return _slow_in_order(value).encode("utf-8")


def from_text(text: str | bytes) -> Any:  # noqa: ANN401 - as it is with json.loads
    """Read it; raises `ValueError`. Whole numbers beyond 64 bits become floats."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:  # nested a thousand levels, or no JSON
        return json.loads(text)
