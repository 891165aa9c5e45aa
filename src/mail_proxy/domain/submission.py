"""A submission's content becomes a message: the same reading at intake, where it decides, and at each attempt.

| field | value |
|---|---|
| `from` | one mailbox |
| `to`, `cc`, `bcc` | a list of mailboxes, or one text with commas between them; at least one recipient in all |
| `reply_to` | the same, and may be left out |
| `subject` | one line of text |
| `body`, `content_type` | one text, `plain` (default) or `html` |
| `text`, `html` | instead of `body`: one or both |
| `return_path` | the envelope's sender: an address; empty or `<>` for the null sender (RFC 5321 section 4.5.5) |
| `message_id` | with or without its angle brackets |
| `headers` | name to value |
| `attachments` | as `domain/attachment.py: submitted` made them |
| `raw` | instead of all that makes up the message (`NOT_WITH_RAW`): a complete message, in base64 |

A field that is null counts as absent. Fields about queueing (`id`, `priority`, …) are not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from mail_proxy.domain.address import Mailbox, MalformedAddress, check_address, parse_mailbox, parse_mailboxes
from mail_proxy.domain.attachment import read_stored
from mail_proxy.domain.errors import Invalid, Problem
from mail_proxy.domain.header import name_problem, text_problem
from mail_proxy.domain.message import Message
from mail_proxy.domain.raw import MalformedRaw, RawMessage, read_raw
from mail_proxy.domain.tenant import ClientAuth

MAX_RECIPIENTS = 1000
MAX_SUBJECT = 2000
MAX_HEADERS = 100
MAX_HEADERS_SIZE = 32 * 1024
"""Characters of all extra headers, names and values."""
MAX_MESSAGE_ID = 250
NOT_WITH_RAW = (
    "subject", "body", "content_type", "text", "html", "headers", "reply_to", "message_id", "attachments",
)  # fmt: skip
"""Fields that say what a complete message says itself."""

# The characters of RFC 5322 section 3.6.4; dots may stand anywhere, since some mailers put them so.
_MESSAGE_ID = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+@(?:[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+|\[[!-Z^-~]+\])\Z")


def build_message(fields: Mapping[str, object], auths: Mapping[int, ClientAuth] | None = None) -> Message:
    """Read what a submission asks to be sent. Raises `Invalid` with the first field that is wrong, and why.

    `auths` are the credentials of attachments, by position.
    """
    message = _complete(fields) if fields.get("raw") is not None else _composed(fields, auths)
    recipients = len(message.to) + len(message.cc) + len(message.bcc)
    if recipients == 0:
        raise _wrong("to", "at least one recipient is needed in to, cc or bcc")
    if recipients > MAX_RECIPIENTS:
        raise _wrong("to", f"to, cc and bcc have {recipients} recipients, more than {MAX_RECIPIENTS}")
    return message


def _composed(fields: Mapping[str, object], auths: Mapping[int, ClientAuth] | None) -> Message:
    text, html = _bodies(fields)
    return Message(
        sender=_sender(fields),
        to=_mailboxes(fields, "to"),
        cc=_mailboxes(fields, "cc"),
        bcc=_mailboxes(fields, "bcc"),
        subject=_subject(fields),
        text=text,
        html=html,
        reply_to=_mailboxes(fields, "reply_to"),
        return_path=_return_path(fields),
        message_id=_message_id(fields),
        headers=_headers(fields),
        attachments=read_stored(fields, auths),
    )


def _complete(fields: Mapping[str, object]) -> Message:
    for field in NOT_WITH_RAW:
        if fields.get(field) is not None:
            raise _wrong(field, "cannot be given together with raw, which is the whole message")
    sender, to, cc, bcc = _sender(fields), *(_mailboxes(fields, field) for field in ("to", "cc", "bcc"))
    return_path = _return_path(fields)
    raw = _raw(fields)
    return Message(sender, to, cc, bcc, subject="", return_path=return_path, message_id=_own_message_id(raw), raw=raw)


def _raw(fields: Mapping[str, object]) -> RawMessage:
    try:
        return read_raw(_text(fields, "raw") or "")
    except MalformedRaw as wrong:
        raise _wrong("raw", wrong.problem) from None


def _own_message_id(raw: RawMessage) -> str | None:
    """Return a complete message's own Message-ID, None where it is missing or has no form that is known."""
    try:
        return None if raw.message_id is None else _checked_message_id(raw.message_id)
    except Invalid:
        return None


