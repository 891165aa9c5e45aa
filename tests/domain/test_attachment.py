"""What a submission says of its attachments, and how they stand in the message."""

from __future__ import annotations

import asyncio
import base64
import email
import hashlib
import json
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mail_proxy.delivery.in_base64 import InBase64
from mail_proxy.domain import attachment_auth
from mail_proxy.domain.attachment import INLINE, FetchMode, inferred_mode
from mail_proxy.domain.byte_source import base64_lines, size_in_lines
from mail_proxy.domain.compose import compose
from mail_proxy.domain.filename import MOST_OCTETS, disposition, media_type, safe_name
from mail_proxy.domain.message import Identity
from mail_proxy.domain.secret import Secret
from mail_proxy.domain.submission import build_message
from mail_proxy.domain.tenant import ClientAuth, ClientAuthMethod
from mail_proxy.intake.receipt import Rejected
from mail_proxy.intake.validation import Accepted, check, digest
from tests.flows.intake_fakes import item
from tests.support.sources import Held, read_all

MD5 = hashlib.md5(b"Hello", usedforsecurity=False).hexdigest()
SHA256 = hashlib.sha256(b"Hello").hexdigest()


def an_attachment(**changes: object) -> dict[str, object]:
    given = {"filename": "hello.txt", "storage_path": "base64:SGVsbG8="} | changes
    return {name: value for name, value in given.items() if value is not ...}


def checked(*attachments: object, max_attachment: int = 1000, **changes: object) -> Accepted | Rejected:
    return check(0, item(attachments=list(attachments), **changes), 1_760_000_000.0, max_attachment)


def accepted(*attachments: object, **changes: object) -> Accepted:
    result = checked(*attachments, **changes)  # type: ignore[arg-type]
    assert isinstance(result, Accepted), result
    return result


def shown(*attachments: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(accepted(*attachments).fields)["attachments"]
    return found


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("base64:SGVsbG8=", FetchMode.BASE64),
        ("http://a.example/x", FetchMode.HTTP_URL),
        ("HTTPS://a.example/x", FetchMode.HTTP_URL),
        ("/abs/file.pdf", FetchMode.FILESYSTEM),
        ("rel/file.pdf", FetchMode.ENDPOINT),
        ("doc_id=123", FetchMode.ENDPOINT),
        ("SGVsbG8=", FetchMode.ENDPOINT),
    ],
)
def test_the_beginning_of_the_path_says_what_is_meant(path: str, mode: FetchMode) -> None:
    assert inferred_mode(path) is mode


@pytest.mark.parametrize(
    ("given", "name", "md5"),
    [
        ("report_{MD5:A1B2C3D4E5F6}.pdf", "report.pdf", "a1b2c3d4e5f6"),
        ("report-{MD5:" + MD5 + "}.pdf", "report.pdf", MD5),
        ("report__{MD5:01234567}", "report_", "01234567"),
        ("{MD5:01234567}", "attachment", "01234567"),
        ("report.pdf", "report.pdf", None),
    ],
)
def test_a_marker_names_the_content_and_leaves_the_name(given: str, name: str, md5: str | None) -> None:
    (entry,) = shown(an_attachment(filename=given, storage_path="doc=1"))
    assert (entry["filename"], entry.get("content_md5")) == (name, md5)


