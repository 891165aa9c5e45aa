"""Complete messages that callers bring along (RFC 5322): checked, their line ends made CRLF, Bcc taken out.

Nothing in them is written anew, so that a signature over them stays valid. What cannot go out as it is, is refused:
no transfer encoding can be put around it here.
"""

from __future__ import annotations

import binascii
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.errors import MessageError
from email.header import decode_header, make_header
from itertools import chain

from mail_proxy.domain.header import MAX_LINE, hides_a_line_break, is_field_name

MAX_HEAD = 256 * 1024
"""Octets of the header section; beyond this, servers begin to refuse."""

# Characters of base64 that are read at a time: other tasks and threads get their turns in between.
_PIECE = 256 * 1024

_BASE64 = re.compile(r"[A-Za-z0-9+/]*\Z")
_BASE64_END = re.compile(r"[A-Za-z0-9+/]*={0,2}\Z")
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SHOWN, _SHOWN_ENCODED = 2000, 8000
_BLIND = frozenset({"bcc", "resent-bcc"})
# RFC 5322 section 3.6 and RFC 2045 section 3: with two of one, each receiver believes in another.
_AT_MOST_ONCE = (
    "From", "Sender", "Reply-To", "To", "Cc", "Subject", "Date", "Message-ID",
    "MIME-Version", "Content-Type", "Content-Transfer-Encoding",
)  # fmt: skip
_OURS = "x-genro-mail-id"


class MalformedRaw(ValueError):
    """A text is not a message that can be sent as it is; `problem` says why, in one plain sentence."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class RawMessage:
    """A message as it goes out, but for the headers that are put before it. CRLF alone ends its lines."""  # G15

    head: bytes
    """The header section, without Bcc and without the empty line that ends it."""
    body: tuple[bytes, ...]
    """The rest, from the empty line on, in pieces; nothing where the message ends with its headers."""
    size: int
    """Octets as they were given."""
    dated: bool
    """True when it has a Date of its own."""
    message_id: str | None
    """What its own Message-ID says; None when it has none."""
    subject: str | None
    """Its Subject as it reads, to be shown and searched; None when it has none."""
    eight_bit: bool
    """True when its body has octets beyond ASCII."""
    utf8_headers: bool
    """True when its headers have (RFC 6532)."""


def read_raw(encoded: str) -> RawMessage:
    """Read a message in base64 (RFC 4648 section 4, with its padding, no line breaks). Raises `MalformedRaw`.

    Takes a second for a hundred megabytes, and holds no second copy of them.
    """
    given = _Counted(_decoded(encoded))
    pieces = _with_crlf(given)
    start, rest = _divided(pieces)
    head = _read_head(start)
    body: list[bytes] = []
    eight_bit = False
    for piece in _sendable(rest, pieces):
        eight_bit = eight_bit or not piece.isascii()
        body.append(piece)
    return RawMessage(
        head=head.kept,
        body=tuple(body),
        size=given.octets,
        dated="date" in head.values,
        message_id=head.values.get("message-id"),
        subject=_as_it_reads(head.values.get("subject", "")) or None,
        eight_bit=eight_bit,
        utf8_headers=not head.kept.isascii(),
    )


# Bytes to lines


class _Counted:
    """Passes pieces on and counts their octets."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces
        self.octets = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.octets += len(piece)
            yield piece


def _decoded(encoded: str) -> Iterator[bytes]:
    wrong = "must be base64, with its padding and without line breaks"
    if len(encoded) % 4:
        raise MalformedRaw(wrong)
    for at in range(0, len(encoded), _PIECE):
        piece = encoded[at : at + _PIECE]
        last = at + _PIECE >= len(encoded)
        if not (_BASE64_END if last else _BASE64).match(piece):
            raise MalformedRaw(wrong)
        try:
            yield binascii.a2b_base64(piece)
        except binascii.Error:
            raise MalformedRaw(wrong) from None


