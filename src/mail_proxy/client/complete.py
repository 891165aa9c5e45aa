"""Complete messages (RFC 5322) as submissions: the bytes go out as they are."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from email.message import Message
from email.utils import getaddresses
from typing import Any


def submission(content: bytes, sender: str, recipients: Sequence[str], **more: object) -> dict[str, Any]:
    """Return what is submitted for a complete message; `more` are other fields, such as `priority`."""
    return {"from": sender, "to": list(recipients), "raw": base64.b64encode(content).decode("ascii"), **more}


def sender_of(message: Message) -> str:
    """Return whom a message says that it is from: `Sender`, else `From` (RFC 5322 section 3.6.2)."""
    found = getaddresses([str(each) for each in message.get_all("Sender") or message.get_all("From") or []])
    return found[0][1] if found else ""


def recipients_of(message: Message) -> list[str]:
    """Return everybody in `To`, `Cc` and `Bcc`, each once."""
    given = [str(each) for name in ("To", "Cc", "Bcc") for each in message.get_all(name) or []]
    return list(dict.fromkeys(address for _, address in getaddresses(given) if address))
