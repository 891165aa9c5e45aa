"""Complete messages: which ones are taken, and what becomes of their octets."""

from __future__ import annotations

import base64
import email
import re
import time
from email.policy import compat32

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mail_proxy.domain.compose import compose
from mail_proxy.domain.errors import Invalid
from mail_proxy.domain.message import Identity, Message
from mail_proxy.domain.raw import MAX_HEAD, MalformedRaw, RawMessage, read_raw
from mail_proxy.domain.submission import NOT_WITH_RAW, build_message

DATED = b"From: a@b.c\r\nDate: Tue, 24 Nov 2026 10:00:00 +0100\r\nMessage-ID: <x@y>\r\nSubject: s\r\n"
IDENTITY = Identity("M1", "new@example.com", 1_700_000_000.0)
ADDED = b"X-Genro-Mail-ID: M1\r\n"
OWN_DATE = b"Date: Tue, 14 Nov 2023 22:13:20 +0000\r\n"
OWN_ID = b"Message-ID: <new@example.com>\r\n"


def read(data: bytes) -> RawMessage:
    return read_raw(base64.b64encode(data).decode())


def message_of(data: bytes, **changes: object) -> Message:
    fields = {"from": "shop@example.com", "to": "anna@example.org", "raw": base64.b64encode(data).decode()}
    return build_message(fields | changes)


def sent(data: bytes) -> bytes:
    """What goes over the wire for a message."""
    wire = compose(message_of(data), IDENTITY)
    assert wire.size == sum(len(part) for part in wire.parts if isinstance(part, bytes))
    return b"".join(part for part in wire.parts if isinstance(part, bytes))


def refusal(data: bytes) -> str:
    with pytest.raises(MalformedRaw) as refused:
        read(data)
    assert refused.value.problem.isprintable()
    assert len(refused.value.problem) < 200
    return refused.value.problem


@pytest.mark.parametrize(
    ("header", "shown"),
    [
        (b"", None),
        (b"Subject:\r\n", None),
        (b"Subject: Your order 1042\r\n", "Your order 1042"),
        (b"SUBJECT : a\r\n long one\r\n", "a long one"),
        ("Subject: Grüße\r\n".encode(), "Grüße"),
        (b"Subject: =?utf-8?Q?Gr=C3=BC=C3=9Fe?= =?iso-8859-1?B?5Pb8?= 2\r\n", "Grüßeäöü 2"),
        (b"Subject: =?no-such-charset?Q?a?=\r\n", "=?no-such-charset?Q?a?="),
        ("Subject: =?é?q?x?=\r\n".encode(), "=?é?q?x?="),
        (b"Subject: =?utf-8?Q?=FF?=\r\n", "=?utf-8?Q?=FF?="),
        (b"Subject: =?utf-8?B?a?=\r\n", "=?utf-8?B?a?="),
        (b"Subject: " + b"\r\n ".join([b"x" * 900] * 3) + b"\r\n", ("x" * 900 + " ") * 2 + "x" * 198),
    ],
)
def test_its_subject_is_kept_as_it_reads(header: bytes, shown: str | None) -> None:
    assert read(b"From: a@b.c\r\n" + header + b"\r\nSubject: of the body\r\n").subject == shown


@pytest.mark.parametrize(
    "data",
    [
        DATED,
        DATED + b"\r\n",
        DATED + b"\r\nHello\r\n",
        DATED + b"\r\n\r\n\r\n.\r\n..\r\n",
        DATED + b"\r\n" + "Grüße\r\n".encode() + b"\xff\xfe\r\n",
        DATED + b"X-Long: " + b"a" * 990 + b"\r\n b\r\n\tc\r\n\r\n" + b"x" * 998 + b"\r\n",
        DATED + b"X : old syntax\r\nX:none\r\nX-Empty:\r\nX: a:b\r\n\r\nx\r\n",
        DATED + b"Received: from a\r\nDKIM-Signature: v=1\r\nResent-To: x@y.z\r\nReturn-Path: <>\r\n\r\nx\r\n",
        DATED + b"X: =?iso-2022-jp?b?GyRCRnxLXBsoQg==?= =?unknown-8bit?q?=FC?=\r\n\r\nx\r\n",
        DATED + b"\r\nBcc: in the body\r\n",
    ],
)
def test_a_complete_message_goes_out_byte_for_byte(data: bytes) -> None:
    assert sent(data) == ADDED + data


