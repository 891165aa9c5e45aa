"""Attachments: what a submission says of each, read and checked.

| field | value |
|---|---|
| `filename` | any name; what goes out is a safe one, without a marker `{MD5:…}` |
| `storage_path` | where the bytes are: see `FetchMode` |
| `fetch_mode` | how `storage_path` is meant; without it, its beginning says so |
| `mime_type` | type and subtype; without it, the name says so |
| `content_md5`, `content_sha256` | hex digests that the bytes must have |
| `auth` | credentials for `http_url` |
| `content_id` | the name by which the HTML shows it as an image, `cid:…` |
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import urlsplit

from mail_proxy.domain.errors import Invalid, Problem
from mail_proxy.domain.filename import media_type, safe_name
from mail_proxy.domain.secret import Secret
from mail_proxy.domain.tenant import ClientAuth, ClientAuthMethod

MAX_ATTACHMENTS = 100
MAX_NAME = 20_000
"""Characters of a filename as it is given; what goes out is shorter."""
MAX_PATH = 8000
"""Characters of a URL, a path or parameters."""
MAX_CREDENTIAL = 8192
MAX_CONTENT_ID = 200
INLINE = "inline"
"""The member of a stored submission that has the base64 texts, apart from what is shown."""

# Characters of base64 that are decoded at a time: a multiple of 4.
_PIECE = 64 * 1024

_MARKER = re.compile(r"[_-]?\{MD5:([^{}]*)\}")
_SHORT_MD5 = re.compile(r"[0-9A-Fa-f]{8,32}\Z")
_MD5 = re.compile(r"[0-9A-Fa-f]{32}\Z")
_SHA256 = re.compile(r"[0-9A-Fa-f]{64}\Z")
_BASE64 = re.compile(r"[A-Za-z0-9+/]*\Z")
_BASE64_END = re.compile(r"[A-Za-z0-9+/]*={0,2}\Z")
# RFC 2045 section 5.1, names as RFC 6838 section 4.2 restricts them.
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}\Z")
_CONTENT_ID = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.@-]+\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_NOT_IN_A_URL = re.compile(r"[\x00-\x20\x7f\\]")


class FetchMode(str, Enum):
    """Where the bytes of an attachment come from, and what `storage_path` is then."""

    BASE64 = "base64"
    """The bytes themselves, in base64, with or without `base64:` before them."""
    HTTP_URL = "http_url"
    """A URL to get."""
    FILESYSTEM = "filesystem"
    """A file of this machine."""
    ENDPOINT = "endpoint"
    """Parameters for the tenant's own endpoint, or the one for all."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """An attachment as it goes out, but for its bytes."""

    filename: str
    fetch_mode: FetchMode
    storage_path: str = field(repr=False)
    """For `BASE64` the checked text, without `base64:`; for others what is fetched."""
    mime_type: str
    content_md5: str | None = None
    """8 to 32 hex digits in small letters: how the MD5 of the bytes begins."""
    content_sha256: str | None = None
    content_id: str | None = None
    auth: ClientAuth = ClientAuth()  # noqa: RUF009 - a value that never changes

    def hash_problem(self, md5: str, sha256: str) -> str | None:
        """Say that bytes with these digests are not the ones that were named, or None."""
        if self.content_md5 is not None and not md5.startswith(self.content_md5):
            return f"its MD5 is {md5}, not {self.content_md5}"
        if self.content_sha256 is not None and sha256 != self.content_sha256:
            return f"its SHA-256 is {sha256}, not {self.content_sha256}"
        return None


def inferred_mode(storage_path: str) -> FetchMode:
    """Say how a `storage_path` is meant for which nothing was said."""
    if storage_path.startswith("base64:"):
        return FetchMode.BASE64
    if storage_path[:8].lower().startswith(("http://", "https://")):
        return FetchMode.HTTP_URL
    return FetchMode.FILESYSTEM if storage_path.startswith("/") else FetchMode.ENDPOINT


def decoded(text: str) -> Iterator[bytes]:
    """Yield the bytes of checked base64 in pieces."""
    for at in range(0, len(text), _PIECE):
        yield binascii.a2b_base64(text[at : at + _PIECE])


def decoded_size(text: str) -> int:
    """Return how many bytes a checked base64 text stands for."""
    return len(text) // 4 * 3 - text[-2:].count("=")


# -- as they are submitted ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Submitted:
    """Attachments of a submission, made into what is stored: `shown` is JSON to show, `inline` the base64 texts."""

    shown: Sequence[Mapping[str, object]]
    inline: Sequence[str | None]
    auths: Mapping[int, ClientAuth]
    """By position, those that have credentials of their own."""


