"""The bytes on the wire, read back by the standard library's parser."""

from __future__ import annotations

import email
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.policy import SMTP, compat32
from email.utils import getaddresses

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mail_proxy.domain.address import Mailbox
from mail_proxy.domain.byte_source import base64_lines
from mail_proxy.domain.compose import (
    Entity,
    Wire,
    address_header,
    compose,
    multipart,
    text_entity,
    transfer_encoded,
)
from mail_proxy.domain.header import text_problem
from mail_proxy.domain.message import Identity, Message

IDENTITY = Identity(mail_id="M1", message_id="abc@example.com", date=1_700_000_000.75)
MESSAGE = Message(
    sender=Mailbox("shop@example.com", "Shop"),
    to=(Mailbox("anna@example.org"),),
    cc=(),
    bcc=(Mailbox("hidden@example.net", "Hidden Person"),),
    subject="Your order",
    text="Hello\n",
)


def written(message: Message = MESSAGE, identity: Identity = IDENTITY) -> bytes:
    wire = compose(message, identity)
    assert all(isinstance(part, bytes) for part in wire.parts)
    data = b"".join(part for part in wire.parts if isinstance(part, bytes))
    assert wire.size == len(data)
    return data


def read(data: bytes) -> EmailMessage:
    parsed = email.message_from_bytes(data, policy=SMTP)
    assert isinstance(parsed, EmailMessage)
    return parsed


def content(part: EmailMessage) -> str:
    text = part.get_content()
    assert isinstance(text, str)
    return text.replace("\r\n", "\n")


def named(data: bytes, header: str) -> list[tuple[str, str]]:
    """The names and addresses in a header, by the older parser: the newer one puts spaces between encoded words."""
    line = str(email.message_from_bytes(data, policy=compat32)[header]).replace("\r\n", "")
    return [(str(make_header(decode_header(name))), address) for name, address in getaddresses([line])]


def assert_clean(data: bytes) -> None:
    """CRLF only, no line over 998 octets, ends with a line."""
    assert data.endswith(b"\r\n")
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n|\0", data)
    assert max(map(len, data.split(b"\r\n"))) <= 998