def _wrong(field: str, problem: str) -> Invalid:
    return Invalid(Problem(field, problem))


def _text(fields: Mapping[str, object], field: str) -> str | None:
    value = fields.get(field)
    if value is None or isinstance(value, str):
        return value
    raise _wrong(field, "must be a text")


def _sender(fields: Mapping[str, object]) -> Mailbox:
    text = _text(fields, "from")
    if text is None:
        raise _wrong("from", "is required")
    try:
        return parse_mailbox(text)
    except MalformedAddress as wrong:
        raise _wrong("from", wrong.problem) from None


def _mailboxes(fields: Mapping[str, object], field: str) -> tuple[Mailbox, ...]:
    value = fields.get(field)
    if value is None:
        return ()
    if not isinstance(value, str) and not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
        raise _wrong(field, "must be a text or a list of texts")
    try:
        return parse_mailboxes(value, MAX_RECIPIENTS)
    except MalformedAddress as wrong:
        raise _wrong(field, wrong.problem) from None


def _subject(fields: Mapping[str, object]) -> str:
    subject = _text(fields, "subject")
    if subject is None:
        raise _wrong("subject", "is required")
    if len(subject) > MAX_SUBJECT:
        raise _wrong("subject", f"has more than {MAX_SUBJECT} characters")
    if problem := text_problem(subject):
        raise _wrong("subject", problem)
    return subject


def _bodies(fields: Mapping[str, object]) -> tuple[str | None, str | None]:
    body, content_type = _text(fields, "body"), _text(fields, "content_type")
    text, html = _text(fields, "text"), _text(fields, "html")
    if body is None:
        if text is None and html is None:
            raise _wrong("body", "is required, or else text, html or both")
        if content_type is not None:
            raise _wrong("content_type", "goes with body only, not with text and html")
        return text, html
    if text is not None or html is not None:
        raise _wrong("body", "cannot be given together with text or html")
    match content_type:
        case None | "plain":
            return body, None
        case "html":
            return None, body
        case _:
            raise _wrong("content_type", "must be plain or html")


def _return_path(fields: Mapping[str, object]) -> str | None:
    text = _text(fields, "return_path")
    if text is None:
        return None
    address = text.strip(" ")
    if address.startswith("<") and address.endswith(">"):
        address = address[1:-1]
    if not address:
        return ""
    try:
        check_address(address)
    except MalformedAddress as wrong:
        raise _wrong("return_path", wrong.problem) from None
    return address


def _message_id(fields: Mapping[str, object]) -> str | None:
    text = _text(fields, "message_id")
    return None if text is None else _checked_message_id(text)


def _checked_message_id(text: str) -> str:
    bare = text.strip(" ")
    if bare.startswith("<") and bare.endswith(">"):
        bare = bare[1:-1]
    if len(bare) > MAX_MESSAGE_ID:
        raise _wrong("message_id", f"has more than {MAX_MESSAGE_ID} characters")
    if not _MESSAGE_ID.match(bare) or "=?" in bare:
        raise _wrong("message_id", "must have the form local@domain, in ASCII, with or without angle brackets")
    return bare


def _headers(fields: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    value = fields.get("headers")
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise _wrong("headers", "must be an object of names and texts")
    if len(value) > MAX_HEADERS:
        raise _wrong("headers", f"has more than {MAX_HEADERS} headers")
    size = 0
    for name, text in value.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise _wrong("headers", "must be an object of names and texts")
        size += len(name) + len(text)
        if size > MAX_HEADERS_SIZE:
            raise _wrong("headers", f"has more than {MAX_HEADERS_SIZE} characters in all")
        if problem := name_problem(name):
            raise _wrong("headers", problem)
        if problem := text_problem(text):
            raise _wrong("headers", f"the value of {name} {problem}")
    return tuple(value.items())
