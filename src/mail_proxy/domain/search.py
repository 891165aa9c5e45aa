"""What is looked for in the texts of a message: parts of them, without regard to case, and values of its metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_IN_ASCII = re.compile(r"xn--[a-z0-9-]{1,59}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TextFilter:
    """Which texts a message must have; None means any. Every character means itself."""

    recipient: str | None = None
    """Part of the address of one of its recipients."""
    sender: str | None = None
    """Part of what was submitted as `from`."""
    subject: str | None = None
    """Part of its subject."""
    metadata: tuple[tuple[str, str], ...] = ()
    """Values of keys on the first level of its metadata, written as `as_text` does."""

    def __bool__(self) -> bool:
        """True where it asks for anything."""
        return self != TextFilter()


class Texts(NamedTuple):
    """The texts of one message, as far as they are asked for."""

    recipients: Sequence[str] = ()
    sender: str | None = None
    subject: str | None = None
    metadata: Mapping[str, object] | None = None


def fits(wanted: TextFilter, texts: Texts) -> bool:
    """Say whether a message has all that is wanted."""
    return (
        (wanted.recipient is None or any(_has(wanted.recipient, address) for address in texts.recipients))
        and (wanted.sender is None or _has(wanted.sender, texts.sender))
        and (wanted.subject is None or _has(wanted.subject, texts.subject))
        and all(as_text((texts.metadata or {}).get(key, [])) == value for key, value in wanted.metadata)
    )


def _has(part: str, text: str | None) -> bool:
    if text is None:
        return False
    return part.casefold() in text.casefold() or ("xn--" in text and part.casefold() in _readable(text).casefold())


def _readable(text: str) -> str:
    """Write domains of other scripts as people do; they are kept in ASCII (RFC 5890)."""
    return _IN_ASCII.sub(_label, text)


def _label(found: re.Match[str]) -> str:
    try:
        return found[0].encode("ascii").decode("idna")
    except UnicodeError:
        return found[0]


def as_text(value: object) -> str | None:
    """Write a value of metadata as it is searched for: a text as it is, a number, true, false and null as in JSON.

    None for lists and objects, which are not searched for.
    """
    if isinstance(value, str):
        return value
    return None if isinstance(value, list | dict) else json.dumps(value)
