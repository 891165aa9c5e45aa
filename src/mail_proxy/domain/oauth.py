"""OAuth 2.0 for logins with XOAUTH2: what an account is given, and what a token server's answer means (RFC 6749)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import quote_plus

from mail_proxy.domain.reply import printable
from mail_proxy.domain.secret import Secret

USUAL_LIFE = 600.0
"""Seconds that a token is taken to be good for where its server does not say."""
LONGEST_LIFE = 86_400.0
LONGEST_TOKEN = 8_192
"""Characters of an access token: base64 of the whole login has to fit into the 12 288 of RFC 4954 section 4."""
LONGEST_REFRESH_TOKEN = 4_096
_LONGEST_WORD = 100
_LONGEST_DESCRIPTION = 300

_SHORTEST = 4
"""Characters of a secret that is looked for in what a server says; a shorter one stands in any text by chance."""

_TOKEN = re.compile(r"[\x21-\x7e]+\Z")
_REFRESH_TOKEN = re.compile(r"[\x20-\x7e]+\Z")  # RFC 6749, appendix A.17
_SECONDS = re.compile(r"[0-9]{1,9}\Z")
_LATER = frozenset({408, 425, 429})
_TEMPORARY_WORDS = frozenset({"temporarily_unavailable", "server_error", "slow_down"})


@dataclass(frozen=True, slots=True)
class OAuth:
    """What an access token is asked for with.

    `grant` names the consent that the refresh token stands for: it is new whenever somebody gives a refresh token, and
    stays when the token server replaces one by another. So two of these are equal as long as nobody has set anything.
    """

    token_url: str
    client_id: str
    client_secret: Secret
    refresh_token: Secret = field(compare=False)
    grant: str
    scope: str | None = None

    def without_secrets(self, text: str) -> str:
        """Return a text of the token server without our secrets, should it repeat them."""
        for secret in (self.client_secret, self.refresh_token):
            if len(secret.reveal()) >= _SHORTEST:
                for spoken in (secret.reveal(), quote_plus(secret.reveal())):
                    text = text.replace(spoken, str(secret))
        return text


@dataclass(frozen=True, slots=True)
class Grant:
    """An access token, for how many seconds it is good, and the refresh token that replaces the one that was used."""

    access_token: Secret
    seconds: float
    refresh_token: Secret | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The token server does not give one, and asking again is pointless: somebody has to set the account anew."""

    word: str
    description: str = ""

    def __str__(self) -> str:
        return f"{self.word}: {self.description}" if self.description else self.word


@dataclass(frozen=True, slots=True)
class Away:
    """There is no answer that could be understood; it may be another one later."""

    text: str


TokenAnswer: TypeAlias = Grant | Refused | Away


def understand(asked_with: OAuth, status: int, body: bytes) -> TokenAnswer:
    """Say what an answer of a token server means (RFC 6749 sections 5.1 and 5.2). Believes no type and no length."""
    fields = _object(body)
    if status == 200:
        return Away("what it answered is no JSON object") if fields is None else _grant(fields)
    word = fields.get("error") if fields is not None else None
    if not 400 <= status < 500 or status in _LATER or not isinstance(word, str) or word in _TEMPORARY_WORDS:
        redirect = ", a redirect, which is not followed" if 300 <= status < 400 else ""
        return Away(f"it answered {status}{redirect}")
    description = (fields or {}).get("error_description")
    return Refused(
        printable(asked_with.without_secrets(word), _LONGEST_WORD),
        printable(asked_with.without_secrets(description), _LONGEST_DESCRIPTION)
        if isinstance(description, str)
        else "",
    )


def _object(body: bytes) -> dict[str, object] | None:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _grant(fields: dict[str, object]) -> TokenAnswer:
    token, kind = fields.get("access_token"), fields.get("token_type", "bearer")
    if not isinstance(token, str) or not _TOKEN.match(token) or len(token) > LONGEST_TOKEN:
        return Away("its access_token is none that can be used")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        return Away("its token_type is not bearer")
    seconds = _life(fields.get("expires_in", USUAL_LIFE))
    if seconds is None:
        return Away("its expires_in is no number of seconds")
    refresh = fields.get("refresh_token")
    if refresh is None:
        return Grant(Secret(token), seconds)
    if not isinstance(refresh, str) or not _REFRESH_TOKEN.match(refresh) or len(refresh) > LONGEST_REFRESH_TOKEN:
        return Away("its refresh_token is none that can be used")
    return Grant(Secret(token), seconds, Secret(refresh))


def _life(told: object) -> float | None:
    """Read `expires_in`. Some servers send the number as text."""
    if isinstance(told, str) and _SECONDS.match(told):
        told = int(told)
    if isinstance(told, bool) or not isinstance(told, int | float) or not told >= 0:
        return None
    return float(min(told, LONGEST_LIFE))