def test_a_digest_that_was_given_wins_over_the_marker() -> None:
    (entry,) = shown(an_attachment(filename="a_{MD5:01234567}.txt", content_md5=MD5.upper(), content_sha256=SHA256))
    assert (entry["content_md5"], entry["content_sha256"], entry["size"]) == (MD5, SHA256, 5)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("[0]", None),
        ("[0].filename", {"filename": ...}),
        ("[0].filename", {"filename": 5}),
        ("[0].filename", {"filename": "x" * 20_001}),
        ("[0].filename", {"filename": "a{MD5:0123}.txt"}),
        ("[0].filename", {"filename": "a{MD5:" + "0" * 33 + "}.txt"}),
        ("[0].storage_path", {"storage_path": ...}),
        ("[0].storage_path", {"storage_path": "base64:SGVsbG8"}),
        ("[0].storage_path", {"storage_path": "base64:SGVs bG8="}),
        ("[0].storage_path", {"storage_path": "base64:SGVsbG8=SGVsbG8="}),
        ("[0].storage_path", {"storage_path": "base64:" + "AAAA" * 400}),
        ("[0].storage_path", {"storage_path": ""}),
        ("[0].storage_path", {"storage_path": "doc=\r\n1"}),
        ("[0].storage_path", {"storage_path": "/etc/\0passwd"}),
        ("[0].storage_path", {"storage_path": "/srv/../etc/passwd"}),
        ("[0].storage_path", {"storage_path": "https://user:secret@a.example/"}),
        ("[0].storage_path", {"storage_path": "https:///x"}),
        ("[0].storage_path", {"storage_path": "https://[::1/x"}),
        ("[0].storage_path", {"storage_path": "ftp://a.example/x", "fetch_mode": "http_url"}),
        ("[0].storage_path", {"storage_path": "x" * 8001}),
        ("[0].fetch_mode", {"fetch_mode": "smb"}),
        ("[0].mime_type", {"mime_type": "text/plain\r\nBcc: x@y.z"}),
        ("[0].mime_type", {"mime_type": "text/plain; charset=utf-8"}),
        ("[0].mime_type", {"mime_type": "text"}),
        ("[0].mime_type", {"mime_type": "message/rfc822"}),
        ("[0].content_md5", {"content_md5": MD5[:-1]}),
        ("[0].content_md5", {"content_md5": "0" * 32}),
        ("[0].content_sha256", {"content_sha256": "0" * 64}),
        ("[0].content_sha256", {"content_sha256": "x" * 64}),
        ("[0].content_id", {"content_id": "<logo>"}),
        ("[0].content_id", {"content_id": "a\r\nb"}),
        ("[0].content_id", {"content_id": ""}),
        ("[0].auth", {"auth": {"method": "bearer", "token": "t"}}),
        ("[0].auth", {"auth": {"method": "bearer"}, "storage_path": "https://a.example/"}),
        ("[0].auth", {"auth": {"method": "basic", "user": "u"}, "storage_path": "https://a.example/"}),
        ("[0].auth", {"auth": {"method": "bearer", "token": "a\nb"}, "storage_path": "https://a.example/"}),
        ("[0].auth.method", {"auth": {"method": "digest"}, "storage_path": "https://a.example/"}),
        ("[0].size", {"size": 5}),
    ],
)
def test_what_is_wrong_is_refused_by_its_field(field: str, changes: dict[str, object] | None) -> None:
    refused = checked("text" if changes is None else an_attachment(**changes))
    assert isinstance(refused, Rejected)
    assert (refused.field, refused.code) == (f"attachments{field}", "invalid")
    assert refused.reason.isprintable()


def test_there_are_bounds_to_their_number_and_a_content_id_is_one_attachments_alone() -> None:
    many = checked(*[an_attachment()] * 101)
    twice = checked(an_attachment(content_id="a"), an_attachment(content_id="a"))
    both = checked(an_attachment(), raw="RnJvbTogYUBiLmMNCg0KeA0K", subject=..., body=...)
    assert isinstance(many, Rejected)
    assert isinstance(twice, Rejected)
    assert isinstance(both, Rejected)
    assert (many.field, twice.field, both.field) == ("attachments", "attachments[1].content_id", "attachments")
    accepted(*[an_attachment()] * 100)


def test_the_same_attachments_are_the_same_submission_and_other_ones_another() -> None:
    auth = {"method": "basic", "user": "u", "password": "canary-password"}
    base = an_attachment(storage_path="https://a.example/", auth=auth)
    same = dict(reversed(base.items())) | {"mime_type": None}
    others: list[dict[str, object]] = [
        base | {"auth": auth | {"password": "other"}},
        base | {"storage_path": "https://a.example/2"},
        base | {"filename": "b"},
    ]
    digests = [digest(item(attachments=[each])) for each in (base, same, *others)]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4
    stored = accepted(base)
    assert stored.auths is not None
    assert "canary-password" in stored.auths.reveal()
    assert "canary" not in stored.fields
    assert "canary" not in repr(stored)


names = st.text(st.one_of(st.characters(), st.sampled_from("\"\\/:.\r\n\0éñ日本🎉\u200d\u202e%'=?* ;")), max_size=300)


