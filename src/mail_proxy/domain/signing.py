"""Signatures of reports, by Standard Webhooks 1.0, and the secrets that make them. Pure."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field

from mail_proxy.domain.secret import Secret

PREFIX = "whsec_"
SECRET_BYTES = 32
"""Standard Webhooks asks for 24 to 64."""
OVERLAP = 86400.0
"""Seconds that a secret signs along after a newer one has taken its place."""
MOST_EARLIER = 3


@dataclass(frozen=True, slots=True)
class EarlierSecret:
    """A secret that another one has replaced; it signs along until then, in Unix seconds."""

    secret: Secret
    until: float


@dataclass(frozen=True, slots=True)
class Signing:
    """The secrets that sign a tenant's reports; none: they are not signed."""

    secret: Secret | None = None
    earlier: tuple[EarlierSecret, ...] = field(default=())
    """Newest first. There may be several: an answer with a new secret can be lost, and the next call makes another."""

    @property
    def earlier_until(self) -> float | None:
        """When the last of the earlier secrets ends; None where there are none."""
        return max((each.until for each in self.earlier), default=None)

    def renewed(self, secret: Secret, now: float) -> Signing:
        """Sign with another secret, and with those before it for a while."""
        if self.secret is None or secret == self.secret:
            return Signing(secret, self._living(now))
        replaced = EarlierSecret(self.secret, now + OVERLAP)
        return Signing(secret, (replaced, *self._living(now))[:MOST_EARLIER])

    def secrets(self, now: float) -> Sequence[Secret]:
        """Return those that sign at that time, the newest first."""
        if self.secret is None:
            return ()
        return (self.secret, *(each.secret for each in self._living(now)))

    def _living(self, now: float) -> tuple[EarlierSecret, ...]:
        return tuple(each for each in self.earlier if each.until > now)


def shown_secret(key: bytes) -> Secret:
    """Write the bytes of a key as receivers are given them."""
    return Secret(PREFIX + base64.b64encode(key).decode("ascii"))


def signatures(secrets: Sequence[Secret], report_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of `webhook-signature`: one `v1,…` for each secret, with spaces between them."""
    signed = f"{report_id}.{timestamp}.".encode("ascii") + body
    return " ".join(f"v1,{_mac(secret, signed)}" for secret in secrets)


def _mac(secret: Secret, signed: bytes) -> str:
    key = base64.b64decode(secret.reveal().removeprefix(PREFIX), validate=True)
    return base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode("ascii")