def submitted(given: Sequence[Mapping[str, object]], max_bytes: int) -> Submitted:
    """Check attachments whose fields have the right types. Raises `Invalid`, naming the field (`attachments[2].auth`).

    Decodes what is inline, up to `max_bytes` each, and compares its digests: a wrong one is refused now, not later.
    """
    shown: list[Mapping[str, object]] = []
    inline: list[str | None] = []
    auths: dict[int, ClientAuth] = {}
    seen: set[str] = set()
    for n, fields in enumerate(given):
        attachment = _attachment(n, fields)
        if attachment.content_id is not None:
            if attachment.content_id in seen:
                raise _wrong(n, "content_id", "is that of another attachment too")
            seen.add(attachment.content_id)
        entry: dict[str, object] = {
            "filename": attachment.filename,
            "fetch_mode": attachment.fetch_mode.value,
            "mime_type": attachment.mime_type,
        }
        for name in ("content_md5", "content_sha256", "content_id"):
            if (value := getattr(attachment, name)) is not None:
                entry[name] = value
        if attachment.fetch_mode is FetchMode.BASE64:
            entry["size"] = _checked_bytes(n, attachment, max_bytes)
            inline.append(attachment.storage_path)
        else:
            entry["storage_path"] = attachment.storage_path
            inline.append(None)
        if attachment.auth.method is not ClientAuthMethod.NONE:
            auths[n] = attachment.auth
        shown.append(entry)
    return Submitted(shown, inline, auths)


def _wrong(n: int, name: str, problem: str) -> Invalid:
    return Invalid(Problem(f"attachments[{n}].{name}", problem))


def _attachment(n: int, given: Mapping[str, object]) -> Attachment:
    name, marker = _without_marker(n, _text(given, "filename") or "")
    storage_path = _text(given, "storage_path")
    if storage_path is None:
        raise _wrong(n, "storage_path", "is required")
    mode = _text(given, "fetch_mode")
    fetch_mode = inferred_mode(storage_path) if mode is None else FetchMode(mode)
    filename = safe_name(name)
    content_md5 = _digest(n, "content_md5", given, _MD5, 32) or marker
    attachment = Attachment(
        filename=filename,
        fetch_mode=fetch_mode,
        storage_path=_checked_path(n, fetch_mode, storage_path),
        mime_type=_checked_type(n, _text(given, "mime_type"), filename),
        content_md5=content_md5,
        content_sha256=_digest(n, "content_sha256", given, _SHA256, 64),
        content_id=_checked_id(n, _text(given, "content_id")),
        auth=_auth(n, given.get("auth")),
    )
    if attachment.auth.method is not ClientAuthMethod.NONE and fetch_mode is not FetchMode.HTTP_URL:
        raise _wrong(n, "auth", "goes with http_url only")
    return attachment


def _text(given: Mapping[str, object], name: str) -> str | None:
    value = given.get(name)
    return value if isinstance(value, str) else None


def _without_marker(n: int, filename: str) -> tuple[str, str | None]:
    """Take the marker `{MD5:…}` out of a filename, and one `_` or `-` before it."""
    found = _MARKER.search(filename)
    if found is None:
        return filename, None
    if not _SHORT_MD5.match(found[1]):
        raise _wrong(n, "filename", "has a marker {MD5:…} that does not consist of 8 to 32 hex digits")
    return filename[: found.start()] + filename[found.end() :], found[1].lower()


def _digest(n: int, name: str, given: Mapping[str, object], form: re.Pattern[str], digits: int) -> str | None:
    text = _text(given, name)
    if text is None:
        return None
    if not form.match(text):
        raise _wrong(n, name, f"must consist of {digits} hex digits")
    return text.lower()


def _checked_type(n: int, given: str | None, filename: str) -> str:
    if given is None:
        return media_type(filename)
    if not _MEDIA_TYPE.match(given):
        raise _wrong(n, "mime_type", "must have the form type/subtype, without parameters")
    if given.lower().startswith(("multipart/", "message/")):  # RFC 2046 sections 5.1 and 5.2.1: never in base64
        raise _wrong(n, "mime_type", "must not be a multipart or message type; application/octet-stream is for all")
    return given.lower()


def _checked_id(n: int, given: str | None) -> str | None:
    if given is None:
        return None
    if len(given) > MAX_CONTENT_ID or not _CONTENT_ID.match(given) or "=?" in given:
        problem = f"must be 1 to {MAX_CONTENT_ID} letters, digits and signs that a Message-ID may have, without < and >"
        raise _wrong(n, "content_id", problem)
    return given


