"""The body of a report: `{"delivery_report": [entry, …]}`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from uuid import uuid4

from mail_proxy.domain.report import StoredEvent

_HEAD, _TAIL = b'{"delivery_report":[', b"]}"


@dataclass(frozen=True, slots=True)
class Posted:
    """One event of a report, without its text."""

    event_id: int
    message_pk: int


@dataclass(frozen=True, slots=True)
class Page:
    """A report as it goes out, and the events in it, in order."""

    payload: bytes
    events: tuple[Posted, ...]

    @property
    def report_id(self) -> str:
        """Return what tells this report from all others: the same for the same events, so that it can be recognised.

        An empty report is another one each time.
        """
        return f"report_{sha256(self.payload).hexdigest()[:32] if self.events else uuid4().hex}"

    def with_message_ids(self) -> Iterator[tuple[str, Posted]]:
        """Give each event with the id of its message. Decodes the payload: for the rare answer that names messages."""
        entries = json.loads(self.payload)["delivery_report"]
        return ((entry.get("id"), posted) for entry, posted in zip(entries, self.events, strict=True))


def build_page(events: Sequence[StoredEvent], max_events: int, max_bytes: int) -> Page:
    """Put as many events as fit into one report, from the first on; at least one if there is any.

    `max_bytes` counts the whole body. Each entry is the event's own text with `event_id` as first member.
    """
    parts: list[bytes] = []
    size = len(_HEAD) + len(_TAIL)
    for stored in events[:max_events]:
        part = spliced(stored)
        size += len(part) + bool(parts)
        if parts and size > max_bytes:
            break
        parts.append(part)
    posted = tuple(Posted(stored.event_id, stored.event.message_pk) for stored in events[: len(parts)])
    return Page(_HEAD + b",".join(parts) + _TAIL, posted)


def spliced(stored: StoredEvent) -> bytes:
    """Return an event's entry with its id as first member.

    It is spliced into the text: decoding and encoding that again would cost ten times as much.
    A lone surrogate, which UTF-8 cannot carry, becomes a question mark: it must not hold up the other events. G13
    """
    rest = stored.event.entry[1:]
    comma = "" if rest.lstrip().startswith("}") else ","
    return f'{{"event_id":"{stored.event_id}"{comma}{rest}'.encode(errors="replace")
