"""`python tools/make_sync_client.py`: makes the synchronous client of the asynchronous one. `make format` runs it."""

from __future__ import annotations

import re
from pathlib import Path

CLIENT = Path(__file__).parents[1] / "src" / "mail_proxy" / "client"
SOURCE, MADE = CLIENT / "asynchronous.py", CLIENT / "synchronous.py"
_HEAD = '"""The client for programs without asyncio, made of `asynchronous.py` by `tools/make_sync_client.py`."""'
_WORDS = (
    (r"\[(\w+) async for \1 in (.+)\]", r"list(\2)"),
    (r"\basync (def|for|with) ", r"\1 "),
    (r"\bawait ", ""),
    (r"\bAsync(MailProxyClient|Messages|Events|Accounts|Tenants|CommandLog|Iterator)\b", r"\1"),
    (r"\bhttpx\.AsyncClient\b", "httpx.Client"),
    (r"\baclose\b", "close"),
    (r"\ba(read|iter_bytes)\b", r"\1"),
    (r"\b__a(enter|exit)__", r"__\1__"),
    (r"\basyncio\.sleep\b", "time.sleep"),
    (r"(?m)^import asyncio$", "import time"),
)


def synchronous(source: str) -> str:
    """Return the same client without waiting in an event loop."""
    text = _HEAD + source[source.index('"""', 3) + 3 :]
    for pattern, instead in _WORDS:
        text = re.sub(pattern, instead, text)
    return text


if __name__ == "__main__":
    MADE.write_text(synchronous(SOURCE.read_text(encoding="utf-8")), encoding="utf-8")
