"""Links to large files: tokens that nobody can make, and what messages say of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mail_proxy.domain.address import Mailbox
from mail_proxy.domain.attachment import Attachment, FetchMode
from mail_proxy.domain.download_link import (
    TOKEN_CHARACTERS,
    DownloadLink,
    end_of_day,
    is_genuine,
    link_in,
    shown_day,
    shown_size,
    token_of,
    with_links,
)
from mail_proxy.domain.message import Message
from mail_proxy.domain.secret import Secret

KEY, OTHER = Secret("ab" * 32), Secret("ac" * 32)
CHRISTMAS = 1_798_156_800.0
"""2026-12-25, at the beginning of the day, UTC."""
LINK = DownloadLink('a "b" <c>.zip', 12_345_678, "https://m.example/files/T?a=1&b=2", end_of_day(CHRISTMAS))


@given(st.integers(min_value=1, max_value=2**63 - 1))
def test_a_token_names_its_link_and_no_other_key_makes_it(link: int) -> None:
    token = token_of(link, KEY)
    assert len(token) == TOKEN_CHARACTERS
    assert link_in(token) == link
    assert is_genuine(token, KEY)
    assert not is_genuine(token, OTHER)


@given(st.data())
def test_a_token_with_any_character_changed_is_not_genuine(data: st.DataObject) -> None:
    token = token_of(4711, KEY)
    at = data.draw(st.integers(0, len(token) - 1))
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = data.draw(st.sampled_from([each for each in letters if each != token[at]]))
    assert not is_genuine(token[:at] + other + token[at + 1 :], KEY)


@pytest.mark.parametrize("text", ["", "x", "A" * 31, "A" * 33, "A" * 31 + "=", "A" * 31 + "\n", "ä" * 32, "../" * 11])
def test_what_is_no_token_names_nothing(text: str) -> None:
    assert link_in(text) is None
    assert not is_genuine(text, KEY)


@pytest.mark.parametrize(
    ("html", "wanted"),
    [
        ("<p>Hello</p>", "<p>Hello</p>{}"),
        ("<html><body>Hello</body></html>", "<html><body>Hello{}</body></html>"),
        ("<body>a</body> b </BODY >", "<body>a</body> b {}</BODY >"),
        ("", "{}"),
        ("<body>a<!-- </body> --></body>", "<body>a<!-- </body> -->{}</body>"),
        ("<body>a</body><!--[if mso]></body><![endif]-->", "<body>a{}</body><!--[if mso]></body><![endif]-->"),
        ("<p>a</p><!-- </body> ", "<p>a</p>{}<!-- </body> "),
        ("<!-- a --><p>b</p>", "<!-- a --><p>b</p>{}"),
    ],
)
def test_html_gets_a_list_at_its_end(html: str, wanted: str) -> None:
    block = (
        "<p>A file to download:</p><ul><li>"
        '<a href="https://m.example/files/T?a=1&amp;b=2">a &quot;b&quot; &lt;c&gt;.zip</a> '
        "(12.3 MB, until 25 December 2026)</li></ul>"
    )
    told = with_links(a_message(html=html), {1: LINK})
    assert told.html == wanted.format(block)
    assert told.text is None


@pytest.mark.parametrize(("text", "before"), [("Hello", "Hello\n\n"), ("Hello\n", "Hello\n\n"), ("", "\n")])
def test_text_gets_a_list_at_its_end(text: str, before: str) -> None:
    told = with_links(a_message(text=text), {0: LINK, 2: LINK})
    item = '- a "b" <c>.zip (12.3 MB, until 25 December 2026)\n  https://m.example/files/T?a=1&b=2\n'
    assert told.text == f"{before}Files to download:\n\n{item}{item}"
    assert [each.filename for each in told.attachments] == ["1.zip"]


def test_both_bodies_get_one_and_a_message_without_links_stays() -> None:
    message = a_message(text="Hello", html="<p>Hello</p>")
    told = with_links(message, {0: LINK})
    assert LINK.url in (told.text or "")
    assert "<li>" in (told.html or "")
    assert with_links(message, {}) is message


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (12_345_678, "12.3 MB"), (3_000_000_000, "3.0 GB")],
)
def test_sizes_are_for_people(size: int, shown: str) -> None:
    assert shown_size(size) == shown


@given(st.floats(min_value=0, max_value=4e9))
def test_the_day_that_is_told_is_over_everywhere_when_the_link_ends(ts: float) -> None:
    until = end_of_day(ts)
    assert ts + 43200 < until <= ts + 2.5 * 86400
    # west of everybody it is twelve hours earlier
    assert shown_day(until) != shown_day(until - 1)
    assert shown_day(until) == shown_day(until + 86399)


def test_the_day_is_that_of_the_time_it_was_made_for() -> None:
    assert [shown_day(end_of_day(CHRISTMAS + hours * 3600)) for hours in (0, 12, 23.9)] == ["25 December 2026"] * 3


def a_message(text: str | None = None, html: str | None = None) -> Message:
    attachments = tuple(
        Attachment(filename=f"{n}.zip", fetch_mode=FetchMode.ENDPOINT, storage_path="x", mime_type="application/zip")
        for n in range(3)
    )
    anna = Mailbox("anna@example.org")
    return Message(anna, (anna,), (), (), "Files", text=text, html=html, attachments=attachments)
