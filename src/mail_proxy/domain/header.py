"""Headers: which ones a caller may give, and how they are written in ASCII lines (RFC 5322, RFC 2047)."""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Iterable, Iterator

MAX_NAME = 64
MAX_LINE = 998
"""Octets in a line, its CRLF not counted (RFC 5322 section 2.1.1)."""
FOLD_AT = 78
ENCODED_WORD = 75
"""Characters in one encoded word, its delimiters counted (RFC 2047 section 2)."""

_FTEXT = re.compile(r"[!-9;-~]+\Z")
_STRUCTURAL = frozenset(
    "from to cc bcc sender reply-to return-path date message-id subject received x-genro-mail-id".split()
)
_STRUCTURAL_PREFIXES = ("mime-", "content-", "resent-", "dkim-", "arc-")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_ENCODED = re.compile(r"=\?([^?]*)\?([bBqQ])\?([^?]*)\?=")
# Character sets in which every line break is a control byte. Others (UTF-7, UTF-16, EBCDIC) can hide one in letters.
_PLAIN_CHARSET = re.compile(
    r"(?:utf-?8|us-ascii|iso-8859-\d+|windows-12\d\d|koi8-[ru]|gb2312|gbk|gb18030|big5|euc-(?:jp|kr))(?:\*.*)?\Z",
    re.IGNORECASE,
)

# Those in which other octets than ASCII's are line breaks: what they hide does not show.
_HIDING_CHARSET = re.compile(
    r".*(?:utf-?(?:7|16|32)|ucs|unicode|ebcdic)"
    r"|(?:cp|ibm)-?0*(?:37|2[789]\d|4[29]\d|500|838|87\d|880|905|924|1026|1047|11[45]\d)\b",
    re.IGNORECASE,
)
_CONTROL_OCTETS = bytes([*range(0x20), 0x7F])
_SWITCHES = b"\t\x0e\x0f\x1b"

_DIRECTION_ENDS = dict.fromkeys("\u202a\u202b\u202d\u202e", "\u202c") | dict.fromkeys("\u2066\u2067\u2068", "\u2069")
_DIRECTIONS_END = frozenset(_DIRECTION_ENDS.values())

_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*\Z")
_NEEDS_BACKSLASH = re.compile(r'(["\\])')
# What an encoded word may hold as it is, also in a display name (RFC 2047 section 5 (3)).
_Q_SAFE = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/"
_Q_COSTS_ONE = _Q_SAFE + b" "
_WRAP = len("=?utf-8?q??=")
_Q = tuple("_" if byte == 0x20 else chr(byte) if byte in _Q_SAFE else f"={byte:02X}" for byte in range(256))


def is_field_name(name: str) -> bool:
    """True for what may be the name of a header (RFC 5322 section 3.6.8)."""
    return _FTEXT.match(name) is not None


def name_problem(name: str) -> str | None:
    """Say why a caller may not give a header of this name, or None."""
    if not is_field_name(name):
        return "a header's name is made of printable ASCII characters without space and colon"
    if len(name) > MAX_NAME:
        return f"a header's name has at most {MAX_NAME} characters"
    lower = name.lower()
    if lower in _STRUCTURAL or lower.startswith(_STRUCTURAL_PREFIXES):
        return f"the header {name} is made by the service and cannot be given"
    return None


def text_problem(text: str) -> str | None:
    """Say why a text cannot stand in a header, as value or as display name, or None.

    An encoded word is refused when it decodes to a control character, or is in a character set where one can hide:
    a receiver that decodes too early would see a line break (CVE-2024-6923).
    """
    if text.isprintable() and "=?" not in text:
        return None
    if _CONTROL.search(text):
        return "must not contain line breaks or other control characters"
    if _SURROGATE.search(text):
        return "must not contain half of a surrogate pair"
    if any(_smuggles(*found.groups()) for found in _ENCODED.finditer(text)):
        return "must not contain an encoded word that hides control characters"
    return None


def spills_direction(name: str) -> bool:
    """True where a name changes the direction of writing and does not change it back (Unicode UAX #9, section 2).

    What a program shows behind the name, the address above all, would then be shown turned round.
    """
    waiting: list[str] = []
    for character in name:
        if end := _DIRECTION_ENDS.get(character):
            waiting.append(end)
        elif character in _DIRECTIONS_END and (not waiting or waiting.pop() != character):
            return True
    return bool(waiting)


def hides_a_line_break(text: str) -> bool:
    """True where an encoded word in a header that others have written decodes to more than text.

    Any character set may be named there, other than in a text that a caller gives: only those are refused that have
    line breaks in other octets than ASCII's.
    """
    if "=?" not in text:
        return False
    if _hides_in_several(text):
        return True
    for charset, encoding, payload in _ENCODED.findall(text):
        if _HIDING_CHARSET.match(charset):
            return True
        if (decoded := _decoded(encoding, payload)) is not None:
            # What switches character sets, in ISO-2022-JP for instance, is part of the text.
            rest = decoded.translate(None, _SWITCHES)
            if len(rest.translate(None, _CONTROL_OCTETS)) != len(rest) or _controls_in_utf8(charset, rest):
                return True
    return False


