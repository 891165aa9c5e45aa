"""Which headers may be given, and how texts become ASCII lines."""

from __future__ import annotations

import base64
import re
from email.header import decode_header, make_header

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mail_proxy.domain.header import (
    encoded_words,
    folded,
    hides_a_line_break,
    name_problem,
    phrase,
    text_header,
    text_problem,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)


@pytest.mark.parametrize(
    "name",
    ["X-Campaign", "List-Unsubscribe", "References", "In-Reply-To", "Auto-Submitted", "x", "Fromage", "!#$%&'*+~"],
)
def test_an_extra_header_may_have_any_other_name(name: str) -> None:
    assert name_problem(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "From", "to", "CC", "Bcc", "Sender", "Reply-To", "Return-Path", "Date", "Message-ID", "subject", "Received",
        "MIME-Version", "mime-anything", "Content-Type", "content-disposition", "Resent-To", "DKIM-Signature",
        "ARC-Seal", "X-Genro-Mail-ID", "", "X Y", "X:Y", "X:", "X\r\nBcc", "X\n", "X\0", "Ünicode", "X\t", "x" * 65,
        "X\ud800", "X\x7f",
    ],
)  # fmt: skip
def test_structural_and_malformed_names_are_refused(name: str) -> None:
    assert name_problem(name)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain",
        "Grüße 🎉 日本語",
        "family 👨\u200d👩\u200d👧",
        "=?",
        "what=?why?=",
        "=?utf-8?q?harmless?=",
        "=?utf-8?b?aGFybWxlc3M=?=",
        "=?utf-8?b?!?=",
        "=?iso-8859-1?q?Gr=FC=DFe?=",
        "=?utf-8*en?Q?x?=",
    ],
)
def test_any_text_of_one_line_may_stand_in_a_header(text: str) -> None:
    assert text_problem(text) is None


def _in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    "text",
    [
        "a\r\nBcc: x@y.z",
        "a\nb",
        "a\rb",
        "a\0b",
        "a\tb",
        "a\x0bb",
        "a\x1b[31m",
        "a\x7fb",
        "a\x85b",
        "a\u2028b",
        "a\u2029b",
        "a\ud800b",
        "=?utf-8?q?a=0D=0ABcc:_x?=",
        "=?UTF-8?Q?a=0a?=",
        "x =?us-ascii?q?a=00?= y",
        f"=?utf-8?b?{_in_base64(b'a' + bytes([13, 10]) + b'Bcc: x')}?=",
        f"=?utf-8?b?{_in_base64(b'ab' + bytes([10])).rstrip('=')}?=",
        f"=?iso-8859-1?B?{_in_base64(bytes([10]))}?=",
        f"=?utf-8*en?B?{_in_base64(bytes([10]))}?=",
        f"=?utf-8?b?{_in_base64(chr(0x2028).encode())}?=",
        "=?utf-7?q?a+AA0ACg-b?=",
        f"=?utf-16?b?{_in_base64(chr(10).encode('utf-16'))}?=",
        "=?cp037?q?a=25b?=",
        "=?unknown?q?x?=",
    ],
)
def test_control_characters_are_refused_however_they_are_spelled(text: str) -> None:
    assert text_problem(text)


@given(texts, st.integers(min_value=0, max_value=75))
def test_encoded_words_keep_their_length_and_decode_to_the_text(text: str, room: int) -> None:
    words = encoded_words(text, room)
    assert all(re.fullmatch(r"=\?utf-8\?[qb]\?[!-<>@-~=]*\?=", word) for word in words)
    assert all(len(word) <= 75 for word in words)
    assert len(words[0]) <= max(room, 24)
    assert str(make_header(decode_header(" ".join(words)))) == text


@given(st.text(st.sampled_from("aé日 "), min_size=1, max_size=300))
def test_each_encoded_word_decodes_by_itself(text: str) -> None:
    parts = [decode_header(word)[0][0] for word in encoded_words(text, 75)]
    assert "".join(part.decode("utf-8") for part in parts if isinstance(part, bytes)) == text


def test_the_shorter_encoding_is_taken() -> None:
    assert encoded_words("Schöne Bescherung", 75) == ["=?utf-8?q?Sch=C3=B6ne_Bescherung?="]
    assert encoded_words("日本語", 75) == ["=?utf-8?b?5pel5pys6Kqe?="]


def test_short_ascii_stays_as_it_is() -> None:
    assert text_header("Subject", "Your order") == "Subject: Your order\r\n"
    assert text_header("Subject", "") == "Subject: \r\n"


@pytest.mark.parametrize("text", [" x", "x ", "=?x", "é", "x\ty", "x\r\ny", "x" * 990, "x y" + " " * 999 + "z"])
def test_what_would_not_survive_is_encoded(text: str) -> None:
    assert text_header("Subject", text).startswith("Subject: =?utf-8?")


def test_long_ascii_is_folded_at_spaces_that_stay() -> None:
    text = "word  " * 40 + "end"
    lines = text_header("X-Long", text).split("\r\n")
    assert max(map(len, lines)) <= 78
    assert all(line.startswith("  word") for line in lines[1:-2])
    assert "".join(lines) == f"X-Long: {text}"


def test_the_first_piece_stays_beside_the_name() -> None:
    assert folded("X", [" " + "a" * 100, " b"]) == f"X: {'a' * 100}\r\n b\r\n"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Anna Rossi", ["Anna", "Rossi"]),
        ("O'Neill", ["O'Neill"]),
        ("John Q. Public", ['"John Q. Public"']),
        ("a  b", ['"a  b"']),
        ('a"b\\c', [r'"a\"b\\c"']),
        ("=?x", ["=?utf-8?b?PT94?="]),
        ("é", ["=?utf-8?b?w6k=?="]),
    ],
)
def test_a_display_name_is_quoted_or_encoded_only_where_it_has_to_be(name: str, words: list[str]) -> None:
    assert phrase(name, 70) == words


def test_a_name_too_long_to_quote_is_encoded() -> None:
    assert all(word.startswith("=?utf-8?") for word in phrase("a, " * 300, 70))


@pytest.mark.parametrize("text", ["=?utf-8?q?=C2?= =?utf-8?q?=85Bcc:x?=", "=?utf-8?b?4oA=?= =?UTF-8?b?qA==?="])
def test_a_control_character_in_two_encoded_words_is_found(text: str) -> None:
    assert hides_a_line_break(text)
    assert not hides_a_line_break("=?utf-8?q?Gr=C3=BC=C3=9Fe?= =?utf-8?q?_an_alle?=")