@given(names.map(lambda text: text.encode("utf-8", "ignore").decode("utf-8")))
@example("x" * 10_000 + ".pdf")
@example("../../etc/passwd")
@example("C:\\windows\\system32\\x.dll")
@example('a"; filename="b.exe')
@example("=?utf-8?q?=0D=0A?=")
@settings(max_examples=60)
def test_any_name_becomes_one_that_is_safe_and_arrives(given: str) -> None:
    name = safe_name(given)
    assert safe_name(name) == name
    assert 0 < len(name.encode("utf-8")) <= MOST_OCTETS
    assert not set('/\\"\r\n\0') & set(name)
    assert name.strip(".")
    header = disposition("attachment", name)
    assert header.isascii()
    assert all(len(line) <= 78 for line in header.split("\r\n"))
    parsed = email.message_from_string(f"{header}\r\n", policy=SMTP)
    assert parsed.get_filename() == name
    assert parsed.get_content_disposition() == "attachment"


def test_types_go_by_the_extension_alone() -> None:
    assert [media_type(name) for name in ("a.PDF", "a.tar.gz", "a.docx", "a.eml", "pdf", "a.")] == [
        "application/pdf",
        "application/gzip",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        *["application/octet-stream"] * 3,
    ]


async def written(given: dict[str, object], *contents: bytes, auths: dict[int, ClientAuth] | None = None) -> bytes:
    message = build_message(given, auths)
    wire = compose(message, Identity("M1", "m@x.example", 0.0), [InBase64(Held(each)) for each in contents])
    data = b"".join([part if isinstance(part, bytes) else await read_all(part) for part in wire.parts])
    assert wire.size == len(data)
    return data


def stored(*attachments: object, **changes: object) -> dict[str, object]:
    fields: dict[str, object] = json.loads(accepted(*attachments, **changes).fields)
    return fields


async def test_images_stand_beside_the_html_that_shows_them_and_the_rest_is_attached() -> None:
    fields = stored(
        an_attachment(filename="logo.png", content_id="logo@x"),
        an_attachment(filename="unused.png", content_id="unused"),
        an_attachment(filename="a.pdf", storage_path="doc=1"),
        body=...,
        text="t",
        html='<img src="cid:logo%40x">',
    )
    data = await written(fields, b"\x89PNG", b"2", b"%PDF")
    assert data == await written(fields, b"\x89PNG", b"2", b"%PDF")
    parsed = email.message_from_bytes(data, policy=SMTP)
    assert isinstance(parsed, EmailMessage)
    assert [part.get_content_type() for part in parsed.walk()] == [
        "multipart/mixed", "multipart/alternative", "text/plain", "multipart/related", "text/html", "image/png",
        "image/png", "application/pdf",
    ]  # fmt: skip
    logo, unused, pdf = (part for part in parsed.walk() if part.get_filename())
    assert (logo["Content-ID"], logo.get_content_disposition()) == ("<logo@x>", "inline")
    assert (unused["Content-ID"], unused.get_content_disposition()) == ("<unused>", "attachment")
    assert pdf.get_payload(decode=True) == b"%PDF"
    (related,) = (part for part in parsed.walk() if part.get_content_type() == "multipart/related")
    assert related.get_param("type") == "text/html"


@given(st.binary(max_size=500), st.lists(st.integers(1, 200), max_size=10))
@settings(max_examples=50)
def test_bytes_are_encoded_alike_however_they_come(data: bytes, cuts: list[int]) -> None:
    encoded = InBase64(Held(data, cuts))
    assert asyncio.run(read_all(encoded)) == base64_lines(data)
    assert encoded.size == size_in_lines(len(data)) == len(base64_lines(data))


def test_credentials_come_back_by_position_and_show_nothing() -> None:
    auths = {
        0: ClientAuth(ClientAuthMethod.BEARER, token=Secret("t")),
        3: ClientAuth(ClientAuthMethod.BASIC, user="u", password=Secret("p")),
    }
    text = attachment_auth.written(auths)
    assert attachment_auth.read(text) == auths
    assert attachment_auth.written({}) is None
    assert attachment_auth.read(None) == {}


def test_inline_bytes_stand_apart_from_what_is_shown() -> None:
    fields = stored(an_attachment(), an_attachment(storage_path="doc=1"))
    assert fields[INLINE] == ["SGVsbG8=", None]
    message = build_message(fields)
    assert [each.storage_path for each in message.attachments] == ["SGVsbG8=", "doc=1"]
    assert "SGVsbG8" not in repr(message)
    assert base64.b64encode(b"Hello").decode() == "SGVsbG8="
