"""One submitted item, looked at by itself: what it says, or why it cannot be taken."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

from pydantic import ValidationError

from mail_proxy.domain import attachment
from mail_proxy.domain.attachment import INLINE
from mail_proxy.domain.attachment_auth import digest_of, written
from mail_proxy.domain.errors import Invalid, Problem
from mail_proxy.domain.json_text import canonical, to_text
from mail_proxy.domain.message import Message, Priority
from mail_proxy.domain.secret import Secret
from mail_proxy.domain.submission import build_message
from mail_proxy.intake.addresses import rewritten
from mail_proxy.intake.receipt import Rejected, shown_field, shown_id
from mail_proxy.intake.submission import MAX_ID, MAX_METADATA, MessageIn, priority_of

MILLISECONDS = 1e11
"""From here on a time is taken for one in milliseconds: as seconds it lies beyond the year 5000, as milliseconds
after March 1973."""
LATEST = 1e10
"""A time after this (in the year 2286) is a mistake."""

MAX_DEPTH = 20
_FIELDS = frozenset(field.alias or name for name, field in MessageIn.model_fields.items())
DEFAULT_MAX_ATTACHMENT = 100_000_000
"""Bytes of one attachment."""
_WANTED = {
    "id": f"must be a text of 1 to {MAX_ID} characters",
    "to": "must be a text or a list of texts",
    "cc": "must be a text or a list of texts",
    "bcc": "must be a text or a list of texts",
    "reply_to": "must be a text or a list of texts",
    "content_type": "must be plain or html",
    "headers": "must be an object of names and texts",
    "priority": "must be 0, 1, 2 or 3, or immediate, high, medium or low",
    "deferred_ts": "must be a number: Unix seconds",
    "expires_ts": "must be a number: Unix seconds",
    "batch_code": f"must be a text of 1 to {MAX_ID} characters",
    "metadata": "must be an object",
    "attachments": "must be a list of objects",
    "fetch_mode": "must be base64, http_url, filesystem or endpoint",
    "auth": "must be an object of method (bearer or basic) and token, or user and password",
    "method": "must be bearer or basic",
}

_TOO_MUCH = {"string_too_long": "characters", "too_long": "entries"}

# Characters that are hashed at a time.
_PIECE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Accepted:
    """A submission that is fine by itself; whose it is and which account sends it is still to be found.

    `fields` is what is stored: the submission as JSON text, without nulls, domains in ASCII, no NUL in its bodies, and
    beside a complete message (`raw`) its size and Subject, so that it can be shown without it; `message` has no body of
    that one. Of its attachments the inline bytes stand apart, and the credentials in `auths`, to be sealed.
    """

    index: int
    id: str
    tenant_id: str | None
    account_id: str | None
    message: Message
    fields: str
    digest: str
    priority: Priority | None
    batch_code: str | None
    deferred_ts: float | None
    expires_ts: float | None
    auths: Secret | None = None
    too_late: bool = False
    """Its `expires_ts` has passed: it can only be one that was taken before."""


def check(
    index: int,
    item: object,
    now: float,
    max_attachment: int = DEFAULT_MAX_ATTACHMENT,
    traceparent: str | None = None,
) -> Accepted | Rejected:
    """Read one item of a batch, as it came out of the JSON parser. `now` is in Unix seconds, `max_attachment` bytes.

    `traceparent` is kept with it, last of all that is stored (`domain/trace_context.py`).
    """
    try:
        return _accepted(index, item, now, max_attachment, traceparent)
    except Invalid as invalid:
        problem = invalid.problems[0]
        return Rejected(
            index=index,
            id=shown_id(item, MAX_ID),
            field=shown_field(problem.field) or None,
            reason=problem.problem,
            code="id_invalid" if problem.field == "id" else "invalid",
        )


def digest(fields: Mapping[str, object]) -> str:
    """Return the same text for the same submission, whatever the order of its keys.

    Nulls count as absent. `tenant_id` is left out: a digest is only compared within a tenant, to which it may be given
    or implied. Everything else counts as it was given, not as it was understood: `high` and 1 are different contents.
    Raises `UnicodeEncodeError` for half of a surrogate pair.
    """  # G3
    content = {name: value for name, value in fields.items() if value is not None and name != "tenant_id"}
    if isinstance(raw := content.get("raw"), str):
        # Of a complete message its own digest is enough, and spares copies of what may be a hundred megabytes.
        content["raw"] = {"sha256": _sha256(raw)}
    if isinstance(attachments := content.get("attachments"), list):
        content["attachments"] = [_attachment_digest(each) for each in attachments]
    return hashlib.sha256(canonical(content)).hexdigest()


def _attachment_digest(given: dict[str, object]) -> dict[str, object]:
    """Leave out nulls, and put digests in the place of what is long or secret."""
    content = {name: value for name, value in given.items() if value is not None}
    if isinstance(path := content.get("storage_path"), str):
        content["storage_path"] = _sha256(path)
    if isinstance(auth := content.get("auth"), dict):
        content["auth"] = digest_of(auth)
    return content


def _sha256(text: str) -> str:
    found = hashlib.sha256()
    for at in range(0, len(text), _PIECE):
        found.update(text[at : at + _PIECE].encode("utf-8"))
    return found.hexdigest()


def _accepted(index: int, item: object, now: float, max_attachment: int, traceparent: str | None) -> Accepted:
    if not isinstance(item, dict):
        raise _wrong("", "a message must be an object")
    given = cast("dict[str, object]", item)
    submitted = _shape(given)
    _check_text("id", submitted.id, without="/")
    if submitted.id in {".", ".."}:
        raise _wrong("id", "must not be a path of dots: clients take it out of URLs")
    if submitted.batch_code is not None:
        _check_text("batch_code", submitted.batch_code)
    if submitted.metadata is not None:
        _check_metadata(submitted.metadata)
    _check_times(submitted.deferred_ts, submitted.expires_ts)
    fields = {name: value for name, value in given.items() if value is not None}
    fields |= rewritten(given) | _without_nul(given)
    auths: Secret | None = None
    if fields.get("raw") is None and (given_files := given.get("attachments")):
        files = attachment.submitted(cast("list[dict[str, object]]", given_files), max_attachment)
        fields |= {"attachments": files.shown, INLINE: files.inline}
        auths = written(files.auths)
    message = build_message(fields)
    if message.raw is not None:
        fields["raw_size"] = message.raw.size
        if message.raw.subject is not None:
            fields["raw_subject"] = message.raw.subject
        message = replace(message, raw=replace(message.raw, body=()))
    if traceparent is not None:
        fields["traceparent"] = traceparent
    try:
        content_digest = digest(given)
    except UnicodeEncodeError:
        raise _wrong(_surrogate_field(given), "must not contain half of a surrogate pair") from None
    return Accepted(
        index=index,
        id=submitted.id,
        tenant_id=submitted.tenant_id,
        account_id=submitted.account_id,
        message=message,
        fields=to_text(fields),
        digest=content_digest,
        priority=priority_of(submitted.priority),
        batch_code=submitted.batch_code,
        deferred_ts=submitted.deferred_ts,
        expires_ts=submitted.expires_ts,
        auths=auths,
        too_late=submitted.expires_ts is not None and submitted.expires_ts <= now,
    )


def _wrong(field: str, problem: str) -> Invalid:
    return Invalid(Problem(field, problem))


def _shape(given: dict[str, object]) -> MessageIn:
    for name in given:
        if name not in _FIELDS:
            raise _wrong(name, "is not a field of a message")
    try:
        return MessageIn.model_validate(given)
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False, include_input=False)
        # Of an alternative each branch complains; a length tells more than that it is not of the other type.
        error = next((one for one in errors if one["type"] in _TOO_MUCH), errors[0])
        field, name = _place(error["loc"])
        match error["type"]:
            case "missing":
                problem = "is required"
            case "string_too_long" | "too_long" as kind:
                problem = f"has more than {error['ctx']['max_length']} {_TOO_MUCH[kind]}"
            case "extra_forbidden":
                problem = "is not a field of an attachment"
            case _:
                problem = _WANTED.get(name, "must be a text")
        raise _wrong(field, problem) from None


def _place(loc: tuple[int | str, ...]) -> tuple[str, str]:
    """Return where an error is (`attachments[2].filename`), and the last name of that."""
    if loc[0] != "attachments" or len(loc) == 1:
        return str(loc[0]), str(loc[0])
    names = [str(each) for each in loc[2:]]
    return ".".join([f"attachments[{loc[1]}]", *names]), names[-1] if names else "attachments"


def _check_text(field: str, text: str, without: str = "") -> None:
    if not text.isprintable():
        raise _wrong(field, "must consist of printable characters")
    if without and without in text:
        raise _wrong(field, f"must not contain {without}")


def _check_metadata(metadata: dict[str, object]) -> None:
    """Walk through the metadata level by level, before anything recursive does, and end early where it is too much."""
    too_long = f"has more than {MAX_METADATA} octets as JSON"
    level: list[object] = [metadata]
    seen = depth = 0
    while level:
        if depth > MAX_DEPTH:
            raise _wrong("metadata", f"is nested more than {MAX_DEPTH} levels deep")
        deeper: list[object] = []
        for value in level:
            if isinstance(value, dict):
                deeper += value.keys()
                deeper += value.values()
            elif isinstance(value, list):
                deeper += value
            elif problem := _scalar_problem(value):
                raise _wrong("metadata", problem)
        seen += len(deeper)
        if seen > MAX_METADATA:
            raise _wrong("metadata", too_long)
        level = deeper
        depth += 1
    if len(to_text(metadata).encode("utf-8")) > MAX_METADATA:
        raise _wrong("metadata", too_long)


def _scalar_problem(value: object) -> str | None:
    match value:
        case bool() | None:
            return None
        case str():
            if len(value) > MAX_METADATA:
                return f"has more than {MAX_METADATA} octets as JSON"
            if "\0" in value:
                return "must not contain the character NUL"
            if not value.isprintable() and any("\ud800" <= character <= "\udfff" for character in value):
                return "must not contain half of a surrogate pair"
            return None
        case int():
            return None if value.bit_length() < 64 else "has a number that does not fit 64 bits"
        case float():
            return None if math.isfinite(value) else "has a number that is not finite"
        case _:
            return "must consist of what JSON has"


def _check_times(deferred_ts: float | None, expires_ts: float | None) -> None:
    for field, value in (("deferred_ts", deferred_ts), ("expires_ts", expires_ts)):
        if value is None:
            continue
        if value < 0:
            raise _wrong(field, "must not be negative")
        if value >= MILLISECONDS:
            raise _wrong(field, "looks like milliseconds; give Unix seconds")
        if value > LATEST:
            raise _wrong(field, "lies too far in the future; give Unix seconds")
    if expires_ts is None:
        return
    if deferred_ts is not None and expires_ts <= deferred_ts:
        raise _wrong("expires_ts", "must be later than deferred_ts")


def _surrogate_field(given: Mapping[str, object]) -> str:
    for name, value in given.items():
        try:
            canonical(value)
        except UnicodeEncodeError:
            return name
    return ""


def _without_nul(given: Mapping[str, object]) -> dict[str, object]:
    r"""Return the bodies that hold NUL, with U+FFFD in its place: databases refuse it, and so do receivers."""
    return {
        name: value.replace("\0", "\N{REPLACEMENT CHARACTER}")
        for name in ("body", "text", "html")
        if isinstance(value := given.get(name), str) and "\0" in value
    }
