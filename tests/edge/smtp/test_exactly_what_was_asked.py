"""From the JSON to the octets: the receiver sees exactly what was asked for, or the field is named that is refused.

Three look at what arrived: an SMTP server, the standard library's parser, and a few lines that look at octets alone.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email import message_from_string
from email.header import decode_header, make_header
from email.message import Message as Parsed
from email.utils import getaddresses

import idna
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from mail_proxy.domain.attempt import Envelope
from mail_proxy.domain.compose import compose
from mail_proxy.domain.message import Identity
from mail_proxy.domain.submission import build_message
from mail_proxy.intake.receipt import Rejected
from mail_proxy.intake.validation import check
from tests.edge.smtp.recording import Line, Seen, Taken, recorded_line

NOW = 1_760_000_000.0

HOSTILE = [
    "\r", "\n", "\r\n", "\0", "\t", "\x0b", "\x0c", "\x1b[31m", "\x7f", "\x85", "\u2028", "\u2029", "\ud800",
    "\udfff", "\u202e", "\u2066", "\u202c", "\u200f", "\u200d", "\ufeff", "\u00a0", "\u3002", "\uff0e", "\uff20",
    "\uff1c", "\u212a", "\r\nBcc: evil@example.net", "\nRCPT TO:<evil@example.net>\n", "\r\n\r\nbody",
    "\r\n.\r\nMAIL FROM:<evil@example.net>", "=?utf-8?q?a=0D=0ABcc:_evil=40example.net?=",
    "=?utf-8?b?DQpCY2M6IGU=?=", "=?utf-7?q?+AA0ACg-?=", "=?x?q?a?=", "=?", "?=", "=?utf-8?q?harmless?=", "=0A",
    "%0A", "%0d%0aBcc:%20x", "; name*=utf-8''%0D%0Ax", "*0*=", "(comment)", "(", ")", '"', "\\", '\\"', "<", ">",
    "<<", ">>", "> SIZE=1", "<a@b.c>", " RET=FULL", "@", "@relay.example:", "@a,@b:", ":", ";", ",",
    ", evil@example.net", ".", "..", "%", "!", "[127.0.0.1]", "xn--", "xn--a-\u00e4", "-", "_", " ", "  ", "x" * 70,
    "\u0308", "\u00df", "\U0001f389", "\u05d0\u05e0", "\u0627", "\u65e5\u672c",
]  # fmt: skip
hostile = st.sampled_from(HOSTILE)


def harmless(text: str) -> bool:
    """True for what may stand in any header, told without the code that is tested."""
    return "=?" not in text and not any(unicodedata.category(each) in {"Cc", "Cs", "Zl", "Zp"} for each in text)


# What is asked for


@dataclass(frozen=True, slots=True)
class Asked:
    """A mailbox as it is written into the JSON. `address` None: it was tampered with, and may be refused."""

    text: str
    name: str = ""
    address: str | None = None


plain_texts = st.text(
    st.one_of(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), st.sampled_from('ab ,"\\<>@')), max_size=120
).filter(harmless)

ATEXT = "abcXYZ019!#$%&'*+-/=?^_`{|}~"
locals_ = st.one_of(
    st.lists(st.text(ATEXT, min_size=1, max_size=9), min_size=1, max_size=3).map(".".join).filter(harmless),
    st.sampled_from(['"a b"', '"a,b@c"', '"a;b"', "é", "用户.名", "почта", "x" * 64, "日" * 21]),
)
domains = st.one_of(
    st.from_regex(r"[a-z0-9]([a-z0-9-]{0,9}[a-z0-9])?(\.[a-z][a-z0-9]{0,9}){1,3}", fullmatch=True).map(
        lambda d: (d, d)
    ),
    st.sampled_from(
        [
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.Example", "xn--bcher-kva.example"),
            ("bücher\u3002example", "xn--bcher-kva.example"),
            ("bücher\uff0eexample", "xn--bcher-kva.example"),
            ("faß.example", "xn--fa-hia.example"),
            ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("localhost", "localhost"),
        ]
    ),
)


# Without what changes the direction of writing, which is among the hostile texts.
names = plain_texts.map(lambda text: re.sub("[\u202a-\u202e\u2066-\u2069]", "", text).strip(" ")[:100].strip(" "))
SPECIALS = re.compile(r'[()<>\[\]:;@\\,"]|  ')


@st.composite
def mailboxes(draw: st.DrawFn) -> Asked:
    """One mailbox, well written."""
    local, (domain, in_ascii) = draw(locals_), draw(domains)
    address = f"{unicodedata.normalize('NFC', local)}@{in_ascii}"
    name = draw(names)
    if not name:
        return Asked(draw(st.sampled_from(["{}", " {} ", "<{}>", '"" <{}>'])).format(f"{local}@{domain}"), "", address)
    quoted = '"' + re.sub(r'(["\\])', r"\\\1", name) + '"'
    written = quoted if SPECIALS.search(name) or draw(st.booleans()) else name
    text = f"{written}{draw(st.sampled_from([' ', '', '  ']))}<{local}@{domain}>"
    return Asked(text, name, address)


@st.composite
def tampered(draw: st.DrawFn) -> Asked:
    """One mailbox into which something was put."""
    text = draw(st.one_of(mailboxes().map(lambda asked: asked.text), st.just("a@example.org")))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(hostile) + text[at:]
    return Asked(text)


good_names = st.one_of(
    st.text("ABCxyz019!#$%&'*+^_`{|}~.-", min_size=1, max_size=20).map("X-{}".format),
    st.sampled_from(["List-Unsubscribe", "References", "X" * 64]),
)
bad_names = st.sampled_from(
    [
        "Bcc", "bcc ", " Bcc", "BCC", "Bcc:", "X-Genro-mail-id", "Content-type", "SUBJECT", "mime-Version",
        "DKIM-signature", "Resent-bcc", "Received", "From\r\nBcc", "X-A\n", "X\u00a0", "\u017fubject", "X\u017f",
        "Bcc\0", "", "X" * 65, "To", "sender", "Reply-to", "Return-path", "Message-id", "DATE", "Arc-seal",
    ]
)  # fmt: skip
bad_texts = st.lists(st.one_of(hostile, st.text(max_size=12), st.text("abc xyz", max_size=30)), max_size=8).map("".join)
good_values = st.one_of(plain_texts, st.text(" ", min_size=1, max_size=100), plain_texts.map(lambda text: text * 9))
ids = st.one_of(
    st.text("ab=?_\u00e9\U0001f389 \u05d0.", min_size=1, max_size=255).filter(lambda text: text not in {".", ".."}),
    st.sampled_from(["=?utf-8?q?a=0ABcc:_x?=", "\U0001f389" * 255, "\u65e5" * 255, " a ", "a" * 255, " "]),
)


@dataclass(frozen=True, slots=True)
class Asking:
    """One submission. `wrong`: the field that something may be the matter with, and no other."""

    wrong: str | None
    mail_id: str
    sender: Asked
    to: list[Asked]
    cc: list[Asked]
    bcc: list[Asked]
    reply_to: list[Asked]
    subject: str
    headers: dict[str, str]
    return_path: Asked | None
    together: bool

    @property
    def item(self) -> dict[str, object]:
        """The submission as the JSON has it."""
        item: dict[str, object] = {"id": self.mail_id, "from": self.sender.text, "subject": self.subject, "body": "x\n"}
        item["headers"] = self.headers
        for field in ("to", "cc", "bcc", "reply_to"):
            item[field] = tell(getattr(self, field), together=self.together)
        if self.return_path is not None:
            item["return_path"] = self.return_path.text
        return item


@st.composite
def askings(draw: st.DrawFn) -> Asking:
    """Something to submit, in which one field at most is not as it should be."""
    wrong = draw(
        st.sampled_from([None, None, "from", "to", "cc", "bcc", "reply_to", "subject", "headers", "id", "return_path"])
    )
    people = {}
    for field, least in (("to", 1), ("cc", 0), ("bcc", 0), ("reply_to", 0)):
        people[field] = draw(st.lists(mailboxes(), min_size=least, max_size=3))
        if wrong == field:
            people[field].insert(draw(st.integers(0, len(people[field]))), draw(tampered()))
    headers = draw(st.dictionaries(good_names, good_values, max_size=2))
    if wrong == "headers" and draw(st.booleans()):
        headers[draw(bad_names)] = "x"
    elif wrong == "headers":
        headers["X-Bad"] = draw(bad_texts)
    bare = st.builds(lambda local, domain: Asked(f"{local}@{domain[0]}", "", f"{local}@{domain[1]}"), locals_, domains)
    path = st.one_of(st.none(), bare, bare.map(lambda asked: Asked(f"<{asked.text}>", "", asked.address)))
    return Asking(
        wrong=wrong,
        mail_id=draw(st.text(min_size=1, max_size=20) if wrong == "id" else ids),
        sender=draw(tampered() if wrong == "from" else mailboxes()),
        **people,
        subject=draw(bad_texts if wrong == "subject" else good_values),
        headers=headers,
        return_path=draw(tampered() if wrong == "return_path" else path),
        together=draw(st.booleans()),
    )


def tell(asked: Sequence[Asked], *, together: bool) -> object:
    """Write mailboxes as the JSON may have them: with commas between only where each is well written."""
    texts = [each.text for each in asked]
    return ", ".join(texts) if together and all(each.address is not None for each in asked) else texts


@pytest.fixture(scope="module")
def line() -> Iterator[Line]:
    """A way to a server that stays open; which messages took it before does not matter."""
    with recorded_line() as opened:
        yield opened


def arrived(line: Line, item: dict[str, object]) -> Seen | Rejected:
    """Submit and send; return what the octets say, on which the server agrees."""
    accepted = check(0, item, NOW)
    if isinstance(accepted, Rejected):
        assert accepted.reason.isprintable()
        return accepted
    message = build_message(json.loads(accepted.fields))
    wire = compose(message, Identity(accepted.id, message.message_id or "new@example.com", NOW))
    recipients = tuple(enumerate(address for address, _ in message.recipients()))
    attempt, taken, seen = line.send(Envelope(message.envelope_sender, recipients), wire)
    assert all(answer.accepted for answer in attempt.answers.values()), attempt
    (one,) = seen
    assert taken == [Taken(one.sender, one.recipients, one.content)]
    assert set(one.others) <= {"RSET", "NOOP", "EHLO client.example"}
    return one


def headers_of(content: bytes) -> list[tuple[str, str]]:
    """Take the header section apart by octets alone."""
    head, _, _ = content.partition(b"\r\n\r\n")
    assert not re.search(rb"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|(?<!\r)\n", head)
    assert max(map(len, content.split(b"\r\n"))) <= 998
    unfolded = head.decode("utf-8").replace("\r\n ", " ")
    return [
        (name, value.removeprefix(" ")) for name, _, value in (line.partition(":") for line in unfolded.split("\r\n"))
    ]


def decoded(parsed: Parsed, name: str, number: int = 0) -> str:
    """What the standard library's parser reads in a header."""
    value = parsed.get_all(name, [])[number].replace("\n", "")
    return str(make_header(decode_header(value))) if "=?" in value else value