def _with_crlf(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Make CR, LF and CRLF the same, and end the last line: nobody shall count lines in another way than we. G15."""
    held = b""
    ended = True
    for given in pieces:
        piece = held + given if held else given
        # Whether a line feed belongs to it shows in the next piece.
        held = b"\r" if piece.endswith(b"\r") else b""
        if held:
            piece = piece[:-1]
        if not piece:
            continue
        pairs = piece.count(b"\r\n")
        if piece.count(b"\r") != pairs or piece.count(b"\n") != pairs:
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
        ended = piece.endswith(b"\n")
        yield piece
    if held or not ended:
        yield b"\r\n"


def _divided(pieces: Iterator[bytes]) -> tuple[bytes, bytes]:
    """Take from the pieces up to the header section's end: (the section, what came behind it in the same piece)."""
    start = b""
    for piece in pieces:
        start += piece
        if start.startswith(b"\r\n"):
            return b"", start
        end = start.find(b"\r\n\r\n")
        if end >= 0:
            return start[: end + 2], start[end + 2 :]
        if len(start) > MAX_HEAD:
            break
    return start, b""


def _sendable(rest: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the body, once it is sure that SMTP carries it as it is (RFC 5321 section 4.5.3.1.6, RFC 2045 2.8)."""
    open_line = 0
    for piece in chain([rest] if rest else [], pieces):
        open_line = _check_lines(piece, open_line)
        yield piece


def _check_lines(piece: bytes, open_line: int) -> int:
    """Refuse what no server has to take; answer how many octets of its last line there are so far."""
    if b"\0" in piece:
        raise MalformedRaw("must not contain the character NUL: encode it, in base64 for instance")
    lines = piece.split(b"\r\n")
    longest = max(len(lines[0]) + open_line, *map(len, lines))
    if longest > MAX_LINE:
        raise MalformedRaw(f"has a line of more than {MAX_LINE} octets: encode it, in quoted-printable for instance")
    return len(lines[-1]) if len(lines) > 1 else open_line + len(piece)


# The header section


def _as_it_reads(value: str) -> str:
    """Return a header's text with its encoded words decoded, where they can be, as far as it is worth showing."""
    text = _words_decoded(value[:_SHOWN_ENCODED])
    return _UNSHOWN.sub("\N{REPLACEMENT CHARACTER}", text[:_SHOWN])


def _words_decoded(text: str) -> str:
    if "=?" not in text:
        return text
    try:
        return str(make_header(decode_header(text)))
    except (MessageError, LookupError, ValueError):
        return text


@dataclass(frozen=True, slots=True)
class _Head:
    kept: bytes
    values: dict[str, str]
    """The value of each header by its name in lower case, unfolded; of several the last."""


def _read_head(section: bytes) -> _Head:
    if len(section) > MAX_HEAD:
        raise MalformedRaw(f"has more than {MAX_HEAD} octets of headers")
    try:
        text = section.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedRaw("has headers that are neither ASCII nor UTF-8") from None
    kept: list[str] = []
    values: dict[str, str] = {}
    seen: Counter[str] = Counter()
    for number, field in enumerate(_fields(text), 1):
        name, colon, value = field.partition(":")
        # Blanks before the colon are old syntax (RFC 5322 section 4.5), and some receivers take them.
        name = name.rstrip(" \t")
        if not colon or not is_field_name(name):
            raise MalformedRaw(f"has headers of which number {number} is none: Name: value is the form")
        value = value.replace("\r\n", "").strip(" \t")
        if _CONTROL.search(value) or hides_a_line_break(value):
            raise MalformedRaw(f"has control characters in its header {name[:64]}, or an encoded word that hides some")
        lower = name.lower()
        if lower in _BLIND:
            continue  # G15
        seen[lower] += 1
        values[lower] = value
        kept.append(field + "\r\n")
    _check_names(seen, values)
    return _Head("".join(kept).encode("utf-8"), values)


def _fields(text: str) -> list[str]:
    """Divide into headers, each with its folds and without its last line end."""
    fields: list[list[str]] = []
    for line in text.split("\r\n")[:-1]:
        if len(line.encode("utf-8")) > MAX_LINE:
            raise MalformedRaw(f"has a line of more than {MAX_LINE} octets in its headers")
        if not line.startswith((" ", "\t")):
            fields.append([line])
        elif not fields:
            raise MalformedRaw("begins with a blank, where the name of its first header is expected")
        elif not line.strip(" \t"):
            # RFC 5322 section 3.2.2. Some receivers take it for the headers' end.
            raise MalformedRaw("has a line of nothing but blanks in its headers")
        else:
            fields[-1].append(line)
    return ["\r\n".join(lines) for lines in fields]


def _check_names(seen: Counter[str], values: dict[str, str]) -> None:
    if not values.get("from"):
        raise MalformedRaw("is not a complete message: it has no From header")
    for name in _AT_MOST_ONCE:
        if seen[name.lower()] > 1:
            raise MalformedRaw(f"has {seen[name.lower()]} {name} headers, and only one is allowed")
    if _OURS in seen:
        raise MalformedRaw("has the header X-Genro-Mail-ID, which is made by the service")
