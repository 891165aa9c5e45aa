"""Credentials of attachments: one text for each message, which is sealed, and what of them counts in its digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache

from mail_proxy.domain.secret import Secret
from mail_proxy.domain.tenant import ClientAuth, ClientAuthMethod

PLACE = "contents.auths"
"""Table and column in which the sealed text stands."""

# So that whoever reads the database cannot try passwords by the million against the digests that stand in it.
_SLOW = {"n": 2**12, "r": 8, "p": 1, "dklen": 32}


def place_of(tenant_id: str, mail_id: str) -> str:
    """What a message's sealed credentials are bound to."""
    return f"{PLACE}/{tenant_id}/{mail_id}"


def written(auths: Mapping[int, ClientAuth]) -> Secret | None:
    """Write the credentials of a message's attachments, by position; None where there are none."""
    if not auths:
        return None
    return Secret(json.dumps({str(n): _fields(auth) for n, auth in auths.items()}, separators=(",", ":")))


def read(text: Secret | None) -> Mapping[int, ClientAuth]:
    """Read what `written` wrote."""
    if text is None:
        return {}
    return {int(n): _auth(fields) for n, fields in json.loads(text.reveal()).items()}


def digest_of(auth: Mapping[str, object]) -> str:
    """Return a digest of credentials as they were submitted that is slow to make, some ten milliseconds."""
    given = {name: value for name, value in auth.items() if value is not None}
    return _slow_digest(json.dumps(given, ensure_ascii=False, sort_keys=True))


@lru_cache(maxsize=64)
def _slow_digest(text: str) -> str:
    return hashlib.scrypt(text.encode("utf-8"), salt=PLACE.encode(), **_SLOW).hex()


def _fields(auth: ClientAuth) -> dict[str, str]:
    secret = auth.token if auth.method is ClientAuthMethod.BEARER else auth.password
    fields = {"method": auth.method.value, "secret": secret.reveal() if secret is not None else ""}
    return fields if auth.user is None else {**fields, "user": auth.user}


def _auth(fields: Mapping[str, str]) -> ClientAuth:
    secret = Secret(fields["secret"])
    if fields["method"] == ClientAuthMethod.BEARER.value:
        return ClientAuth(ClientAuthMethod.BEARER, token=secret)
    return ClientAuth(ClientAuthMethod.BASIC, user=fields["user"], password=secret)