def addressed(parsed: Parsed, name: str) -> list[tuple[str, str]]:
    """The names and addresses that the standard library reads in a header."""
    line = "".join(str(value).replace("\n", "") for value in parsed.get_all(name, []))
    return [(str(make_header(decode_header(name))), address) for name, address in getaddresses([line])]


def parsed_of(content: bytes) -> Parsed:
    return message_from_string(content.decode("utf-8").replace("\r\n", "\n"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(asking=askings())
def test_the_receiver_sees_exactly_the_recipients_and_headers_that_were_asked_for(line: Line, asking: Asking) -> None:
    result = arrived(line, asking.item)
    event("rejected" if isinstance(result, Rejected) else f"arrived, {asking.wrong or 'nothing'} wrong")
    if isinstance(result, Rejected):
        assert result.field == asking.wrong, result
        return
    assert not {name.lower() for name in asking.headers} & {"bcc", "to", "sender", "subject", "date", "received"}
    content = result.content
    parsed = parsed_of(content)
    # The headers that were asked for and no other, in this order (G15).
    written = {"To": asking.to, "Cc": asking.cc, "Reply-To": asking.reply_to}
    names = ["Date", "From", *(name for name, asked in written.items() if asked), "Subject", "Message-ID"]
    names += ["X-Genro-Mail-ID", *asking.headers, "MIME-Version", "Content-Type", "Content-Transfer-Encoding"]
    assert [name for name, _ in headers_of(content)] == names
    assert parsed.keys() == names
    assert not parsed.defects
    assert parsed.get_payload() == "x\n"
    assert decoded(parsed, "Subject") == asking.subject
    assert decoded(parsed, "X-Genro-Mail-ID") == asking.mail_id
    for name, value in asking.headers.items():
        number = [each for each in asking.headers if each.lower() == name.lower()].index(name)
        assert decoded(parsed, name, number) == value
    # Whoever was written well is there as he was written, and what was tampered with has only one meaning.
    assert addressed(parsed, "From") == _read([asking.sender])
    for name, asked in written.items():
        assert addressed(parsed, name) == _read(asked)
    everybody = [address for _, address in _read([*asking.to, *asking.cc, *asking.bcc])]
    assert list(result.recipients) == list(dict.fromkeys(everybody))
    path = asking.return_path or Asked(f"<{_read([asking.sender])[0][1]}>")
    assert result.sender == ("" if path.text.strip(" ") in {"", "<>"} else _read([path])[0][1])


def _read(asked: Sequence[Asked]) -> list[tuple[str, str]]:
    """The names and addresses that were meant; where they were tampered with, the only thing that can be meant."""
    return [(each.name, each.address) if each.address is not None else plainly(each.text) for each in asked]


def plainly(text: str) -> tuple[str, str]:
    """Read one mailbox as simply as can be: a name, and between the only angle brackets an address."""
    before, bracket, rest = text.strip(" ").rpartition("<")
    if not bracket:
        return "", spelled(rest)
    assert rest.endswith(">")
    name = before.strip(" ")
    if name.startswith('"'):
        assert re.fullmatch(r'"([^"\\]|\\.)*"', name), name
        return re.sub(r"\\(.)", r"\1", name[1:-1]).strip(" "), spelled(rest[:-1])
    assert not re.search(r'[()<>\[\]:;@\\,"]', name)
    return re.sub(" +", " ", name), spelled(rest[:-1])


def spelled(address: str) -> str:
    """The address as it goes out: letters composed, the domain in ASCII, no quotation marks that are not needed."""
    local, _, domain = address.rpartition("@")
    if not address.isascii():
        local = unicodedata.normalize("NFC", local)
    if re.fullmatch(r'"[A-Za-z0-9]+"', local) and not domain.isascii():
        local = local[1:-1]
    return f"{local}@{domain if domain.isascii() else idna.encode(domain, uts46=True).decode()}"