def _hides_in_several(text: str) -> bool:
    """True where encoded words in UTF-8 decode to a control character of which each has a part."""
    words = [_decoded(encoding, payload) for charset, encoding, payload in _ENCODED.findall(text) if _is_utf(charset)]
    return len(words) > 1 and bool(_CONTROL.search(b"".join(filter(None, words)).decode("utf-8", "replace")))


def _is_utf(charset: str) -> bool:
    return charset.lower().startswith("utf")


def _smuggles(charset: str, encoding: str, payload: str) -> bool:
    if not _PLAIN_CHARSET.match(charset):
        return True
    decoded = _decoded(encoding, payload)
    if decoded is None:
        return False
    return len(decoded.translate(None, _CONTROL_OCTETS)) != len(decoded) or _controls_in_utf8(charset, decoded)


def _decoded(encoding: str, payload: str) -> bytes | None:
    """Decode what an encoded word holds; None where it is no base64, so that nobody decodes it."""
    data = payload.encode("utf-8")
    if encoding in "qQ":
        return binascii.a2b_qp(data, header=True)
    try:
        return binascii.a2b_base64(data + b"==")
    except binascii.Error:
        return None


def _controls_in_utf8(charset: str, decoded: bytes) -> bool:
    return _is_utf(charset) and bool(_CONTROL.search(decoded.decode("utf-8", "replace")))


def text_header(name: str, value: str) -> str:
    """Write an unstructured header: ASCII lines, each with its CRLF; a parser reads exactly `value` from them.

    Plain ASCII stays readable and is folded at spaces. Everything else becomes encoded words: other scripts, text that
    looks like an encoded word, spaces at the ends, and words that would not fit a line.
    """
    line = f"{name}: {value}\r\n"
    if value.isascii() and value.isprintable() and "=?" not in value and value.strip(" ") == value:
        if len(line) <= FOLD_AT + 2:
            return line
        pieces = re.findall(" +[^ ]+", " " + value)
        if len(name) + 1 + len(pieces[0]) <= MAX_LINE and max(map(len, pieces)) <= MAX_LINE:
            return folded(name, pieces)
    words = encoded_words(value, ENCODED_WORD + 1 - len(name) - 2)
    return folded(name, (" " + word for word in words))


def folded(name: str, pieces: Iterable[str]) -> str:
    """Join a header's pieces, each with its leading space, to lines of at most 78 characters where that is possible.

    The first piece stays on the header's own line: one with the name alone is misread by some.
    """
    lines: list[str] = []
    line = name + ":"
    first = True
    for piece in pieces:
        if len(line) + len(piece) > FOLD_AT and not first:
            lines.append(line)
            line = piece
        else:
            line += piece
        first = False
    lines.append(line)
    return "\r\n".join(lines) + "\r\n"


def phrase(name: str, room: int) -> list[str]:
    """Write a display name as words that may be folded between (RFC 5322 section 3.2.5); the first fits `room`."""
    if name.isascii() and name.isprintable() and "=?" not in name:
        if _ATOMS.match(name):
            return name.split(" ")
        quoted = '"' + _NEEDS_BACKSLASH.sub(r"\\\1", name) + '"'
        if len(quoted) <= MAX_LINE // 2:
            return [quoted]
    return encoded_words(name, room)


def encoded_words(text: str, room: int) -> list[str]:
    """Write a text as encoded words in UTF-8 (RFC 2047), the first of at most `room` characters where it can be.

    Characters are never divided between words. Of Q and B the shorter one is taken.
    """
    data = text.encode("utf-8")
    in_q = _cost_in_q(data)
    in_b = (len(data) + 2) // 3 * 4
    # Even beside the longest header name there is room for one character of four octets.
    first, later = max(room - _WRAP, 12), ENCODED_WORD - _WRAP
    if in_q <= in_b:
        return [_in_q(data)] if in_q <= first else [_in_q(part) for part in _parts(text, first, later, _cost_in_q)]
    if in_b <= first:
        return [_in_b(data)]
    return [_in_b(part) for part in _parts(text, first // 4 * 3, later // 4 * 3, len)]


def _parts(text: str, first: int, later: int, cost: Callable[[bytes], int]) -> Iterator[bytes]:
    """Divide a text between characters, so that the cost of each part stays within its limit."""
    part, left = b"", first
    for character in text:
        octets = character.encode("utf-8")
        needed = cost(octets)
        if needed > left:
            yield part
            part, left = b"", later
        part += octets
        left -= needed
    yield part


def _cost_in_q(data: bytes) -> int:
    return len(data) + 2 * len(data.translate(None, _Q_COSTS_ONE))


def _in_q(data: bytes) -> str:
    return "=?utf-8?q?" + "".join([_Q[byte] for byte in data]) + "?="


def _in_b(data: bytes) -> str:
    return "=?utf-8?b?" + binascii.b2a_base64(data, newline=False).decode("ascii") + "?="
