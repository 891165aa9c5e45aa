"""Every field of a message, from the API to the octets that a mail server took."""

from __future__ import annotations

import base64
from email import message_from_string
from email.message import EmailMessage
from email.policy import SMTP

from tests.acceptance.sinks import running_sink
from tests.acceptance.tenants import new_tenant
from tests.support.instance import Instance, a_message
from tests.support.smtp_servers import Dialogue, scripted_server

HEAD = (
    b"From: Other <other@example.com>\r\nSubject: s\r\n"
    b"Date: Tue, 24 Nov 2026 10:00:00 +0100\r\nMessage-ID: <own@x.y>\r\n"
)


def complete(id_: str, data: bytes, **fields: object) -> dict[str, object]:
    """A complete message as it is submitted."""
    raw = base64.b64encode(data).decode()
    return {"id": id_, "from": "a@example.com", "to": "b@example.net", "raw": raw, **fields}


def read(content: bytes) -> EmailMessage:
    parsed = message_from_string(content.decode("utf-8"), policy=SMTP)
    assert isinstance(parsed, EmailMessage)
    return parsed


async def test_each_field_arrives_where_it_belongs_and_metadata_nowhere(shared: Instance) -> None:
    fields: dict[str, object] = {
        "from": "أحمد 🎉 n\u0303 <a@bücher.example>",
        "to": '"Rossi, Anna" <anna@example.org>, Änne <änne@例え.テスト>,bob@example.net',
        "cc": ["Carla <carla@example.org>", "BOB <bob@example.net>"],
        "bcc": "hidden@example.org",
        "reply_to": "help@bücher.example, desk@example.com",
        "subject": "Grüße 日本語 👨\u200d👩\u200d👧",
        "body": None,
        "text": "text é\n.\n",
        "html": "<p>html é",
        "headers": {"X-Campaign": "été", "List-Unsubscribe": "<https://example.com/u?x=1>"},
        "message_id": "<mine.1@example.com>",
        "return_path": "<bounces@bücher.example>",
        "metadata": {"canary": "Xyzzy"},
        "batch_code": "Xyzzy",
        "priority": "high",
    }
    async with running_sink() as sink, new_tenant(shared, sink.port) as acme:
        # Of two accounts the default one is taken; while there is one, that one.
        await acme.client.submit(a_message("M1", **fields), a_message("M2", return_path="", html="<p>", body=None))
        await sink.wait_for(2)
        await acme.put_account("default", sink.port, is_default=True)
        await acme.client.submit(a_message("M3", bcc="ü@example.org"))
        await sink.wait_for(3)
        accounts = [(await acme.client.message(id_))["account_id"] for id_ in ("M1", "M2", "M3")]
        shown = await acme.client.message("M1")
    assert accounts == ["main", "main", "default"]
    assert (shown["metadata"], shown["batch_code"], shown["priority"]) == ({"canary": "Xyzzy"}, "Xyzzy", 1)
    arrival, null_sender, unseen = (
        next(each for each in sink.arrivals if each.mail_id == id_) for id_ in ("M1", "M2", "M3")
    )
    assert b"xyzzy" not in arrival.content.lower()
    assert arrival.sender == "bounces@xn--bcher-kva.example"
    assert arrival.recipients == (
        "anna@example.org",
        "änne@xn--r8jz45g.xn--zckzah",
        "bob@example.net",
        "carla@example.org",
        "hidden@example.org",
    )
    parsed = read(arrival.content)
    assert [(each.display_name, each.addr_spec) for each in parsed["From"].addresses] == [
        ("أحمد 🎉 n\u0303", "a@xn--bcher-kva.example")
    ]
    assert [(each.display_name, each.addr_spec) for each in parsed["To"].addresses] == [
        ("Rossi, Anna", "anna@example.org"),
        ("Änne", "änne@xn--r8jz45g.xn--zckzah"),
        ("", "bob@example.net"),
    ]
    assert [each.display_name for each in parsed["Cc"].addresses] == ["Carla", "BOB"]
    assert [each.addr_spec for each in parsed["Reply-To"].addresses] == [
        "help@xn--bcher-kva.example",
        "desk@example.com",
    ]
    assert parsed["Subject"] == fields["subject"]
    assert parsed["Message-ID"] == "<mine.1@example.com>"
    assert parsed["X-Campaign"] == "été"
    assert parsed["List-Unsubscribe"] == "<https://example.com/u?x=1>"
    assert [part.get_content_type() for part in parsed.iter_parts()] == ["text/plain", "text/html"]
    assert [part.get_content() for part in parsed.iter_parts()] == ["text é\r\n.\r\n", "<p>html é\r\n"]
    assert len(parsed.keys()) == 12
    assert null_sender.sender in {"", "<>"}
    assert read(null_sender.content).get_content_type() == "text/html"
    assert unseen.recipients == ("b@example.net", "ü@example.org")
    assert unseen.content.isascii()