def _auth(n: int, given: object) -> ClientAuth:
    if not isinstance(given, Mapping):
        return ClientAuth()
    token, user, password = (_text(given, name) for name in ("token", "user", "password"))
    for text in (token, user, password):
        if text is not None and (len(text) > MAX_CREDENTIAL or _CONTROL.search(text)):
            raise _wrong(n, "auth", "must not be longer than 8192 characters, nor have control characters")
    if given.get("method") == "bearer":
        if not token or user is not None or password is not None:
            raise _wrong(n, "auth", "of the method bearer needs token, and nothing else")
        if not token.isascii() or " " in token:
            raise _wrong(n, "auth", "has a token with characters that no header may carry")
        return ClientAuth(ClientAuthMethod.BEARER, token=Secret(token))
    if user is None or password is None or token is not None or ":" in user:
        raise _wrong(n, "auth", "of the method basic needs user, which has no colon, and password, and nothing else")
    return ClientAuth(ClientAuthMethod.BASIC, user=user, password=Secret(password))


def _checked_path(n: int, mode: FetchMode, given: str) -> str:
    if mode is FetchMode.BASE64:
        return _checked_base64(n, given.removeprefix("base64:"))
    if problem := _path_problem(mode, given):
        raise _wrong(n, "storage_path", problem)
    return given


def _path_problem(mode: FetchMode, given: str) -> str | None:
    if not given:
        return "must not be empty"
    if len(given) > MAX_PATH:
        return f"has more than {MAX_PATH} characters"
    if _CONTROL.search(given):
        return "must not contain control characters"
    if mode is FetchMode.HTTP_URL:
        return _url_problem(given)
    if mode is FetchMode.FILESYSTEM and ".." in given.split("/"):
        return "must not contain .."
    return None


def _url_problem(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0 or _NOT_IN_A_URL.search(url):
        return "must be a URL that begins with http:// or https:// and names a host"
    return "must not carry credentials; give them in auth" if "@" in parts.netloc else None


def _checked_base64(n: int, text: str) -> str:
    if len(text) % 4 or not all(
        (_BASE64 if at + _PIECE < len(text) else _BASE64_END).match(text[at : at + _PIECE])
        for at in range(0, len(text), _PIECE)
    ):
        raise _wrong(n, "storage_path", "must be base64, with its padding and without line breaks")
    return text


def _checked_bytes(n: int, attachment: Attachment, max_bytes: int) -> int:
    """Decode what is inline and return its size; nothing of it is kept."""
    size = decoded_size(attachment.storage_path)
    if size > max_bytes:
        raise _wrong(n, "storage_path", f"has {size} bytes, more than {max_bytes}")
    # No security hangs on MD5: it only names the content.
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    needed = [found for found, digest in ((md5, attachment.content_md5), (sha256, attachment.content_sha256)) if digest]
    try:
        for piece in decoded(attachment.storage_path):
            for found in needed:
                found.update(piece)
    except binascii.Error:
        raise _wrong(n, "storage_path", "must be base64, with its padding and without line breaks") from None
    for name, found, digest in (
        ("content_md5", md5, attachment.content_md5),
        ("content_sha256", sha256, attachment.content_sha256),
    ):
        if digest is not None and not found.hexdigest().startswith(digest):
            raise _wrong(n, name, f"is not that of the content, which is {found.hexdigest()}")
    return size


# -- as they are stored ------------------------------------------------------------------------------------------------


def read_stored(fields: Mapping[str, object], auths: Mapping[int, ClientAuth] | None = None) -> tuple[Attachment, ...]:
    """Read what `submitted` made, out of a stored submission; raises `Invalid` where it is damaged."""
    shown, inline = fields.get("attachments"), fields.get(INLINE)
    if shown is None:
        return ()
    try:
        texts = inline if isinstance(inline, list) else [None] * len(shown)  # type: ignore[arg-type]
        return tuple(
            Attachment(
                filename=entry["filename"],
                fetch_mode=FetchMode(entry["fetch_mode"]),
                storage_path=entry["storage_path"] if text is None else text,
                mime_type=entry["mime_type"],
                content_md5=entry.get("content_md5"),
                content_sha256=entry.get("content_sha256"),
                content_id=entry.get("content_id"),
                auth=(auths or {}).get(n, ClientAuth()),
            )
            for n, (entry, text) in enumerate(zip(shown, texts, strict=True))  # type: ignore[call-overload]
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Invalid(Problem("attachments", f"cannot be read ({type(error).__name__})")) from None
