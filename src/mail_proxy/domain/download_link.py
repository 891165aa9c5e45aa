"""Links to files that are too large to send: their tokens, and how a message tells of them. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from time import gmtime

from mail_proxy.domain.message import Message
from mail_proxy.domain.secret import Secret

PATH = "/files/"
SECRET_BYTES = 32
_NUMBER_BYTES = 8
_MAC_BYTES = 16
TOKEN_CHARACTERS = (_NUMBER_BYTES + _MAC_BYTES) // 3 * 4
_TOKEN = re.compile(rf"[A-Za-z0-9_-]{{{TOKEN_CHARACTERS}}}\Z")
_DAY, _HALF_DAY = 86400.0, 43200.0
# A comment as browsers read it: one without an end goes on for good.
_COMMENT_OR_END = re.compile(r"<!--(?:.*?-->|(?P<open>.*)\Z)|(?P<end></body\s*>)", re.IGNORECASE | re.DOTALL)
_MONTHS = (
    "January February March April May June July August September October November December"
).split()  # fmt: skip


@dataclass(frozen=True, slots=True)
class DownloadLink:
    """What a message tells of a file instead of carrying it. `until` is in Unix seconds."""

    filename: str
    size: int
    url: str
    until: float


def token_of(link: int, key: Secret) -> str:
    """Return the token of a link: its number, and a code that nobody else can make."""
    number = link.to_bytes(_NUMBER_BYTES, "big")
    return base64.urlsafe_b64encode(number + _code(number, key)).decode()


def link_in(token: str) -> int | None:
    """Return the number that a token names, whether or not it is genuine; None for what cannot be a token."""
    if not _TOKEN.match(token):
        return None
    return int.from_bytes(base64.urlsafe_b64decode(token)[:_NUMBER_BYTES], "big")


def is_genuine(token: str, key: Secret) -> bool:
    """Say whether a token was made with this key; takes as long for a wrong code as for the right one."""
    try:
        raw = base64.urlsafe_b64decode(token)
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(raw[_NUMBER_BYTES:], _code(raw[:_NUMBER_BYTES], key))


def _code(number: bytes, key: Secret) -> bytes:
    return hmac.digest(bytes.fromhex(key.reveal()), b"file link " + number, hashlib.sha256)[:_MAC_BYTES]


def with_links(message: Message, links: Mapping[int, DownloadLink]) -> Message:
    """Return the message with links in place of the attachments at these positions."""
    if not links:
        return message
    told = [links[n] for n in sorted(links)]
    return replace(
        message,
        text=None if message.text is None else _with_text(message.text, told),
        html=None if message.html is None else _with_html(message.html, told),
        attachments=tuple(each for n, each in enumerate(message.attachments) if n not in links),
    )


def _with_text(text: str, links: Sequence[DownloadLink]) -> str:
    items = [
        f"- {each.filename} ({shown_size(each.size)}, until {shown_day(each.until)})\n  {each.url}" for each in links
    ]
    before = text if not text or text.endswith("\n") else text + "\n"
    return f"{before}\n{_heading(links)}\n\n" + "\n".join(items) + "\n"


def _with_html(html: str, links: Sequence[DownloadLink]) -> str:
    items = "".join(
        f'<li><a href="{escape(each.url)}">{escape(each.filename)}</a> '
        f"({shown_size(each.size)}, until {shown_day(each.until)})</li>"
        for each in links
    )
    block = f"<p>{_heading(links)}</p><ul>{items}</ul>"
    at = _end_of_what_is_shown(html)
    return html[:at] + block + html[at:]


def _end_of_what_is_shown(html: str) -> int:
    """Return the place of the last `</body>`, else the end; never within a comment, where nobody would see it."""
    found = [each for each in _COMMENT_OR_END.finditer(html) if each["end"] or each["open"] is not None]
    ends = [each for each in found if each["end"]] or found
    return ends[-1].start() if ends else len(html)


def _heading(links: Sequence[DownloadLink]) -> str:
    return "A file to download:" if len(links) == 1 else "Files to download:"


def shown_size(size: int) -> str:
    """Write a number of bytes for people."""
    for unit, most in (("bytes", 1000), ("kB", 1_000_000), ("MB", 1_000_000_000)):
        if size < most:
            return f"{size} bytes" if unit == "bytes" else f"{size * 1000 / most:.1f} {unit}"
    return f"{size / 1_000_000_000:.1f} GB"


def shown_day(until: float) -> str:
    """Write the last day that is over everywhere on Earth by a time in Unix seconds."""
    day = gmtime(((until - _HALF_DAY) // _DAY - 1) * _DAY)
    return f"{day.tm_mday} {_MONTHS[day.tm_mon - 1]} {day.tm_year}"


def end_of_day(ts: float) -> float:
    """Return when the day of a time (UTC) is over everywhere on Earth: at noon of the next day, UTC."""
    return (ts // _DAY + 1) * _DAY + _HALF_DAY