def lines_of(text: str) -> str:
    """The text as every receiver sees it: lines ended alike, and the last one ended."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if not text or text.endswith("\n") else text + "\n"


header_text = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]),
        st.sampled_from('abc "<>,;:@()[]\\=?_.éñ日本語🎉\u200d\u202e'),
    ),
    max_size=200,
).filter(lambda text: text_problem(text) is None)
names = header_text.map(lambda text: text.strip(" "))
bodies = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("a. \r\n\t\0=-é日\x1b\x85\u2028")),
    max_size=1500,
)
addresses = st.from_regex(r"[a-z0-9!#$%&'*+/^_`{|}~-]{1,20}@[a-z][a-z0-9]{0,20}(\.[a-z]{2,10}){0,2}", fullmatch=True)
mailboxes = st.builds(Mailbox, addresses, names)


def test_a_plain_message_has_the_headers_asked_for_and_no_other() -> None:
    assert written() == (
        b"Date: Tue, 14 Nov 2023 22:13:20 +0000\r\n"
        b"From: Shop <shop@example.com>\r\n"
        b"To: anna@example.org\r\n"
        b"Subject: Your order\r\n"
        b"Message-ID: <abc@example.com>\r\n"
        b"X-Genro-Mail-ID: M1\r\n"
        b"MIME-Version: 1.0\r\n"
        b'Content-Type: text/plain; charset="utf-8"\r\n'
        b"Content-Transfer-Encoding: 7bit\r\n"
        b"\r\n"
        b"Hello\r\n"
    )  # G15


def test_every_header_of_the_message_is_written() -> None:
    message = replace(
        MESSAGE,
        cc=(Mailbox("c@example.org"), Mailbox("d@example.org", "Dora, D.")),
        reply_to=(Mailbox("help@example.com"),),
        headers=(("X-Second", "2"), ("X-First", "1"), ("List-Unsubscribe", "<https://example.com/u?x=1>")),
    )
    parsed = read(written(message))
    assert parsed.keys() == [
        "Date",
        "From",
        "To",
        "Cc",
        "Reply-To",
        "Subject",
        "Message-ID",
        "X-Genro-Mail-ID",
        "X-Second",
        "X-First",
        "List-Unsubscribe",
        "MIME-Version",
        "Content-Type",
        "Content-Transfer-Encoding",
    ]
    assert parsed["Cc"].addresses[1].display_name == "Dora, D."
    assert parsed["Reply-To"] == "help@example.com"
    assert parsed["List-Unsubscribe"] == "<https://example.com/u?x=1>"


def test_a_bcc_recipient_appears_nowhere() -> None:
    data = written(replace(MESSAGE, to=(), html="<p>Hi"))
    assert b"hidden" not in data.lower()
    assert b"bcc" not in data.lower()
    assert read(data).get_all("To") is None  # G15


@given(header_text, names, st.lists(mailboxes, min_size=1, max_size=8), header_text)
@example("", "", [Mailbox("a@b")], "")
@example("=?utf-8?q?not_an_encoded_word?=", "=?utf-8?q?x?=", [Mailbox("a@b", "a  b")], " x ")
@example("word " * 40, "Doe, John", [Mailbox("a@b", 'a"b\\c')], "x" * 5000)
@example("日本語" * 60, "日本語" * 40, [Mailbox("a@b", "x" * 200)], "a" + " " * 2000 + "b")
def test_any_text_in_a_header_is_read_back_exactly(subject: str, name: str, to: list[Mailbox], extra: str) -> None:
    message = replace(
        MESSAGE, subject=subject, sender=Mailbox("shop@example.com", name), to=tuple(to), headers=(("X-Extra", extra),)
    )
    data = written(message)
    assert_clean(data)
    assert data.isascii()
    parsed = read(data)
    assert parsed["Subject"] == subject
    assert parsed["X-Extra"] == extra
    assert named(data, "From") == [(name, "shop@example.com")]
    assert named(data, "To") == [(mailbox.name, mailbox.address) for mailbox in to]
    assert [one.addr_spec for one in parsed["To"].addresses] == [mailbox.address for mailbox in to]
    assert len(parsed.keys()) == 10
    assert not parsed.defects
    assert content(parsed) == "Hello\n"


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=255))
def test_any_mail_id_comes_back_in_its_header(mail_id: str) -> None:
    data = written(identity=replace(IDENTITY, mail_id=mail_id))
    assert_clean(data)
    assert data.isascii()
    lines = data.split(b"\r\n\r\n")[0].split(b"\r\n")
    assert sum(not line.startswith(b" ") for line in lines) == 9, "unchecked text must not make headers either"
    if text_problem(mail_id) is None:
        assert read(data)["X-Genro-Mail-ID"] == mail_id


@given(bodies)
@example("")
@example(".\r\n.\n..\n\nQUIT\r\n")
@example("a\r\n.\rMAIL FROM:<x@y>\n")
@example("x" * 5000)
@example(("x" * 998 + "\n") * 2)
@example("nul\0nul")
@example("From here\nFrom there")
@example("trailing \nspace \t\n")
def test_any_body_is_read_back_with_its_line_ends_made_alike(text: str) -> None:
    data = written(replace(MESSAGE, text=text))
    assert_clean(data)
    assert data.isascii()
    parsed = read(data)
    assert not parsed.is_multipart()
    assert parsed.get_content_type() == "text/plain"
    payload = parsed.get_payload(decode=True)
    assert isinstance(payload, bytes)
    assert payload.decode("utf-8").replace("\r\n", "\n") == lines_of(text)


@given(bodies, bodies)
@example("--=_", "--=_\n--=_x--\n")
def test_text_and_html_become_alternatives_and_are_read_back(text: str, html: str) -> None:
    data = written(replace(MESSAGE, text=text, html=html))
    assert_clean(data)
    assert data.isascii()
    parsed = read(data)
    assert not parsed.defects
    assert parsed.get_content_type() == "multipart/alternative"
    parts = list(parsed.iter_parts())
    assert [part.get_content_type() for part in parts] == ["text/plain", "text/html"]
    payloads = [part.get_payload(decode=True) for part in parts]
    assert [p.decode("utf-8").replace("\r\n", "\n") for p in payloads if isinstance(p, bytes)] == [
        lines_of(text),
        lines_of(html),
    ]


@given(header_text, bodies, bodies)
def test_every_attempt_has_the_same_bytes(subject: str, text: str, html: str) -> None:
    message = replace(MESSAGE, subject=subject, text=text, html=html)
    assert written(message) == written(replace(message))  # G4


def test_html_alone_is_a_single_part() -> None:
    parsed = read(written(replace(MESSAGE, text=None, html="<p>Hi</p>")))
    assert parsed.get_content_type() == "text/html"
    assert content(parsed) == "<p>Hi</p>\n"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("plain ASCII\n", "7bit"),
        ("x" * 998, "7bit"),
        ("x" * 999, "quoted-printable"),
        ("x" * 997 + "\n" + "x" * 999, "quoted-printable"),
        ("Grüße aus Köln, und sonst nichts Neues\n", "quoted-printable"),
        ("escape \x1b[31m", "quoted-printable"),
        ("nul \0", "quoted-printable"),
        ("日本語のメール\n" * 10, "base64"),
    ],
)
def test_the_transfer_encoding_is_the_least_that_the_text_needs(text: str, encoding: str) -> None:
    assert transfer_encoded(text)[0] == encoding


def test_only_addresses_in_other_scripts_leave_ascii() -> None:
    local = Mailbox("büro@example.com", "Büro")
    wire = compose(replace(MESSAGE, to=(local,)), IDENTITY)
    assert wire.utf8_headers
    data = b"".join(part for part in wire.parts if isinstance(part, bytes))
    assert "<büro@example.com>".encode() in data
    assert read(data)["To"].addresses[0].display_name == "Büro"


@pytest.mark.parametrize("field", ["sender", "to", "cc", "reply_to"])
def test_headers_need_smtputf8_wherever_such_an_address_is_in_them(field: str) -> None:
    mailbox = Mailbox("büro@example.com")
    message = replace(MESSAGE, **{field: mailbox if field == "sender" else (mailbox,)})  # type: ignore[arg-type]
    assert compose(message, IDENTITY).utf8_headers
    # A recipient who is in no header needs it for himself alone.
    assert not compose(replace(MESSAGE, bcc=(mailbox,), return_path=mailbox.address), IDENTITY).utf8_headers
    assert not compose(MESSAGE, IDENTITY).utf8_headers
    assert not compose(MESSAGE, IDENTITY).eight_bit


def test_a_thousand_recipients_are_folded_to_short_lines() -> None:
    many = tuple(Mailbox(f"recipient{n}@example.org", f"Recipient Nr {n}") for n in range(1000))
    data = written(replace(MESSAGE, to=many))
    assert_clean(data)
    assert max(map(len, data.split(b"\r\n"))) <= 78
    assert len(read(data)["To"].addresses) == 1000


def test_a_long_ascii_header_stays_readable_and_is_folded_at_spaces() -> None:
    references = " ".join(f"<{n:032x}@mail.example.com>" for n in range(50))
    data = written(replace(MESSAGE, headers=(("References", references),)))
    assert b"=?" not in data
    assert max(map(len, data.split(b"\r\n"))) <= 78
    assert read(data)["References"] == references


def test_a_long_url_is_not_broken_while_it_fits_a_line() -> None:
    url = "<https://example.com/" + "u" * 900 + ">"
    data = written(replace(MESSAGE, headers=(("List-Unsubscribe", url),)))
    assert f"List-Unsubscribe: {url}\r\n".encode() in data


def test_a_boundary_is_never_found_in_a_part() -> None:
    first = multipart("alternative", (text_entity("plain", "a"), text_entity("html", "b")), seed=("x",))
    found = re.search(rb'boundary="(.+)"', first.head)
    assert found
    text = f"--{found[1].decode()}--\n"
    second = multipart("alternative", (text_entity("plain", text), text_entity("html", text)), seed=("x",))
    assert found[1] not in second.head


class _Stored:
    """A source that a test can look at."""

    size = 3_000_000_000

    async def chunks(self) -> AsyncIterator[bytes]:
        yield b""


def test_a_streamed_part_stays_a_source_between_bytes() -> None:
    source = _Stored()
    attachment = Entity(b"Content-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n", (source,))
    mixed = multipart("mixed", (text_entity("plain", "see below"), attachment), seed=("x",))
    assert sum(piece is source for piece in mixed.body) == 1
    assert mixed.body[-1] == b"--" + mixed.head.split(b'"')[1] + b"--\r\n"


def test_base64_lines_have_at_most_76_characters() -> None:
    data = bytes(range(256)) * 3
    lines = base64_lines(data).split(b"\r\n")
    assert max(map(len, lines)) == 76
    assert lines[-1] == b""
    assert base64_lines(b"") == b""


def test_a_quoted_name_escapes_what_would_end_it() -> None:
    assert address_header("To", (Mailbox("a@b.c", 'x" <evil@d.e>, "y'),)) == 'To: "x\\" <evil@d.e>, \\"y" <a@b.c>\r\n'


def test_a_wire_says_its_size_without_reading_it() -> None:
    wire = compose(MESSAGE, IDENTITY)
    assert isinstance(wire, Wire)
    assert wire.size == len(written())
