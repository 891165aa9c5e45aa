"""Where a message belongs in its caller's trace: W3C Trace Context, level 1 (`traceparent`)."""

from __future__ import annotations

import re

LENGTH = 55
_FORM = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z")
_MEMBER = '"traceparent":"'


def traceparent(text: str | None) -> str | None:
    """Return what a caller has sent where it is a `traceparent` of version 00, else None: then it counts as absent."""
    return text if text is not None and _FORM.match(text) else None


def of_fields(fields: str) -> str | None:
    """Return the one that a stored submission ends with, or None. What callers themselves write is never last."""
    if not fields.endswith('"}'):
        return None
    at = len(fields) - len('"}') - LENGTH
    if fields[max(at - len(_MEMBER), 0) : at] != _MEMBER:
        return None
    return traceparent(fields[at : at + LENGTH])
