"""The message as it goes over the wire (RFC 5322, RFC 2045).

The bytes are a function of message and identity alone, so that every attempt sends the same ones (G4). Everything is
put into ASCII; only an address with letters of other scripts before its `@` stays in UTF-8 (RFC 6532).
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import sha256
from time import gmtime
from urllib.parse import unquote

from mail_proxy.domain.address import Mailbox
from mail_proxy.domain.attachment import Attachment
from mail_proxy.domain.byte_source import ByteSource, base64_lines
from mail_proxy.domain.filename import disposition
from mail_proxy.domain.header import ENCODED_WORD, MAX_LINE, folded, phrase, text_header
from mail_proxy.domain.message import Identity, Message
from mail_proxy.domain.raw import RawMessage
from mail_proxy.domain.value import value

MAIL_ID_HEADER = "X-Genro-Mail-ID"

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_SAFE_IN_7BIT = bytes(range(0x20, 0x7F)) + b"\t\n"


@value
class Wire:
    """A composed message: CRLF line ends, not yet dot-stuffed, no Bcc."""  # G15

    parts: tuple[bytes | ByteSource, ...]
    size: int
    """Bytes in all, as the SIZE parameter of MAIL counts them (RFC 1870)."""
    eight_bit: bool = False
    """True when the server must offer 8BITMIME (RFC 6152)."""
    utf8_headers: bool = False
    """True when its headers are not all ASCII: the server must offer SMTPUTF8 (RFC 6531)."""


@value
class Entity:
    """A MIME entity (RFC 2045 section 2.4): its `Content-*` headers, and its body up to and with the last CRLF."""

    head: bytes
    body: tuple[bytes | ByteSource, ...]


def compose(message: Message, identity: Identity, contents: Sequence[ByteSource] = ()) -> Wire:
    """Write a message with the headers that the caller asked for and those that make it a message, and no other. G15.

    `message` is checked, as `build_message` returns it; `contents` are the bytes of its attachments in base64, as
    `base64_lines` writes them, in their order.
    The same arguments give the same bytes. # G4
    """
    if message.raw is not None:
        return _as_it_is(message.raw, identity)
    entity = _content(message, identity, contents)
    # Only addresses can be other than ASCII here: every text is encoded.
    head = _header_lines(message, identity).encode("utf-8")
    parts = tuple(_joined((head, entity.head, b"\r\n", *entity.body)))
    return Wire(
        parts=parts,
        size=sum(len(part) if isinstance(part, bytes) else part.size for part in parts),
        utf8_headers=not _ascii_addresses(message),
    )


def _as_it_is(raw: RawMessage, identity: Identity) -> Wire:
    """Send a complete message; what is to be added stands before it, where it changes nothing that may be signed."""
    added = [text_header(MAIL_ID_HEADER, identity.mail_id)]
    if not raw.dated:
        added.append(_date_line(int(identity.date)))
    if raw.message_id is None:
        added.append(f"Message-ID: <{identity.message_id}>\r\n")
    parts = ("".join(added).encode("ascii") + raw.head, *raw.body)
    return Wire(parts, sum(map(len, parts)), eight_bit=raw.eight_bit, utf8_headers=raw.utf8_headers)


def _header_lines(message: Message, identity: Identity) -> str:
    lines = [
        _date_line(int(identity.date)),
        address_header("From", (message.sender,)),
    ]
    for name, mailboxes in (("To", message.to), ("Cc", message.cc), ("Reply-To", message.reply_to)):
        if mailboxes:
            lines.append(address_header(name, mailboxes))
    lines.append(text_header("Subject", message.subject))
    lines.append(f"Message-ID: <{identity.message_id}>\r\n")
    lines.append(text_header(MAIL_ID_HEADER, identity.mail_id))
    lines.extend([text_header(name, value) for name, value in message.headers])
    lines.append("MIME-Version: 1.0\r\n")
    return "".join(lines)


@lru_cache(maxsize=64)
def _date_line(seconds: int) -> str:
    at = gmtime(seconds)
    day, month = _DAYS[at.tm_wday], _MONTHS[at.tm_mon - 1]
    clock = f"{at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d}"
    return f"Date: {day}, {at.tm_mday:02d} {month} {at.tm_year:04d} {clock} +0000\r\n"


def address_header(name: str, mailboxes: Sequence[Mailbox]) -> str:
    """Write a header of mailboxes, folded between them and between the words of their names."""
    if len(mailboxes) == 1 and not mailboxes[0].name:
        return f"{name}: {mailboxes[0].address}\r\n"
    pieces: list[str] = []
    for mailbox in mailboxes:
        if mailbox.name:
            room = ENCODED_WORD if pieces else ENCODED_WORD - len(name) - 1
            pieces.extend([" " + word for word in phrase(mailbox.name, room)])
            pieces.append(f" <{mailbox.address}>,")
        else:
            pieces.append(f" {mailbox.address},")
    pieces[-1] = pieces[-1][:-1]
    return folded(name, pieces)


def _ascii_addresses(message: Message) -> bool:
    """Look at the addresses in headers; those of the envelope alone are looked at one by one when they are used. G7."""
    return message.sender.address.isascii() and all(
        mailbox.address.isascii() for mailboxes in (message.to, message.cc, message.reply_to) for mailbox in mailboxes
    )


def _content(message: Message, identity: Identity, contents: Sequence[ByteSource]) -> Entity:
    files = list(zip(message.attachments, contents, strict=True))
    shown = _shown_ids(message.html) if files and message.html is not None else frozenset[str]()
    images = [file_entity(each, source, inline=True) for each, source in files if each.content_id in shown]
    body = _body(message, identity, images)
    attached = [file_entity(each, source) for each, source in files if each.content_id not in shown]
    if not attached:
        return body
    return multipart("mixed", (body, *attached), seed=(identity.message_id, "mixed"))


def _body(message: Message, identity: Identity, images: Sequence[Entity]) -> Entity:
    if message.html is None:
        return text_entity("plain", message.text or "")
    html = text_entity("html", message.html)
    if images:  # RFC 2387 section 3.1: the type of the first part is told
        html = multipart(
            "related", (html, *images), seed=(identity.message_id, "related"), parameters=' type="text/html";'
        )
    if message.text is None:
        return html
    # The plainest first: receivers show the last one that they can (RFC 2046 section 5.1.4).
    bodies = (text_entity("plain", message.text), html)
    return multipart("alternative", bodies, seed=(identity.message_id, message.text, message.html))


_CID = re.compile(r"""cid:([^\s"'<>()]+)""", re.IGNORECASE)


def _shown_ids(html: str) -> frozenset[str]:
    """The content ids that an HTML text refers to (RFC 2392)."""
    return frozenset(unquote(found) for found in _CID.findall(html.replace("&amp;", "&")))


def file_entity(attachment: Attachment, source: ByteSource, *, inline: bool = False) -> Entity:
    """Write an attachment as an entity of its own, in base64; `inline`: it is shown where the HTML says so."""
    content_id = "" if attachment.content_id is None else f"Content-ID: <{attachment.content_id}>\r\n"
    head = (
        f"Content-Type: {attachment.mime_type}\r\nContent-Transfer-Encoding: base64\r\n{content_id}"
        f"{disposition('inline' if inline else 'attachment', attachment.filename)}"
    )
    return Entity(head.encode("ascii"), (source,))


def text_entity(subtype: str, text: str) -> Entity:
    """Write a text as an entity of its own, in UTF-8; its line ends become CRLF, and the last line gets one."""
    encoding, body = transfer_encoded(text)
    head = f'Content-Type: text/{subtype}; charset="utf-8"\r\nContent-Transfer-Encoding: {encoding}\r\n'
    return Entity(head.encode("ascii"), (body,))


def transfer_encoded(text: str) -> tuple[str, bytes]:
    """Choose the transfer encoding that a text needs, and apply it: (`7bit`, `quoted-printable` or `base64`, lines).

    CR, LF and CRLF all end a line. Lines over 998 octets, NUL and other controls are encoded: what arrives is one
    message, whichever way its lines are counted. Of quoted-printable and base64 the shorter one is taken.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text and not text.endswith("\n"):
        text += "\n"
    data = text.encode("utf-8")
    if not data.translate(None, _SAFE_IN_7BIT) and _lines_fit(data):
        return "7bit", data.replace(b"\n", b"\r\n")
    quoted = binascii.b2a_qp(data, istext=True)
    if len(quoted) <= len(data) * 4 // 3 + len(data) // 28:
        return "quoted-printable", quoted.replace(b"\n", b"\r\n")
    return "base64", base64_lines(data.replace(b"\n", b"\r\n"))


def _lines_fit(data: bytes) -> bool:
    return len(data) <= MAX_LINE or max(map(len, data.split(b"\n"))) <= MAX_LINE


def multipart(subtype: str, entities: Sequence[Entity], seed: Iterable[str], parameters: str = "") -> Entity:
    """Put entities into one (RFC 2046 section 5.1). The same seed and entities give the same boundary."""
    mark = _boundary(entities, seed)
    pieces: list[bytes | ByteSource] = []
    for entity in entities:
        # The CRLF before a boundary belongs to the boundary.
        pieces += (b"--" + mark + b"\r\n" + entity.head + b"\r\n", *entity.body, b"\r\n")
    pieces.append(b"--" + mark + b"--\r\n")
    kind = f"Content-Type: multipart/{subtype};{parameters}"
    head = kind.encode("ascii") + b'\r\n boundary="' + mark + b'"\r\n'
    return Entity(head, tuple(pieces))


def _boundary(entities: Sequence[Entity], seed: Iterable[str]) -> bytes:
    """Return a boundary that is in none of the entities.

    `=_` never occurs in quoted-printable or base64, which is how streamed bytes are encoded. What is held in memory is
    searched.
    """
    digest = sha256("\0".join(seed).encode("utf-8"))
    held = [piece for entity in entities for piece in (entity.head, *entity.body) if isinstance(piece, bytes)]
    while True:
        mark = b"=_" + digest.hexdigest()[:32].encode("ascii")
        if not any(mark in piece for piece in held):
            return mark
        digest.update(mark)


def _joined(pieces: Iterable[bytes | ByteSource]) -> Iterator[bytes | ByteSource]:
    """Yield neighbouring bytes as one piece, and sources between them as they are."""
    held: list[bytes] = []
    for piece in pieces:
        if isinstance(piece, bytes):
            held.append(piece)
            continue
        if held:
            yield b"".join(held)
            held = []
        yield piece
    if held:
        yield b"".join(held)
