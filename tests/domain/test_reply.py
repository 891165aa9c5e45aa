"""What a server says is read, and made harmless."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mail_proxy.domain.reply import MAX_TEXT, Reply, printable
from mail_proxy.domain.report import split_reply


def test_the_enhanced_code_is_taken_out_of_each_line() -> None:
    reply = Reply.parse(550, "5.1.1 no such user\n5.1.1 try another")
    assert (reply.enhanced, reply.text) == ("5.1.1", "no such user try another")


def test_an_enhanced_code_of_another_class_is_text() -> None:
    assert Reply.parse(250, "5.1.1 is a version") == Reply(250, None, "5.1.1 is a version")


def test_escape_sequences_do_not_come_through() -> None:
    assert Reply.parse(550, "\x1b[2Jgone\x07 \x9b1m").text == "?[2Jgone? ?1m"


def test_a_long_text_is_cut() -> None:
    assert len(Reply.parse(550, "x" * 10_000_000).text) == MAX_TEXT


@given(st.text())
def test_what_is_shown_is_one_printable_line(text: str) -> None:
    shown = printable(text)
    assert "\n" not in shown
    assert "\r" not in shown
    assert "\x1b" not in shown


@given(st.integers(200, 599), st.text(max_size=50))
def test_a_stored_reply_comes_apart_as_it_was_put_together(code: int, text: str) -> None:
    reply = Reply.parse(code, text)
    assert split_reply(str(reply)) == (code, reply.enhanced, reply.text)
