"""The message between DATA and the final dot: nothing in it can end it early or be read as something else."""

from __future__ import annotations

import re

from hypothesis import example, given, settings
from hypothesis import strategies as st

from mail_proxy.smtp.dot_stuffing import DotStuffer, unstuff

awkward = st.one_of(
    st.binary(max_size=60), st.lists(st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"x"]), max_size=40).map(b"".join)
)


def stuffed(*pieces: bytes) -> bytes:
    stuffer = DotStuffer()
    return b"".join(stuffer.stuff(piece) for piece in pieces) + stuffer.ending()


@settings(deadline=None)
@given(pieces=st.lists(awkward, max_size=8))
@example(pieces=[b"\r", b"\n", b".", b"\r\n"])
@example(pieces=[b"a\r", b".\r\n"])
@example(pieces=[b"", b".", b""])
def test_only_the_last_line_is_a_lone_dot_and_every_line_ends_with_crlf(pieces: list[bytes]) -> None:
    out = stuffed(*pieces)
    assert out.count(b"\r") == out.count(b"\n") == out.count(b"\r\n")
    lines = out.split(b"\r\n")
    assert lines[-2:] == [b".", b""]
    assert all(line != b"." for line in lines[:-2])
    # No line begins with a dot that the receiver would not take away.
    assert all(line.startswith(b"..") for line in lines[:-2] if line.startswith(b"."))


@settings(deadline=None)
@given(pieces=st.lists(awkward, max_size=8))
def test_where_the_pieces_are_cut_makes_no_difference(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    assert stuffed(*pieces) == stuffed(whole) == stuffed(*(whole[i : i + 1] for i in range(len(whole))))


@settings(deadline=None)
@given(content=awkward)
def test_the_other_side_reads_what_was_written_with_clean_line_ends(content: bytes) -> None:
    clean = re.sub(rb"\r\n|\r|\n", b"\r\n", content)
    if clean and not clean.endswith(b"\r\n"):
        clean += b"\r\n"
    assert unstuff(stuffed(content)[: -len(b".\r\n")]) == clean


def test_clean_content_is_passed_on_as_it_is() -> None:
    content = b"Subject: x\r\n\r\nhello\r\n"
    assert DotStuffer().stuff(content) is content
