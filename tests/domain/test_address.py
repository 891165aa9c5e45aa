"""What is read as a mailbox, and what is refused."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mail_proxy.domain.address import (
    Mailbox,
    MalformedAddress,
    check_address,
    formatted,
    is_plain,
    is_plain_domain,
    parse_mailbox,
    parse_mailboxes,
    separated,
)
from mail_proxy.domain.header import spills_direction, text_problem

ATEXT = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-/=?^_`{|}~"

atoms = st.text(ATEXT, min_size=1, max_size=15)
locals_ = st.lists(atoms, min_size=1, max_size=4).map(".".join).filter(lambda local: "=?" not in local)
domains = st.from_regex(
    r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?){0,3}", fullmatch=True
)
plain_addresses = st.builds("{}@{}".format, locals_, domains)
names = (
    st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from('", <>@\\;:()=?')), max_size=40)
    .map(lambda name: name.strip(" "))
    .filter(lambda name: text_problem(name) is None and not spills_direction(name))
)


@given(plain_addresses)
def test_a_plain_address_is_read_as_it_stands(address: str) -> None:
    assert is_plain(address)
    assert parse_mailbox(address) == Mailbox(address)
    assert parse_mailbox(f" <{address}> ") == Mailbox(address)


@given(st.lists(st.builds(Mailbox, plain_addresses, names), max_size=6))
def test_written_mailboxes_are_read_back_one_by_one_and_with_commas(mailboxes: list[Mailbox]) -> None:
    texts = [formatted(mailbox) for mailbox in mailboxes]
    assert parse_mailboxes(texts) == tuple(mailboxes)
    assert parse_mailboxes(", ".join(texts)) == tuple(mailboxes)
    assert parse_mailboxes(",".join(texts)) == tuple(mailboxes)


@given(st.text(st.one_of(st.characters(), st.sampled_from('",<>@\\a. \r\n\0')), max_size=60))
def test_whatever_is_read_is_one_clean_address(text: str) -> None:
    problem: str | None = None
    try:
        mailboxes = parse_mailboxes(text)
    except MalformedAddress as refused:
        mailboxes, problem = (), refused.problem
    assert problem is None or (problem and problem.isprintable())
    for mailbox in mailboxes:
        check_address(mailbox.address)
        assert "@" in mailbox.address
        assert mailbox.domain.isascii()
        assert mailbox.address.isprintable()
        assert not set(mailbox.address) & set("<>")
        assert text_problem(mailbox.name) is None


@pytest.mark.parametrize(
    ("text", "mailbox"),
    [
        ("anna@example.org", Mailbox("anna@example.org")),
        ("anna@localhost", Mailbox("anna@localhost")),
        ("a.b+c@EXAMPLE.org", Mailbox("a.b+c@EXAMPLE.org")),
        ("Anna <anna@example.org>", Mailbox("anna@example.org", "Anna")),
        ("Anna<anna@example.org>", Mailbox("anna@example.org", "Anna")),
        ("  Anna   Maria  Rossi   <anna@example.org>", Mailbox("anna@example.org", "Anna Maria Rossi")),
        ("John Q. Public <john@example.org>", Mailbox("john@example.org", "John Q. Public")),
        ('"Rossi, Anna" <anna@example.org>', Mailbox("anna@example.org", "Rossi, Anna")),
        (r'"Anna \"Nina\" \\ Rossi" <anna@example.org>', Mailbox("anna@example.org", r'Anna "Nina" \ Rossi')),
        ('"" <anna@example.org>', Mailbox("anna@example.org")),
        (
            "\u202bאנה\u202c \u2066x\u2069\u200f <anna@example.org>",
            Mailbox("anna@example.org", "\u202bאנה\u202c \u2066x\u2069\u200f"),
        ),
        ("Żółć 日本 <anna@example.org>", Mailbox("anna@example.org", "Żółć 日本")),
        ("büro@example.org", Mailbox("büro@example.org")),
        ("用户.名@example.org", Mailbox("用户.名@example.org")),
        ('"anna rossi"@example.org', Mailbox('"anna rossi"@example.org')),
        ('"a,b@c"@example.org', Mailbox('"a,b@c"@example.org')),
        ("anna@xn--bcher-kva.example", Mailbox("anna@xn--bcher-kva.example")),
        ("x" * 64 + "@example.org", Mailbox("x" * 64 + "@example.org")),
        ("a@" + "b" * 63 + ".org", Mailbox("a@" + "b" * 63 + ".org")),
    ],
)
def test_a_mailbox_is_read(text: str, mailbox: Mailbox) -> None:
    assert parse_mailbox(text) == mailbox
    assert parse_mailboxes(f"{text}, {text}") == (mailbox, mailbox)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "anna",
        "@example.org",
        "anna@",
        "anna@@example.org",
        "anna@example@org",
        "anna rossi@example.org",
        "anna@example..org",
        "anna@.example.org",
        "anna@example.org.",
        ".anna@example.org",
        "anna.@example.org",
        "an..na@example.org",
        "anna@-example.org",
        "anna@example-.org",
        "anna@ex_ample.org",
        "anna@[127.0.0.1]",
        "anna@[IPv6:::1]",
        "anna@bücher.example",
        "anna(comment)@example.org",
        "anna@example.org (comment)",
        "<anna@example.org",
        "anna@example.org>",
        "<>",
        "<<anna@example.org>>",
        "Anna <anna@example.org> <eve@example.org>",
        "Anna <anna@example.org>, Eve <eve@example.org>",
        "anna@example.org, eve@example.org",
        "<anna@example.org> SIZE=1",
        "anna@example.org SIZE=1",
        "anna@example.org> RET=FULL",
        "<anna@example.org> RET=FULL>",
        "<@relay.example,@other.example:anna@example.org>",
        "@relay.example:anna@example.org",
        "friends: anna@example.org;",
        "anna@example.org; eve@example.org",
        "Rossi, Anna <anna@example.org>",
        "eve@example.com <anna@example.org>",
        'Anna "Nina" Rossi <anna@example.org>',
        '"Anna <anna@example.org>',
        '"Anna"Rossi" <anna@example.org>',
        r"An\na <anna@example.org>",
        'anna"rossi@example.org',
        '""@example.org',
        '"an"na"@example.org',
        '"anna> NOTIFY=NEVER"@example.org',
        r'"anna\> NOTIFY=NEVER"@example.org',
        '"an\r\nna"@example.org',
        '"an\\\r\\\nna"@example.org',
        '"an\tna"@example.org',
        "anna@example.org\r\nRCPT TO:<eve@example.org>",
        "anna@example.org\n",
        "an\0na@example.org",
        "an\x85na@example.org",
        "an\u2028na@example.org",
        "an\u00a0na@example.org",
        "an\u202ena@example.org",
        "an\ud800na@example.org",
        "Anna\r\nBcc: eve@example.org <anna@example.org>",
        '"Anna\r\nBcc: eve@example.org" <anna@example.org>',
        "Anna\0 <anna@example.org>",
        "Anna\x1b[31m <anna@example.org>",
        "Anna\ud83d <anna@example.org>",
        "Anna\u202e <anna@example.org>",
        '"Anna\u2069" <anna@example.org>',
        "An\u2066n\u202ba\u2069\u202c <anna@example.org>",
        "=?utf-8?q?Anna=0D=0ABcc:_eve?= <anna@example.org>",
        "=?utf-8?b?QW5uYQ0KQmNjOg==?= <anna@example.org>",
        "=?utf-8?q?anna=40example.com=3E?=@example.org",
        "=?x?q?y?=@example.org",
        "x" * 65 + "@example.org",
        "ü" * 33 + "@example.org",
        "a@" + "b" * 64 + ".org",
        "a@" + ".".join(["b" * 60] * 5),
        "x" * 60 + "@" + ".".join(["b" * 60] * 4),
        "x" * 256 + " <anna@example.org>",
        "x" * 100_000,
    ],
)
def test_what_is_not_one_clean_mailbox_is_refused(text: str) -> None:
    with pytest.raises(MalformedAddress) as refused:
        parse_mailbox(text)
    assert refused.value.problem.isprintable()
    assert len(refused.value.problem) < 250


@pytest.mark.parametrize("text", ["", " ", ",", " , ,"])
def test_a_text_without_mailboxes_is_an_empty_list(text: str) -> None:
    assert parse_mailboxes(text) == ()
    assert parse_mailboxes([]) == ()


def test_blanks_between_commas_are_passed_over() -> None:
    assert parse_mailboxes("a@b.c,, d@e.f, ") == (Mailbox("a@b.c"), Mailbox("d@e.f"))


def test_a_list_entry_is_one_mailbox() -> None:
    with pytest.raises(MalformedAddress):
        parse_mailboxes(["a@b.c, d@e.f"])
    with pytest.raises(MalformedAddress):
        parse_mailboxes([""])


def test_commas_in_quotation_marks_and_angle_brackets_do_not_separate() -> None:
    assert list(separated(r'"a, \", b" <x@y.z>, <p,q@r.s> , c')) == [r'"a, \", b" <x@y.z>', "<p,q@r.s>", "c"]


def test_a_quotation_mark_left_open_is_refused() -> None:
    with pytest.raises(MalformedAddress, match="not closed"):
        parse_mailboxes('"Anna <a@b.c>, eve@example.org')


def test_more_mailboxes_than_wanted_are_refused() -> None:
    assert len(parse_mailboxes("a@b.c, d@e.f", most=2)) == 2
    with pytest.raises(MalformedAddress, match="more than 1 "):
        parse_mailboxes("a@b.c, d@e.f", most=1)


@pytest.mark.parametrize(
    "address", ["büro@example.org", '"anna rossi"@example.org', "a@bücher.example", "=?x@y.z", "a"]
)
def test_only_plain_addresses_are_plain(address: str) -> None:
    assert not is_plain(address)


@pytest.mark.parametrize(
    ("domain", "plain"),
    [("example.org", True), ("a", True), ("bücher.de", False), ("", False), ("a.", False), ("a." * 127 + "aa", False)],
)
def test_a_plain_domain_is_made_of_letters_digits_and_hyphens(domain: str, *, plain: bool) -> None:
    assert is_plain_domain(domain) is plain


@pytest.mark.parametrize(
    "text",
    [
        "a" + " " * 400_000 + ">",
        "<" * 200_000,
        '"' * 200_001,
        "\\" * 200_000,
        '"' + "\\a" * 200_000,
        "a." * 200_000,
        "a," * 200_000,
        "a@" + "b-" * 200_000,
        "=?a?q?" * 100_000 + " <a@b.c>",
    ],
)
def test_hostile_texts_cost_no_more_than_their_length(text: str) -> None:
    start = time.process_time()
    with pytest.raises(MalformedAddress):
        parse_mailboxes(text, most=1000)
    assert time.process_time() - start < 1


def test_the_domain_follows_the_last_at_sign() -> None:
    assert Mailbox('"a@b"@example.org').domain == "example.org"
