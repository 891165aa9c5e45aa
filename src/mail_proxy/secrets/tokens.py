"""Tokens: made here, shown once, and known afterwards only by their SHA-256."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from mail_proxy.domain.secret import Secret
from mail_proxy.domain.signing import SECRET_BYTES, shown_secret

TOKEN_LENGTH = 43
LONGEST = 512
"""Characters; whatever is longer is no token of ours and is not worth hashing."""


def new_token() -> str:
    """Return a new token: 256 random bits as 43 URL-safe characters."""
    return secrets.token_urlsafe(32)


def new_signing_secret() -> Secret:
    """Return a new secret to sign reports with."""
    return shown_secret(secrets.token_bytes(SECRET_BYTES))


def digest(token: str) -> str:
    """Return the SHA-256 of a token in hex, as it is stored and looked up."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def same(one_digest: str, other_digest: str) -> bool:
    """Compare two digests in a time that does not depend on what they hold."""
    return hmac.compare_digest(one_digest, other_digest)
