"""Signatures of reports (Standard Webhooks 1.0), checked by whoever receives them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

TOLERANCE = 300.0
"""Seconds that the clocks of both sides may be apart."""
_LEAST_BYTES = 24


class NotGenuine(Exception):
    """The report is not from the mail proxy, was changed, or is an old one."""


def verify_webhook(headers: Mapping[str, str], body: bytes, *secrets: str, now: float | None = None) -> dict[str, Any]:
    """Return the report in `body`, the bytes as they came, if one of the secrets has signed it.

    `headers` may be spelled in small or capital letters. `now` is the time in Unix seconds, by default this machine's.
    Raises `NotGenuine`, and `ValueError` for what is no signing secret.
    """
    given = {name.lower(): value for name, value in headers.items()}
    try:
        report_id, timestamp = given["webhook-id"], given["webhook-timestamp"]
        signatures = given["webhook-signature"].split(" ")
        age = abs((time.time() if now is None else now) - int(timestamp))
    except (KeyError, ValueError, OverflowError):
        raise NotGenuine("headers of the signature are missing or malformed") from None
    if age > TOLERANCE:
        raise NotGenuine("the timestamp is too far from this machine's clock")
    signed = f"{report_id}.{timestamp}.".encode() + body
    for secret in secrets:
        expected = b"v1," + base64.b64encode(hmac.new(_key(secret), signed, hashlib.sha256).digest())
        if any(hmac.compare_digest(each.encode(errors="replace"), expected) for each in signatures):
            report = json.loads(body)
            if isinstance(report, dict):
                return report
    raise NotGenuine("no signature fits")


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) < _LEAST_BYTES:
        raise ValueError("not a signing secret")  # with an empty one anybody could sign
    return key
