"""Mailboxes: an address, and the name that is shown with it (RFC 5321 section 4.1.2, RFC 5322 section 3.4).

Reading is strict. What RFC 5322 keeps only for old mail (comments, groups, source routes, folding) is refused, and so
is what could be taken for something else further on: angle brackets, ESMTP parameters, encoded words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from mail_proxy.domain.header import spills_direction, text_problem
from mail_proxy.domain.value import value

MAX_LOCAL = 64
MAX_DOMAIN = 255
MAX_ADDRESS = 254
"""Octets of a path without its angle brackets (RFC 5321 section 4.5.3.1, erratum 1690)."""
MAX_DISPLAY_NAME = 255
_MAX_TEXT = 2 * MAX_DISPLAY_NAME + MAX_ADDRESS + 100

_ATEXT = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~-"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\Z")
_PLAIN = re.compile(rf"([{_ATEXT}]+(?:\.[{_ATEXT}]+)*)@{_LABEL}(?:\.{_LABEL})*\Z")
_DOT_ATOM = re.compile(rf"[\u00a1-\U0010ffff{_ATEXT}]+(?:\.[\u00a1-\U0010ffff{_ATEXT}]+)*\Z")
# Angle brackets would be legal here, and are what a careless parser ends the path at.
_QUOTED_LOCAL = re.compile(r'"(?:[^"\\<>]|\\[^<>])+"\Z')

_SEPARATORS = re.compile(r'\\.|["<>,]')
_NAMED = re.compile(r'(?:"((?:[^"\\]|\\.)*)" *|([^"<>]*))<([^<]*)>\Z')
_NOT_IN_UNQUOTED_NAME = re.compile(r"[()\[\]:;@\\,]")
_ESCAPED = re.compile(r"\\(.)")
_NEEDS_BACKSLASH = re.compile(r'(["\\])')


class MalformedAddress(ValueError):
    """A text is not a mailbox; `problem` says why, in one plain sentence."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


@value
class Mailbox:
    """One address with an optional display name; `address` is `local@domain` with the domain in ASCII."""

    address: str
    name: str = ""

    @property
    def domain(self) -> str:
        """The part after the last `@`."""
        return self.address.rpartition("@")[2]


def is_plain(address: str) -> bool:
    """True for an ASCII dot-atom at an ASCII domain within the limits of RFC 5321: nothing is left to check."""
    found = _PLAIN.match(address) if len(address) <= MAX_ADDRESS else None
    return found is not None and found.end(1) <= MAX_LOCAL and "=?" not in address


def is_plain_domain(domain: str) -> bool:
    """True for a domain of letters, digits and hyphens, in labels of at most 63."""
    return len(domain) <= MAX_DOMAIN and _DOMAIN.match(domain) is not None


def parse_mailbox(text: str) -> Mailbox:
    """Read `addr`, `Name <addr>` or `"Na, me" <addr>`.

    The local part may hold letters of any script (RFC 6531); the domain has to be in ASCII. Raises `MalformedAddress`.
    """
    if is_plain(text):
        return Mailbox(text)
    name, address = name_and_address(text)
    check_address(address)
    return Mailbox(address, name)


def parse_mailboxes(value: str | Sequence[str], most: int | None = None) -> tuple[Mailbox, ...]:
    """Read a list of mailboxes, or several in one text separated by commas; empty is no mailbox at all.

    Raises `MalformedAddress` for one that is wrong, and as soon as there are more than `most`.
    """
    mailboxes: list[Mailbox] = []
    for text in separated(value) if isinstance(value, str) else value:
        if len(mailboxes) == most:
            raise MalformedAddress(f"has more than {most} addresses")
        mailboxes.append(parse_mailbox(text))
    return tuple(mailboxes)


def separated(text: str) -> Iterator[str]:
    """Yield what stands between commas that are neither quoted nor in angle brackets; blanks are passed over."""
    start = 0
    quoted = bracketed = False
    for found in _SEPARATORS.finditer(text):
        match found[0]:
            case '"':
                quoted = not quoted
            case "<" if not quoted:
                bracketed = True
            case ">" if not quoted:
                bracketed = False
            case "," if not quoted and not bracketed:
                if piece := text[start : found.start()].strip(" "):
                    yield piece
                start = found.end()
            case _:
                continue
    if quoted:
        raise MalformedAddress("has a quotation mark that is not closed")
    if piece := text[start:].strip(" "):
        yield piece


def name_and_address(text: str) -> tuple[str, str]:
    """Take a mailbox apart: (display name, address), the name checked, the address not. Raises `MalformedAddress`."""
    text = text.strip(" ")
    if len(text) > _MAX_TEXT:
        raise MalformedAddress(f"{shown(text)} is too long")
    if not text.endswith(">"):
        return "", text
    found = _NAMED.match(text)
    if found is None:
        raise MalformedAddress(f"{shown(text)} is not of the form Name <address>")
    quoted, unquoted, address = found.groups()
    if quoted is None:
        if _NOT_IN_UNQUOTED_NAME.search(unquoted):
            raise MalformedAddress(f'the name in {shown(text)} has to stand in quotation marks: "Name" <address>')
        name = " ".join(filter(None, unquoted.split(" ")))
    else:
        name = _ESCAPED.sub(r"\1", quoted).strip(" ")
    if len(name) > MAX_DISPLAY_NAME:
        raise MalformedAddress(f"the name in {shown(text)} has more than {MAX_DISPLAY_NAME} characters")
    if problem := text_problem(name):
        raise MalformedAddress(f"the name in {shown(text)} {problem}")
    if not name.isprintable() and spills_direction(name):
        raise MalformedAddress(
            f"the name in {shown(text)} changes the direction of writing and does not change it back"
        )
    return name, address


def formatted(mailbox: Mailbox) -> str:
    """Write a mailbox so that `parse_mailbox` reads the same one."""
    if not mailbox.name:
        return mailbox.address
    return '"' + _NEEDS_BACKSLASH.sub(r"\\\1", mailbox.name) + f'" <{mailbox.address}>'


def check_address(address: str) -> None:
    """Raise `MalformedAddress` unless this is one address, with nothing around it, whose domain is in ASCII."""
    if is_plain(address):
        return
    if not address:
        raise MalformedAddress("an address is empty")
    local, at, domain = address.rpartition("@")
    if problem := text_problem(address):
        raise MalformedAddress(f"{shown(address)} {problem}")
    if not at or not local or not domain:
        raise MalformedAddress(f"{shown(address)} is not an address of the form local@domain")
    if "=?" in address:
        raise MalformedAddress(f"{shown(address)} holds an encoded word, which an address cannot")
    if not local.isprintable() or not (_DOT_ATOM.match(local) or _QUOTED_LOCAL.match(local)):
        raise MalformedAddress(f"the part before the @ of {shown(address)} is not valid")
    if not domain.isascii():
        raise MalformedAddress(f"the domain of {shown(address)} has to be written in ASCII (xn--…)")
    if not is_plain_domain(domain):
        raise MalformedAddress(f"the domain of {shown(address)} is not valid")
    if len(local.encode("utf-8")) > MAX_LOCAL or len(address.encode("utf-8")) > MAX_ADDRESS:
        raise MalformedAddress(f"{shown(address)} is too long: {MAX_LOCAL} octets before the @, {MAX_ADDRESS} in all")


def shown(text: str) -> str:
    """Quote a caller's text in a sentence: printable, and cut where it is long."""
    return repr(text if len(text) <= 80 else text[:79] + "…")