async def test_a_complete_message_arrives_byte_for_byte_and_is_shown_without_its_octets(shared: Instance) -> None:
    lines = b"".join(b"%06d .\r\n..\r\n.\r\n" % n for n in range(30_000))
    messages = {
        "plain": HEAD + b"DKIM-Signature: v=1;\r\n\tb=x\r\n\r\nMAIL FROM:<x@y>\r\n.\r\nQUIT\r\n",
        "eight-bit": HEAD + b"X-Utf8: \xc3\xa9\r\n\r\n\xff\xfe\r\n",
        "big": HEAD + b"\r\n" + lines,
    }
    async with running_sink() as sink, new_tenant(shared, sink.port) as acme:
        hidden = b"bcc : secret@example.org,\r\n more@example.org\r\n"
        submitted = [complete(id_, hidden + data, metadata={"n": 1}) for id_, data in messages.items()]
        await acme.client.submit(*submitted)
        await acme.client.submit(complete("loose", b"From: a@b.c\n\na\r.\rb", bcc="c@example.org", return_path="r@b.c"))
        await sink.wait_for(4)
        shown = await acme.client.message_when("big", "sent")
        assert (await acme.client.submit(submitted[0]))["duplicates"] == ["plain"]
        (other,) = (await acme.client.submit(complete("plain", HEAD + b"\r\nother")))["rejected"]
        (wrong,) = (await acme.client.submit(complete("wrong", HEAD) | {"raw": "*"}))["rejected"]
        listed = await acme.client.messages()
    assert other["code"] == "already_sent"
    assert (wrong["field"], wrong["code"]) == ("raw", "invalid")
    arrivals = {arrival.mail_id: arrival for arrival in sink.arrivals}
    for id_, data in messages.items():
        assert arrivals[id_].content == b"X-Genro-Mail-ID: " + id_.encode() + b"\r\n" + data
    loose = arrivals["loose"]
    assert (loose.sender, loose.recipients) == ("r@b.c", ("b@example.net", "c@example.org"))
    assert loose.content.endswith(b"From: a@b.c\r\n\r\na\r\n.\r\nb\r\n")
    assert [line.split(b":")[0] for line in loose.content.split(b"\r\n")[:4]] == [
        b"X-Genro-Mail-ID", b"Date", b"Message-ID", b"From"
    ]  # fmt: skip
    assert shown["message"] == {key: value for key, value in submitted[2].items() if key != "raw"} | {
        "raw_size": len(hidden + messages["big"]),
        "raw_subject": "s",
    }
    assert listed["big"]["message"] == shown["message"]
    assert "raw" not in listed["plain"]["message"]


async def test_what_an_old_server_cannot_take_fails_before_data_and_the_rest_goes_out(shared: Instance) -> None:
    old = Dialogue(extensions=["PIPELINING"])
    async with scripted_server(old) as server, new_tenant(shared, server.port) as acme:
        await acme.client.submit(
            complete("body", HEAD + b"\r\n\xe9\r\n"),
            complete("header", HEAD + "X: é\r\n\r\nx\r\n".encode()),
            a_message("to", ["é@example.org", "b@example.net"]),
            a_message("bcc", bcc="é@example.org"),
            a_message("text", subject="é", body="é"),
        )
        failed = [await acme.client.message_when(id_, "failed") for id_ in ("body", "header", "to")]
        partly = await acme.client.message_when("bcc", "sent")
        await acme.client.message_when("text", "sent")
    assert [message["error"].split(" the ")[0] for message in failed] == ["554 5.6.3", "554 5.6.7", "554 5.6.7"]
    assert [each["state"] for each in partly["recipients"]] == ["sent", "failed"]
    assert [recipients for _, recipients in old.transactions] == [("b@example.net",)] * 2
    assert all(content.isascii() for content in old.messages)
