"""What a server can do, and what it therefore cannot be given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mail_proxy.domain.attempt import Answer, Stage
from mail_proxy.domain.compose import Wire
from mail_proxy.domain.reply import Reply


@dataclass(frozen=True, slots=True)
class Extensions:
    """The extensions of an EHLO reply that a transaction makes use of."""

    pipelining: bool = False
    """RFC 2920."""
    eight_bit: bool = False
    """8BITMIME, RFC 6152."""
    utf8: bool = False
    """SMTPUTF8, RFC 6531."""
    size: bool = False
    """SIZE, RFC 1870."""
    size_limit: int | None = None
    """Bytes that a message may have; None where the server names no limit."""

    @classmethod
    def of(cls, offered: Mapping[str, str]) -> Extensions:
        """Read them from keyword (lower case) and parameters."""
        limit = offered.get("size", "").strip()
        # RFC 1870 section 4: 0, or no number, means that no fixed limit is in force.
        size_limit = int(limit) if limit.isascii() and limit.isdigit() and len(limit) <= 20 else 0
        return cls(
            pipelining="pipelining" in offered,
            eight_bit="8bitmime" in offered,
            utf8="smtputf8" in offered,
            size="size" in offered,
            size_limit=size_limit or None,
        )

    def refusal(self, wire: Wire, *, utf8: bool) -> Answer | None:
        """Say why a message cannot be given to this server at all, or None; `utf8` when its sender needs SMTPUTF8."""
        if self.size_limit is not None and wire.size > self.size_limit:
            return _refusal("5.3.4", f"the message has {wire.size} bytes, the server takes {self.size_limit}")
        if (utf8 or wire.utf8_headers) and not self.utf8:
            return NO_UTF8
        if wire.eight_bit and not self.eight_bit:
            return _refusal("5.6.3", "the message needs 8BITMIME, which the server does not offer")
        return None


def _refusal(enhanced: str, text: str) -> Answer:
    """A word of our own, in place of the one that the server would say after having been sent everything."""
    return Answer(Reply(554, enhanced, text), Stage.MAIL)


NO_UTF8 = _refusal("5.6.7", "the address or a header needs SMTPUTF8, which the server does not offer")
