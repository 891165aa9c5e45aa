"""Addresses beyond plain ASCII: checked by the email-validator library, their domains put into ASCII (IDNA)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from email_validator import EmailNotValidError, validate_email

from mail_proxy.domain.address import (
    MAX_ADDRESS,
    Mailbox,
    MalformedAddress,
    formatted,
    is_plain,
    is_plain_domain,
    name_and_address,
    separated,
    shown,
)
from mail_proxy.domain.errors import Invalid, Problem

FIELDS = ("from", "to", "cc", "bcc", "reply_to", "return_path")

# Stands in for a domain that needs no check, so that one of a private network is not held against the local part.
_ANY_DOMAIN = "example.com"


def rewritten(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the address fields that have to be stored in another spelling than they came in; mostly none.

    Raises `Invalid` for an address that the library refuses. What is wrong in other ways is left to `build_message`.
    """
    changed: dict[str, object] = {}
    for field in FIELDS:
        value = fields.get(field)
        try:
            if isinstance(value, str):
                if not _ordinary(value):
                    changed[field] = _rewritten_text(value, several=field not in {"from", "return_path"})
            elif isinstance(value, list) and not all(map(_ordinary, value)):
                changed[field] = [_rewritten_mailbox(text) for text in value]
        except MalformedAddress as wrong:
            raise Invalid(Problem(field, wrong.problem)) from None
    return changed


def _ordinary(text: object) -> bool:
    """True where the domain's own check leaves nothing open: only other scripts and quoted local parts do."""
    return not isinstance(text, str) or (text.isascii() and '"@' not in text)


def _rewritten_text(text: str, *, several: bool) -> str:
    if not several:
        return _rewritten_mailbox(text)
    return ", ".join([_rewritten_mailbox(piece) for piece in separated(text)])


def _rewritten_mailbox(text: str) -> str:
    if _ordinary(text):
        return text
    name, address = name_and_address(text)
    if is_plain(address):
        return text
    spelled = _spelled(address)
    return text if spelled == address else formatted(Mailbox(spelled, name))


@lru_cache(maxsize=1024)
def _spelled(address: str) -> str:
    """Return the address as it is used from here on: its domain in ASCII, its local part in NFC (RFC 6532 3.1)."""
    local, at, domain = address.rpartition("@")
    if not at or len(address) > MAX_ADDRESS:
        return address  # Said better by the domain's own check.
    plain = is_plain_domain(domain)
    try:
        found = validate_email(
            f"{local}@{_ANY_DOMAIN if plain else domain}",
            allow_smtputf8=True,
            allow_quoted_local=True,
            allow_domain_literal=False,
            allow_display_name=False,
            check_deliverability=False,
            globally_deliverable=False,
            test_environment=True,
        )
    except EmailNotValidError as wrong:
        raise MalformedAddress(f"{shown(address)} is not valid. {wrong}") from None
    return f"{found.local_part}@{domain if plain else found.ascii_domain}"
