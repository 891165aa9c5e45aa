"""Which submissions become a message, and which field is named when one does not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mail_proxy.domain.address import Mailbox
from mail_proxy.domain.errors import Invalid
from mail_proxy.domain.message import Message
from mail_proxy.domain.recipient import RecipientKind
from mail_proxy.domain.submission import MAX_HEADERS, MAX_HEADERS_SIZE, MAX_RECIPIENTS, MAX_SUBJECT, build_message


def fields(**changes: object) -> dict[str, object]:
    """A submission that is fine, with some fields changed; `from_` stands for `from`."""
    submission: dict[str, object] = {"from": "shop@example.com", "to": "anna@example.org", "subject": "s", "body": "b"}
    submission.update({name.rstrip("_"): value for name, value in changes.items()})
    return submission


def test_the_least_that_makes_a_message() -> None:
    assert build_message(fields()) == Message(
        sender=Mailbox("shop@example.com"), to=(Mailbox("anna@example.org"),), cc=(), bcc=(), subject="s", text="b"
    )


def test_everything_that_a_submission_can_say() -> None:
    message = build_message(
        {
            "id": "M1",
            "priority": 1,
            "from": "Shop <shop@example.com>",
            "to": ["Anna <anna@example.org>", "bob@example.org"],
            "cc": 'c@example.org, "D, D" <d@example.org>',
            "bcc": ["e@example.org", "anna@example.org"],
            "subject": "Grüße",
            "text": "plain",
            "html": "<p>",
            "reply_to": "help@example.com, desk@example.com",
            "return_path": "bounces@example.com",
            "message_id": "<x@example.com>",
            "headers": {"X-B": "2", "X-A": "1"},
        }
    )
    assert message == Message(
        sender=Mailbox("shop@example.com", "Shop"),
        to=(Mailbox("anna@example.org", "Anna"), Mailbox("bob@example.org")),
        cc=(Mailbox("c@example.org"), Mailbox("d@example.org", "D, D")),
        bcc=(Mailbox("e@example.org"), Mailbox("anna@example.org")),
        subject="Grüße",
        text="plain",
        html="<p>",
        reply_to=(Mailbox("help@example.com"), Mailbox("desk@example.com")),
        return_path="bounces@example.com",
        message_id="x@example.com",
        headers=(("X-B", "2"), ("X-A", "1")),
    )
    assert message.recipients() == (
        ("anna@example.org", RecipientKind.TO),
        ("bob@example.org", RecipientKind.TO),
        ("c@example.org", RecipientKind.CC),
        ("d@example.org", RecipientKind.CC),
        ("e@example.org", RecipientKind.BCC),
    )
    assert message.envelope_sender == "bounces@example.com"


@pytest.mark.parametrize("nothing", [None, "", []])
@pytest.mark.parametrize("field", ["to", "cc", "bcc"])
def test_one_kind_of_recipient_is_enough(field: str, nothing: object) -> None:
    kinds = {"to": nothing, "cc": nothing, "bcc": nothing} | {field: ["anna@example.org"]}
    assert [address for address, _ in build_message(fields(**kinds)).recipients()] == ["anna@example.org"]


def test_nulls_count_as_absent() -> None:
    absent = dict.fromkeys(
        ["cc", "bcc", "content_type", "text", "html", "reply_to", "return_path", "message_id", "headers"]
    )
    assert build_message(fields(**absent)) == build_message(fields())


@pytest.mark.parametrize(
    ("changes", "text", "html"),
    [
        ({"body": "b", "content_type": "plain"}, "b", None),
        ({"body": "b", "content_type": "html"}, None, "b"),
        ({"body": None, "text": "t"}, "t", None),
        ({"body": None, "html": "h"}, None, "h"),
        ({"body": None, "text": "t", "html": "h"}, "t", "h"),
        ({"body": ""}, "", None),
    ],
)
def test_a_body_is_given_in_exactly_one_way(changes: dict[str, object], text: str | None, html: str | None) -> None:
    message = build_message(fields(**changes))
    assert (message.text, message.html) == (text, html)


@pytest.mark.parametrize(
    ("given_path", "sender"),
    [(None, "shop@example.com"), ("", ""), ("<>", ""), ("b@example.com", "b@example.com"), ("<b@x.y>", "b@x.y")],
)
def test_the_return_path_is_an_address_or_the_null_sender(given_path: str | None, sender: str) -> None:
    assert build_message(fields(return_path=given_path)).envelope_sender == sender


@pytest.mark.parametrize("given_id", ["x.1@example.com", "<x.1@example.com>", " <x.1@example.com> "])
def test_a_message_id_loses_its_angle_brackets(given_id: str) -> None:
    assert build_message(fields(message_id=given_id)).message_id == "x.1@example.com"


@pytest.mark.parametrize("given_id", ["a..b$1@[10.0.0.1]", "CAD=x+y@mail.gmail.com"])
def test_a_message_id_may_look_as_mailers_make_them(given_id: str) -> None:
    assert build_message(fields(message_id=given_id)).message_id == given_id


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("from", {"from_": None}),
        ("from", {"from_": ""}),
        ("from", {"from_": "shop"}),
        ("from", {"from_": "a@b.c, d@e.f"}),
        ("from", {"from_": 5}),
        ("from", {"from_": "Shop\r\nBcc: x@y.z <shop@example.com>"}),
        ("to", {"to": None}),
        ("to", {"to": []}),
        ("to", {"to": " , "}),
        ("to", {"to": "anna"}),
        ("to", {"to": ["anna@example.org", "bob"]}),
        ("to", {"to": ["anna@example.org", 5]}),
        ("to", {"to": {"anna@example.org": 1}}),
        ("to", {"to": ["a@b.c"] * (MAX_RECIPIENTS + 1)}),
        ("to", {"to": ["a@b.c"] * MAX_RECIPIENTS, "cc": "d@e.f"}),
        ("cc", {"cc": "anna@bücher.example"}),
        ("bcc", {"bcc": ["<a@b.c> SIZE=1"]}),
        ("reply_to", {"reply_to": "@a,@b:c@d"}),
        ("subject", {"subject": None}),
        ("subject", {"subject": 5}),
        ("subject", {"subject": "a\r\nBcc: x@y.z"}),
        ("subject", {"subject": "a\nb"}),
        ("subject", {"subject": "a\0"}),
        ("subject", {"subject": "a\ud800"}),
        ("subject", {"subject": "=?utf-8?q?a=0Ab?="}),
        ("subject", {"subject": "x" * (MAX_SUBJECT + 1)}),
        ("body", {"body": None}),
        ("body", {"body": 5}),
        ("body", {"text": "t"}),
        ("body", {"html": "h"}),
        ("content_type", {"content_type": "text/plain"}),
        ("content_type", {"body": None, "text": "t", "content_type": "plain"}),
        ("return_path", {"return_path": "Bounces <b@example.com>"}),
        ("return_path", {"return_path": "b"}),
        ("return_path", {"return_path": "b@example.com> RET=FULL"}),
        ("message_id", {"message_id": ""}),
        ("message_id", {"message_id": "x"}),
        ("message_id", {"message_id": "<x@y"}),
        ("message_id", {"message_id": "<x@y> <z@y>"}),
        ("message_id", {"message_id": "x@y\r\nBcc: a@b"}),
        ("message_id", {"message_id": "x@y\n"}),
        ("message_id", {"message_id": "ü@y"}),
        ("message_id", {"message_id": "=?q@y"}),
        ("message_id", {"message_id": "x" * 250 + "@y"}),
        ("headers", {"headers": []}),
        ("headers", {"headers": {"X-A": 1}}),
        ("headers", {"headers": {"Bcc": "x@y.z"}}),
        ("headers", {"headers": {"X A": "x"}}),
        ("headers", {"headers": {"X-A": "x\r\nBcc: x@y.z"}}),
        ("headers", {"headers": {"X-A": "\ud800"}}),
        ("headers", {"headers": {f"X-{n}": "" for n in range(MAX_HEADERS + 1)}}),
        ("headers", {"headers": {"X-A": "x" * MAX_HEADERS_SIZE}}),
    ],
)
def test_a_refusal_names_the_field_and_says_why(field: str, changes: dict[str, object]) -> None:
    with pytest.raises(Invalid) as refused:
        build_message(fields(**changes))
    assert [problem.field for problem in refused.value.problems] == [field]
    assert all(problem.problem.isprintable() for problem in refused.value.problems)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
def test_what_was_stored_as_json_reads_the_same(subject: str, body: str) -> None:
    submission = fields(subject=subject, body=body)
    message: Message | None = None
    try:
        message = build_message(submission)
    except Invalid:
        assert not subject.isprintable() or "=?" in subject
    if message is not None:
        assert build_message(json.loads(json.dumps(submission))) == message