def test_date_and_message_id_are_put_before_it_where_it_has_none_and_nothing_else() -> None:
    assert sent(b"From: a@b.c\r\n\r\nx\r\n") == ADDED + OWN_DATE + OWN_ID + b"From: a@b.c\r\n\r\nx\r\n"  # G15
    assert sent(b"date: x\r\nFrom: a@b.c\r\n\r\n") == ADDED + OWN_ID + b"date: x\r\nFrom: a@b.c\r\n\r\n"
    assert message_of(DATED).message_id == "x@y"
    assert message_of(b"From: a@b.c\r\nMessage-ID: what\r\n").message_id is None


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
@pytest.mark.parametrize("ended", [True, False])
def test_lines_end_with_crlf_whatever_they_ended_with(end: bytes, *, ended: bool) -> None:
    data = DATED + b"\r\nHello\r\n.\r\nMAIL FROM:<x@y>\r\n\r\nend" + b"\r\n" * ended
    expected = ADDED + (data if ended else data + b"\r\n")
    assert sent(data.replace(b"\r\n", end)) == expected


@pytest.mark.parametrize(
    "bcc",
    [
        b"Bcc: x@y.z\r\n",
        b"bcc:x@y.z\r\n",
        b"BCC : x@y.z\r\n",
        b"Bcc\t: x@y.z,\r\n a@b.c,\r\n\td@e.f\r\n",
        b"Bcc:\r\n x@y.z\r\n",
        b"Resent-Bcc: x@y.z\r\n",
        b"Bcc: x@y.z\r\nX: y\r\nbCC: x@y.z\r\n",
    ],
)
def test_bcc_is_taken_out_however_it_is_written(bcc: bytes) -> None:
    for data in (
        bcc + DATED,
        DATED + bcc,
        (DATED + bcc).replace(b"\r\n", b"\n"),
        (DATED + bcc).replace(b"\r\n", b"\r"),
    ):
        out = sent(data + b"\r\nBcc: stays\r\n")
        assert b"x@y.z" not in out
        assert b"bcc" not in out.lower().split(b"\r\n\r\n")[0]
        assert out.endswith(b"\r\nBcc: stays\r\n")
        assert out.replace(b"X: y\r\n", b"").startswith(ADDED + DATED)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no From"),
        (b"\r\n", "no From"),
        (b"\r\nFrom: a@b.c\r\n", "no From"),
        (b"Subject: x\r\n\r\nFrom: a@b.c\r\n", "no From"),
        (b"From:  \r\n\r\n", "no From"),
        (DATED + b"from: x@y.z\r\n", "2 From"),
        (DATED + b"FROM : x@y.z\r\n", "2 From"),
        (DATED + b"To: x\r\nTO: x\r\nto: y\r\n", "3 To"),
        (DATED + b"subject: x\r\n", "2 Subject"),
        (DATED + b"Content-Type: text/plain\r\ncontent-type: text/html\r\n", "2 Content-Type"),
        (DATED + b"x-genro-mail-id: M2\r\n", "X-Genro-Mail-ID"),
        (b" From: a@b.c\r\n", "begins with a blank"),
        (b"From a Mon 10:00:00\r\n" + DATED, "number 1"),
        (DATED + b"no header\r\n", "number 5"),
        (DATED + b": x\r\n", "number 5"),
        (DATED + b"X Y: x\r\n", "number 5"),
        (DATED + "Bcc\u00a0: x\r\n".encode(), "number 5"),
        (DATED + "Ünicode: x\r\n".encode(), "number 5"),
        (DATED + b"X: a\r\n \r\nBcc: x@y.z\r\n\r\n", "blanks"),
        (DATED + b"X: a\0b\r\n\r\n", "control"),
        (DATED + b"X: a\x1b[31mb\r\n\r\n", "control"),
        (DATED + "X: a\u2028Bcc: x\r\n".encode(), "control"),
        (DATED + "X: a\u0085Bcc: x\r\n".encode(), "control"),
        (DATED + b"X: =?utf-8?q?a=0D=0ABcc:_x?=\r\n\r\n", "encoded word"),
        (DATED + b"X: =?iso-2022-jp?q?a=0ABcc:_x?=\r\n\r\n", "encoded word"),
        (DATED + b"X: =?utf-7?q?a+AA0ACg-b?=\r\n\r\n", "encoded word"),
        (DATED + b"X: =?cp037?q?a=25?=\r\n\r\n", "encoded word"),
        (DATED + b"X: =?utf-8?q?a=0A\r\n b?=\r\n\r\n", "encoded word"),
        (DATED + b"X: \xfc\r\n\r\n", "UTF-8"),
        (DATED + b"X: " + b"a" * 996 + b"\r\n\r\n", "998 octets in its headers"),
        (DATED + b"X: a\r\n" * (MAX_HEAD // 6) + b"\r\n", "octets of headers"),
        (DATED + b"X: a\n" * (MAX_HEAD // 5), "octets of headers"),
        (DATED + b"\r\na\0b\r\n", "NUL"),
        (DATED + b"\r\n" + b"x" * 999 + b"\r\n", "998"),
        (DATED + b"\r\n" + b"x" * 999, "998"),
        (DATED + b"\r\n" + b"x\r\n" * 100_000 + b"x" * 300_000, "998"),
    ],
)
def test_what_cannot_go_out_as_it_is_is_refused(data: bytes, said: str) -> None:
    assert said in refusal(data)


@pytest.mark.parametrize(
    "encoded",
    [
        "RnJvbTo",
        "RnJvbTo=\n",
        "RnJv\nbTo=",
        "RnJvbTo*",
        "RnJvbT\u00fc=",
        "=",
        "====",
        "RnJv=bTo",
        "RnJvbTo=RnJv",
        "-_-_",
    ],
)
def test_bad_base64_is_refused_as_such(encoded: str) -> None:
    with pytest.raises(MalformedRaw, match="base64"):
        read_raw(encoded)


@pytest.mark.parametrize("field", NOT_WITH_RAW)
def test_a_field_that_the_message_says_itself_is_refused_beside_it(field: str) -> None:
    with pytest.raises(Invalid) as refused:
        message_of(DATED, **{field: "x"})
    (problem,) = refused.value.problems
    assert problem.field == field
    assert "raw" in problem.problem


def test_the_envelope_is_what_the_fields_say() -> None:
    message = message_of(b"From: other@b.c\r\nTo: nobody@x.y\r\n", cc="c@d.e", bcc=["f@g.h"], return_path="")
    assert message.envelope_sender == ""
    assert [address for address, _ in message.recipients()] == ["anna@example.org", "c@d.e", "f@g.h"]
    for missing in ("from", "to"):
        with pytest.raises(Invalid) as refused:
            message_of(DATED, **{missing: None})
        assert [problem.field for problem in refused.value.problems] == [missing]


@pytest.mark.parametrize(
    ("data", "eight_bit", "utf8"),
    [
        (DATED + b"\r\nplain\r\n", False, False),
        (DATED + b"\r\n\xe9\r\n", True, False),
        (DATED + b"\r\n" + b"plain\r\n" * 100_000 + b"\xe9", True, False),
        (DATED + "X: é\r\n\r\nx\r\n".encode(), False, True),
        (DATED + "Bcc: é@x.y\r\n\r\nx\r\n".encode(), False, False),
    ],
)
def test_what_the_server_has_to_offer_is_known(data: bytes, *, eight_bit: bool, utf8: bool) -> None:
    wire = compose(message_of(data), IDENTITY)
    assert (wire.eight_bit, wire.utf8_headers) == (eight_bit, utf8)


def test_a_big_message_is_read_in_pieces_that_may_be_cut_anywhere() -> None:
    body = b"".join(b"%d: \xe9.\r.\n..\r\n" % n for n in range(80_000))
    raw = read(DATED + b"\n" + body)
    assert raw.size == len(DATED) + 1 + len(body)
    assert len(raw.body) > 5
    assert b"".join(raw.body) == b"\r\n" + re.sub(rb"\r\n|\r|\n", b"\r\n", body)


@pytest.mark.parametrize(
    "data",
    [
        DATED + b"X: a\r\n" + b" b\r\n" * (MAX_HEAD // 4 - 50),
        DATED + b"X: " + (b"=?a?q?" * 30 + b"\r\n ") * 1000 + b"x\r\n",
        DATED + (b"X: =?utf-8?q?" + b"=3D" * 300 + b"?=\r\n") * 250,
        DATED + b"X: =?" + (b"a" * 900 + b"\r\n ") * 250 + b"?q?x?=\r\n",
        DATED + b"Bcc:\r\n" * (MAX_HEAD // 7),
        DATED + b"\r" * 1_000_000,
        DATED + b"\r\n" + b"\n\r" * 500_000,
    ],
)
def test_hostile_octets_cost_no_more_than_their_number(data: bytes) -> None:
    start = time.process_time()
    try:
        read(data)
    except MalformedRaw as refused:
        assert refused.problem  # noqa: PT017  # it may be taken as well
    assert time.process_time() - start < 1


tokens = st.one_of(
    st.sampled_from(
        [b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"Bcc: h@x.y", b"bCc : h@x.y,\r\n h@x.y", b"From: a@b.c\r\n",
         b"X: y", b"To: t@x.y\n", b".", b"\r\n\r\n", b"\0", b"\xc3\xa9", b"\xff", "\u2028".encode(), b"\x0c",
         b"Date: d\r",
         b"=?utf-8?q?=0A?=", b"Resent-Bcc:h@x.y\n", b"a" * 999, b"--", b"MAIL FROM:<x@y>\r\n"]
    ),
    st.binary(max_size=8),
)  # fmt: skip


@given(st.lists(tokens, max_size=14).map(b"".join), st.sampled_from([b"", DATED, b"From: a@b.c\n"]))
@example(b"X: a\rBcc: h@x.y\r\n", DATED)
@example(b"\r\n\r\nx", DATED)
def test_any_octets_go_out_as_one_message_without_bcc_or_are_refused(data: bytes, start: bytes) -> None:
    given_message = start + data
    try:
        out = sent(given_message)
    except Invalid as refused:
        assert [problem.field for problem in refused.problems] == ["raw"]  # noqa: PT017  # the other way is fine too
        return
    assert out.endswith(b"\r\n")
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n|\0", out)
    assert max(map(len, out.split(b"\r\n"))) <= 998
    head, _, body = out.partition(b"\r\n\r\n")
    added = ADDED + OWN_DATE * (OWN_DATE in head + b"\r\n") + OWN_ID * (OWN_ID in head + b"\r\n")
    assert out.startswith(added)
    # Independently: lines made alike, then headers that begin with bcc and their folds taken out.
    clean = re.sub(rb"\r\n|\r|\n", b"\r\n", given_message)
    clean = clean if clean.endswith(b"\r\n") else clean + b"\r\n"
    given_head, empty, given_body = clean.partition(b"\r\n\r\n") if b"\r\n\r\n" in clean else (clean[:-2], b"\r\n", b"")
    kept = re.sub(rb"(?im)^(resent-)?bcc[ \t]*:.*\r\n([ \t].*\r\n)*", b"", given_head + b"\r\n")
    assert out[len(added) :] == kept + empty[2:] + given_body
    parsed = email.message_from_bytes(out, policy=compat32)
    assert parsed["Bcc"] is None
    assert parsed.get_all("From") is not None
    assert (
        len(parsed.get_all("From", [])) == len(parsed.get_all("Date", [])) == len(parsed.get_all("Message-ID", [])) == 1
    )
    assert body.count(b"\r\n") == given_body.count(b"\r\n")
