"""What an SMTP server answers: code, enhanced code, text (RFC 5321 section 4.2, RFC 3463)."""

from __future__ import annotations

import re

from mail_proxy.domain.value import value

MAX_TEXT = 500
_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:\s+|$)")
_NOT_PRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(text: str, limit: int = MAX_TEXT) -> str:
    """Return the text on one line, control characters as `?`, cut at `limit` characters.

    A hostile server's escape sequences must not reach a terminal, a log or a report.
    """
    beginning = text[: 8 * limit]  # of a hundred megabytes the words alone would take gigabytes  G11
    shown = _NOT_PRINTABLE.sub("?", " ".join(beginning.split()))
    return shown if len(shown) <= limit and len(beginning) == len(text) else shown[: limit - 1] + "…"


def is_enhanced(text: str, *, of: int) -> bool:
    """True when the text is an enhanced status code of the same class as a code (RFC 2034 section 4)."""
    return _ENHANCED.fullmatch(text) is not None and text[0] == str(of)[0]


@value
class Reply:
    """One reply of a server. `text` is printable, on one line, and has no enhanced code in front."""

    code: int
    enhanced: str | None
    text: str

    @classmethod
    def parse(cls, code: int, text: str) -> Reply:
        """Read the enhanced code from the text and make the rest printable.

        A multi-line reply repeats the enhanced code on each line (RFC 2034 section 4); each is taken out.
        """
        enhanced: str | None = None
        lines = []
        for line in text.splitlines():
            found = _ENHANCED.match(line.strip())
            if found and found[1][0] == str(code)[0]:
                enhanced = enhanced or found[1]
                lines.append(line.strip()[found.end() :])
            else:
                lines.append(line)
        return cls(code, enhanced, printable(" ".join(lines)))

    @property
    def accepted(self) -> bool:
        """True for 2xx."""
        return 200 <= self.code < 300

    @property
    def permanent(self) -> bool:
        """True for 5xx."""
        return 500 <= self.code < 600

    def __str__(self) -> str:
        return " ".join([part for part in (str(self.code), self.enhanced, self.text) if part])
