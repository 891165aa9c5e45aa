"""Servers that repeat a secret in their reply to a login, as some do when they are being debugged."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager

import aiosmtplib

from mail_proxy.domain.secret import Secret

MASK = "********"
SHORTEST = 4
"""Characters; a shorter secret stands in any text by chance."""


@contextmanager
def unechoed(user: str | None, *secrets: Secret | None) -> Iterator[None]:
    """Mask these secrets in what a server says within the block, before anybody reads or writes it."""
    try:
        yield
    except aiosmtplib.SMTPResponseException as refused:
        for secret in secrets:
            if secret is not None and len(secret.reveal()) >= SHORTEST:
                refused.message = _masked(refused.message, user or "", secret.reveal())
        refused.args = (refused.code, refused.message)
        raise


def _masked(text: str, user: str, secret: str) -> str:
    for spoken in (f"\0{user}\0{secret}", f"user={user}\1auth=Bearer {secret}\1\1", secret):
        text = text.replace(b64encode(spoken.encode()).decode(), MASK)
    return text.replace(secret, MASK)
